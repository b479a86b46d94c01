//! `devices`, and the choice of one.

use std::process::Command;

use crate::desk::{Desk, STEP, devices};

#[test]
fn adapters_are_listed_with_what_matters() {
    let desk = Desk::new();
    if devices().len() == 1 {
        return;
    }
    let adapters: serde_json::Value =
        serde_json::from_str(&desk.succeeds("devices --json").stdout).expect("a JSON list");
    let text = desk.succeeds("devices").stdout;
    for adapter in adapters.as_array().expect("a list") {
        assert!(adapter["limits"]["max_buffer_size"].as_u64().is_some_and(|size| size > 0), "{adapter}");
        assert!(adapter["features"]["SHADER_F16"].is_boolean(), "{adapter}");
        assert!(text.contains(adapter["name"].as_str().expect("a name")), "{text}");
        if adapter["software"] == true {
            assert!(text.contains("software adapter, not a GPU"), "{text}");
        }
    }
}

#[test]
fn no_adapter_is_an_empty_list_and_no_failure() {
    let list = |options: &[&str]| {
        let program = env!("CARGO_BIN_EXE_wgpu-optim");
        // No machine has DirectX and Metal both.
        let backend = if cfg!(windows) { "metal" } else { "dx12" };
        Command::new(program).env("WGPU_BACKEND", backend).arg("devices").args(options).output().expect("it starts")
    };
    let (json, text) = (list(&["--json"]), list(&[]));
    assert_eq!((json.status.code(), json.stdout.as_slice()), (Some(0), &b"[]\n"[..]));
    assert_eq!(text.status.code(), Some(0));
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("no adapter was found") && text.contains("lavapipe"), "{text}");
}

#[test]
fn a_part_of_a_name_picks_an_adapter_and_a_wrong_one_lists_what_there_is() {
    let desk = Desk::new();
    if devices().len() == 1 {
        return;
    }
    let adapters: serde_json::Value =
        serde_json::from_str(&desk.succeeds("devices --json").stdout).expect("a JSON list");
    let name = adapters[0]["name"].as_str().expect("a name");
    let part = name.split_whitespace().next().expect("a word").to_uppercase();
    let step = STEP.replace("--device cpu", "");
    let told = desk.succeeds(&format!("{step} --json --adapter {part}")).stdout;
    assert!(told.contains(name), "{told}");
    desk.run("devices");
    let desk = Desk::new();
    desk.refuses(&format!("{step} --adapter voodoo"), 2, &["no adapter has \"voodoo\" in its name", name]);
}
