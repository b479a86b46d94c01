//! Where outputs go, and that inputs are safe from them.

use std::fs;

use crate::desk::{Desk, STEP};

#[test]
fn an_output_that_is_an_input_is_refused_under_whatever_name() {
    let desk = Desk::new();
    for input in ["p.safetensors", "g0.safetensors", "optim.toml", "./p.safetensors"] {
        let line = STEP.replace("out.safetensors", input);
        desk.refuses(&line, 2, &["--out-params: ", "is the input", "inputs are never written to"]);
        desk.refuses(&format!("{STEP} --out-state {input}"), 2, &["--out-state: ", "is the input"]);
    }
}

#[cfg(unix)]
#[test]
fn links_to_an_input_are_refused_too() {
    let desk = Desk::new();
    std::os::unix::fs::symlink("p.safetensors", desk.path("soft")).expect("a link");
    fs::hard_link(desk.path("p.safetensors"), desk.path("hard")).expect("a link");
    fs::create_dir(desk.path("folder")).expect("a folder");
    std::os::unix::fs::symlink("..", desk.path("folder/up")).expect("a link");
    for link in ["soft", "hard", "folder/up/p.safetensors", "folder/../p.safetensors"] {
        desk.refuses(&STEP.replace("out.safetensors", link), 2, &["--out-params: ", "is the input p.safetensors"]);
    }
}

#[test]
fn two_outputs_of_one_name_are_refused() {
    let desk = Desk::new();
    let parts = ["--out-state and --out-params are one file"];
    desk.refuses(&format!("{STEP} --out-state out.safetensors"), 2, &parts);
    desk.refuses(&format!("{STEP} --out-state ./out.safetensors"), 2, &parts);
}

#[test]
fn a_folder_or_a_device_is_no_output() {
    let desk = Desk::new();
    fs::create_dir(desk.path("folder")).expect("a folder");
    for place in ["folder", if cfg!(unix) { "/dev/null" } else { "folder" }] {
        desk.refuses(&STEP.replace("out.safetensors", place), 2, &["is there and is not a regular file"]);
    }
    for place in ["..", "new/", "optim.toml/.", "folder/"] {
        desk.refuses(&STEP.replace("out.safetensors", place), 2, &["--out-params: ", "is no name for a file"]);
        desk.refuses(&format!("{STEP} --out-state {place}"), 2, &["--out-state: ", "is no name for a file"]);
    }
}

#[cfg(unix)]
#[test]
fn an_output_goes_where_a_link_leads_and_the_link_stays() {
    let desk = Desk::new();
    fs::create_dir(desk.path("disk")).expect("a folder");
    desk.text("disk/real", "old");
    std::os::unix::fs::symlink("disk/real", desk.path("link")).expect("a link");
    desk.succeeds(&STEP.replace("out.safetensors", "link"));
    assert!(desk.path("link").is_symlink());
    assert_eq!(desk.read("disk/real").len(), desk.read("p.safetensors").len());
    assert_eq!(fs::read_dir(desk.path("disk")).expect("the folder").count(), 1, "nothing besides is left");
    desk.refuses(&format!("{STEP} --out-state link").replace("out.safetensors", "disk/real"), 2, &["are one file"]);
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_to_no_file_is_no_output() {
    let desk = Desk::new();
    std::os::unix::fs::symlink("nowhere", desk.path("dangling")).expect("a link");
    std::os::unix::fs::symlink("round", desk.path("round")).expect("a link");
    for link in ["dangling", "round"] {
        desk.refuses(&STEP.replace("out.safetensors", link), 2, &["is a link that leads to no file"]);
        assert!(desk.path(link).is_symlink());
    }
}

#[test]
fn a_folder_that_is_not_there_fails_before_anything_is_written() {
    let desk = Desk::new();
    desk.refuses(&STEP.replace("out.safetensors", "none/out"), 1, &["cannot write none/out"]);
    desk.refuses(&format!("{STEP} --out-state none/state"), 1, &["cannot write none/state"]);
}

#[test]
fn an_output_that_is_there_is_replaced() {
    let desk = Desk::new();
    desk.text("out.safetensors", "old");
    desk.succeeds(STEP);
    assert_eq!(desk.read("out.safetensors").len(), desk.read("p.safetensors").len());
    assert_eq!(desk.files().len(), 5, "nothing besides is left");
}

#[cfg(unix)]
#[test]
fn outputs_have_the_rights_of_any_new_file_or_of_the_one_they_replace() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    let mode = |name: &str| fs::metadata(desk.path(name)).expect("a file").permissions().mode() & 0o777;
    desk.succeeds(STEP);
    assert_eq!(mode("out.safetensors"), mode("p.safetensors"));
    fs::set_permissions(desk.path("out.safetensors"), fs::Permissions::from_mode(0o600)).expect("rights");
    desk.succeeds(STEP);
    assert_eq!(mode("out.safetensors"), 0o600);
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_no_half_written_file() {
    let desk = Desk::new();
    let len = 100_000;
    desk.tensors("p.safetensors", &[("w", &[len], &vec![1.0; len])]);
    desk.tensors("g0.safetensors", &[("w", &[len], &vec![1.0; len])]);
    desk.text("out.safetensors", "old");
    let before = desk.files();
    // The parameters fit into the largest file that is allowed (in blocks of 512 bytes), the state does not.
    let line = format!("trap '' XFSZ; ulimit -f 1000; {} {STEP} --out-state state", env!("CARGO_BIN_EXE_wgpu-optim"));
    let folder = desk.path("");
    let ran = std::process::Command::new("sh").arg("-c").arg(line).current_dir(folder).output().expect("a shell");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{told}");
    assert!(told.contains("cannot write state"), "{told}");
    assert!(desk.files() == before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_no_text_is_a_name() {
    use std::os::unix::ffi::OsStrExt;
    let desk = Desk::new();
    let name = std::ffi::OsStr::from_bytes(b"out-\xff");
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_wgpu-optim"));
    let options = STEP.split_whitespace().filter(|word| !word.contains("out"));
    program.current_dir(desk.path("")).args(options).arg("--json").arg("--out-params").arg(name);
    let ran = program.output().expect("it starts");
    assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(desk.path("").join(name).is_file());
}
