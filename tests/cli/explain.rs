//! `apply --explain`.

use crate::desk::{Desk, devices};

const EXPLAIN: &str = "apply --explain --config optim.toml --params p.safetensors";

#[test]
fn formulas_have_their_numbers_and_nothing_is_stepped() {
    let desk = Desk::new();
    desk.text("optim.toml", "rule = \"adam\"\nlr = 0.125\n[[group]]\nmatch = \"b\"\nmaximize = true\n");
    for device in devices() {
        let before = desk.files();
        let told =
            desk.succeeds(&format!("{EXPLAIN} --device {device} --grads g0.safetensors --out-params out")).stdout;
        for part in
            ["group 1 (match = \"b\"): 1 tensor, 2 elements", "g = -grad", "0.125 * (m / bc1)", "all other tensors"]
        {
            assert!(told.contains(part), "{part}: {told}");
        }
        for part in ["of exp_avg_sq", "windows     1", "dispatches  2", "staging"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(desk.files() == before);
    }
}

#[test]
fn gradients_may_be_left_out() {
    let told = Desk::new().succeeds(&format!("{EXPLAIN} --device cpu")).stdout;
    assert!(told.contains("all tensors: 2 tensors, 7 elements"), "{told}");
}

#[test]
fn what_no_device_of_default_limits_can_hold_is_still_explained_for_the_cpu() {
    let desk = Desk::new();
    let header = "{\"w\":{\"dtype\":\"F32\",\"shape\":[100000000],\"data_offsets\":[0,400000000]}}";
    desk.bytes("p.safetensors", &[&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat());
    let file = std::fs::OpenOptions::new().write(true).open(desk.path("p.safetensors")).expect("the file");
    file.set_len(8 + header.len() as u64 + 400_000_000).expect("a sparse file");
    let told = desk.succeeds(&format!("{EXPLAIN} --device cpu")).stdout;
    assert!(told.contains("impossible: range in an arena of \"w\": 100000000 elements, at most 67108864"), "{told}");
}

#[test]
fn lists_are_shown_whole() {
    let desk = Desk::new();
    desk.text("optim.toml", "rule = \"adam\"\nlr = [0.5, 0.25]\n");
    let told = desk.succeeds(&format!("{EXPLAIN} --device cpu --grads g0.safetensors g1.safetensors")).stdout;
    assert!(told.contains("lr = [0.5, 0.25]") && told.contains("formula of the first step"), "{told}");
}

#[test]
fn json_has_groups_and_plan() {
    let told = Desk::new().succeeds(&format!("{EXPLAIN} --device cpu --json")).stdout;
    let told: serde_json::Value = serde_json::from_str(&told).expect("one JSON object");
    assert_eq!(told["groups"][0]["settings"]["beta1"], 0.9);
    assert_eq!(told["groups"][0]["tensors"], serde_json::json!(["b", "w"]));
    assert_eq!(told["plan"]["slots"]["exp_avg"], 28);
    assert_eq!(told["plan"]["dispatches"][0]["lanes"], "quads");
}
