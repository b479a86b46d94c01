//! The state file: written, read back, and refused.

use safetensors::tensor::Dtype;
use safetensors::{SafeTensors, serialize};

use crate::desk::{Desk, STEP, devices};

/// A desk with the state after one step.
fn stepped() -> Desk {
    let desk = Desk::new();
    desk.succeeds(&format!("{STEP} --out-state s.safetensors"));
    desk
}

const RESUME: &str = "apply --device cpu --config optim.toml --params p.safetensors --grads g1.safetensors \
                      --out-params again.safetensors --state s.safetensors";

#[test]
fn going_on_is_the_same_as_never_having_stopped_to_the_bit() {
    let desk = Desk::new();
    for config in [
        "rule = \"adamw\"\namsgrad = true\n[[group]]\nmatch = \"b\"\nweight_decay = 0\n",
        "rule = \"rmsprop\"\npreset = \"keras\"\nmomentum = 0.9\ncentered = true\n",
    ] {
        desk.text("optim.toml", config);
        for device in devices() {
            let apply = format!("apply --device {device} --config optim.toml");
            let (g0, g1) = ("--grads g0.safetensors", "--grads g1.safetensors");
            desk.succeeds(&format!("{apply} --params p.safetensors {g0} {g1} {g0} --out-params a --out-state a-state"));
            desk.succeeds(&format!("{apply} --params p.safetensors {g0} --out-params b1 --out-state b1-state"));
            desk.succeeds(&format!(
                "{apply} --params b1 --state b1-state {g1} {g0} --out-params b2 --out-state b2-state"
            ));
            assert!(desk.read("a") == desk.read("b2"), "{device}: parameters");
            assert!(desk.read("a-state") == desk.read("b2-state"), "{device}: state");
        }
    }
}

#[test]
fn going_on_is_exact_also_where_a_gradient_comes_late() {
    let desk = Desk::new();
    desk.tensors("late.safetensors", &[("w", &[5], &[1.0, 2.0, 3.0, 4.0, 5.0])]);
    let apply = "apply --device cpu --config optim.toml";
    let (late, g0) = ("--grads late.safetensors", "--grads g0.safetensors");
    desk.succeeds(&format!("{apply} --params p.safetensors {late} {g0} --out-params a --out-state a-state"));
    desk.succeeds(&format!("{apply} --params p.safetensors {late} --out-params b1 --out-state b1-state"));
    desk.succeeds(&format!("{apply} --params b1 --state b1-state {g0} --out-params b2 --out-state b2-state"));
    assert!(desk.read("a") == desk.read("b2"));
    assert!(desk.read("a-state") == desk.read("b2-state"));
}

#[test]
fn state_crosses_between_devices() {
    let desk = Desk::new();
    for device in devices() {
        let apply = format!("apply --device {device} --config optim.toml --grads g1.safetensors");
        desk.succeeds(&format!("{STEP} --out-state s.safetensors"));
        desk.succeeds(&format!("{apply} --params out.safetensors --state s.safetensors --out-params {device}"));
        desk.succeeds(&format!("compare cpu {device} --before out.safetensors"));
    }
}

#[test]
fn keys_and_metadata_are_what_a_script_expects() {
    let desk = stepped();
    let bytes = desk.read("s.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("a sound file");
    let mut names = file.names();
    names.sort_unstable();
    let expected = ["b.exp_avg", "b.exp_avg_sq", "b.step", "w.exp_avg", "w.exp_avg_sq", "w.step"];
    assert_eq!(names, expected.map(|name| format!("state.{name}")));
    assert_eq!(file.tensor("state.w.step").expect("a step").shape(), [0usize; 0]);
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
    let metadata = header.metadata().as_ref().expect("metadata");
    for (key, value) in [("format", "wgpu-optim-state"), ("version", "1"), ("rule", "adam"), ("preset", "pytorch")] {
        assert_eq!(metadata[key], value);
    }
    assert_eq!(metadata["steps"], "{\"b\":1,\"w\":1}");
    let groups: serde_json::Value = serde_json::from_str(&metadata["groups"]).expect("JSON");
    assert_eq!(groups[0]["match"], serde_json::Value::Null);
    assert_eq!(groups[0]["settings"]["beta2"], 0.999);
    assert_eq!(groups[0]["settings"]["epsilon"], "outside");
}

#[test]
fn state_of_a_tensor_without_a_gradient_is_kept() {
    let desk = stepped();
    desk.tensors("w.safetensors", &[("w", &[5], &[1.0; 5])]);
    let line = RESUME.replace("g1.safetensors", "w.safetensors");
    desk.succeeds(&format!("{line} --out-state again-state"));
    for slot in ["exp_avg", "exp_avg_sq", "step"] {
        let key = format!("state.b.{slot}");
        assert_eq!(desk.values("s.safetensors", &key), desk.values("again-state", &key));
    }
    assert_eq!(desk.values("again-state", "state.w.step"), [2.0]);
}

#[test]
fn a_file_without_our_metadata_is_taken_with_its_steps() {
    let desk = stepped();
    desk.succeeds(&format!("{RESUME} --out-state ours"));
    let names = ["w.exp_avg", "w.exp_avg_sq", "w.step", "b.exp_avg", "b.exp_avg_sq", "b.step"];
    rewrite(&desk, &names, None);
    desk.succeeds(&format!("{RESUME} --out-state theirs"));
    assert!(desk.read("ours") == desk.read("theirs"));
}

/// Writes `s.safetensors` again with these of its tensors and this metadata.
fn rewrite(desk: &Desk, names: &[&str], metadata: Option<&[(&str, &str)]>) {
    let bytes = desk.read("s.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("a sound file");
    let names: Vec<String> = names.iter().map(|name| format!("state.{name}")).collect();
    let views = names.iter().map(|name| (name.as_str(), file.tensor(name).expect("a tensor")));
    let metadata = metadata.map(|pairs| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
    desk.bytes("s.safetensors", &serialize(views, metadata).expect("a file"));
}

#[test]
fn everything_that_does_not_fit_is_listed_at_once() {
    let desk = Desk::new();
    let tensors: [(&str, &[usize], &[f32]); 7] = [
        ("state.w.exp_avg", &[4], &[0.0; 4]),
        ("state.w.step", &[], &[1.5]),
        ("state.b.exp_avg", &[2], &[0.0; 2]),
        ("state.b.exp_avg_sq", &[2], &[0.0; 2]),
        ("state.b.max_exp_avg_sq", &[2], &[0.0; 2]),
        ("state.c.exp_avg", &[2], &[0.0; 2]),
        ("moment", &[1], &[0.0]),
    ];
    desk.tensors("s.safetensors", &tensors);
    let parts = [
        "s.safetensors: the state does not fit",
        "\"state.w.exp_avg_sq\" is missing",
        "\"state.w.exp_avg\" has shape [4], expected [5]",
        "\"state.w.step\" is 1.5, expected a whole number",
        "\"state.b.step\" is missing",
        "\"state.b.max_exp_avg_sq\" is not kept by the settings of all tensors",
        "\"state.c.exp_avg\": p.safetensors has no \"c\"",
        "\"moment\" is not of the form state.NAME.SLOT",
    ];
    desk.refuses(RESUME, 1, &parts);
}

#[test]
fn step_tensors_without_metadata_are_whole_numbers() {
    for step in [-1.0, 0.5, f32::NAN, f32::INFINITY, 16_777_216.0] {
        let desk = Desk::new();
        let slots: [(&str, &[usize], &[f32]); 3] = [
            ("state.b.exp_avg", &[2], &[0.0; 2]),
            ("state.b.exp_avg_sq", &[2], &[0.0; 2]),
            ("state.b.step", &[], &[step]),
        ];
        desk.tensors("s.safetensors", &slots);
        desk.refuses(RESUME, 1, &["\"state.b.step\" is", "expected a whole number from 0 to 2^24"]);
    }
}

#[test]
fn a_tensor_of_another_type_is_refused() {
    let desk = Desk::new();
    let slots: [crate::desk::Raw<'_>; 3] = [
        ("state.b.exp_avg", Dtype::F16, &[2], &[0; 4]),
        ("state.b.exp_avg_sq", Dtype::F32, &[2], &[0; 8]),
        ("state.b.step", Dtype::I64, &[], &[0; 8]),
    ];
    desk.raw("s.safetensors", &slots, None);
    desk.refuses(RESUME, 1, &["\"state.b.exp_avg\" is F16, expected F32", "\"state.b.step\" is I64, expected F32"]);
}

#[test]
fn a_tensor_with_a_gradient_and_no_state_is_refused_where_others_have_some() {
    let desk = stepped();
    rewrite(&desk, &["w.exp_avg", "w.exp_avg_sq", "w.step"], None);
    desk.refuses(RESUME, 1, &["\"b\" has a gradient, but \"state.b.exp_avg\" is missing"]);
}

#[test]
fn metadata_that_disagree_with_their_tensors_are_refused() {
    let desk = stepped();
    let text = String::from_utf8_lossy(&desk.read("s.safetensors")).into_owned();
    for (from, to, message) in [
        ("\\\"w\\\":1", "\\\"w\\\":2", "\"state.w.step\" is 1, but the metadata say 2"),
        ("\\\"w\\\":1", "\\\"v\\\":1", "the metadata have no step count of \"w\""),
        ("\\\"w\\\":1", "\\\"b\\\":1", "the key \"b\" is there twice"),
        ("\"version\":\"1\"", "\"version\":\"2\"", "of version 2"),
        ("\"rule\":\"adam\"", "\"rule\":\"sofa\"", "of rule \"sofa\""),
        ("\\\"beta2\\\"", "\\\"beta7\\\"", "the setting \"beta2\" is missing"),
    ] {
        assert!(text.contains(from), "{from} is not in the header");
        let bytes = desk.read("s.safetensors");
        let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).expect("it is there");
        let changed = [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat();
        let broken = Desk::new();
        broken.bytes("s.safetensors", &changed);
        broken.refuses(RESUME, 1, &["s.safetensors: ", message]);
    }
}

#[test]
fn a_tensor_cannot_have_state_and_be_without() {
    let desk = stepped();
    let bytes = desk.read("s.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("a sound file");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
    let mut metadata = header.metadata().clone().expect("metadata");
    metadata.insert("without_state".into(), "[\"w\"]".into());
    desk.bytes("s.safetensors", &serialize(file.tensors(), Some(metadata)).expect("a file"));
    desk.refuses(RESUME, 1, &["s.safetensors: the metadata say that \"w\" has no state, but it is there"]);
}

#[test]
fn steps_past_what_f32_holds_are_exact() {
    let desk = stepped();
    let bytes = desk.read("s.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("a sound file");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
    let mut metadata = header.metadata().clone().expect("metadata");
    metadata.insert("steps".into(), "{\"b\":16777217,\"w\":1}".into());
    let step = 16_777_217f32.to_le_bytes();
    let views = file.tensors().into_iter().map(|(name, view)| match name.as_str() {
        "state.b.step" => (name, safetensors::tensor::TensorView::new(Dtype::F32, vec![], &step).expect("a scalar")),
        _ => (name, view),
    });
    desk.bytes("s.safetensors", &serialize(views, Some(metadata)).expect("a file"));
    desk.succeeds(&format!("{RESUME} --out-state t.safetensors"));
    let bytes = desk.read("t.safetensors");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
    assert_eq!(header.metadata().as_ref().expect("metadata")["steps"], "{\"b\":16777218,\"w\":2}");
}

#[test]
fn state_of_another_rule_or_structure_is_refused() {
    let desk = stepped();
    desk.text("optim.toml", "rule = \"rmsprop\"\n");
    desk.refuses(RESUME, 1, &["s.safetensors: ", "of rule \"adam\", the config asks for \"rmsprop\""]);
    desk.text("optim.toml", "rule = \"adam\"\nnesterov = true\n");
    desk.refuses(RESUME, 1, &["made with nesterov = false, but all tensors of optim.toml have true"]);
    desk.text("optim.toml", "rule = \"adam\"\n[[group]]\nmatch = \"b\"\namsgrad = true\n");
    desk.refuses(RESUME, 1, &["\"state.b.max_exp_avg_sq\" is missing", "made with amsgrad = false"]);
}

#[test]
fn only_the_structure_that_changed_is_told() {
    let desk = stepped();
    for config in ["rule = \"adam\"\namsgrad = true\n", "rule = \"adam\"\n"] {
        desk.text("optim.toml", config);
        let told = desk.run(RESUME).stderr;
        assert!(!told.contains("nesterov") && !told.contains("amsgrad_over"), "{told}");
        desk.succeeds(&format!("{STEP} --out-state s.safetensors"));
    }
    desk.text("optim.toml", "rule = \"adam\"\namsgrad = true\namsgrad_over = \"corrected\"\n");
    desk.succeeds(&format!("{STEP} --out-state s.safetensors"));
    desk.text("optim.toml", "rule = \"adam\"\namsgrad = true\n");
    desk.refuses(RESUME, 1, &["made with amsgrad_over = \"corrected\", but all tensors of optim.toml have \"raw\""]);
}

#[test]
fn state_of_what_cannot_be_stepped_is_refused() {
    let desk = Desk::new();
    let zeros = [0; 16];
    desk.raw("p.safetensors", &[("w", Dtype::F32, &[1], &zeros[..4]), ("i", Dtype::I64, &[2], &zeros)], None);
    desk.tensors("g1.safetensors", &[("w", &[1], &[1.0])]);
    let slots: Vec<(&str, &[usize], &[f32])> = vec![
        ("state.w.exp_avg", &[1], &[0.0]),
        ("state.w.exp_avg_sq", &[1], &[0.0]),
        ("state.w.step", &[], &[1.0]),
        ("state.i.exp_avg", &[2], &[0.0; 2]),
    ];
    desk.tensors("s.safetensors", &slots);
    desk.refuses(
        RESUME,
        1,
        &["\"state.i.exp_avg\": \"i\" is I64 in p.safetensors, and only F32, F16 and BF16 have state"],
    );
}

#[test]
fn other_numbers_are_taken_from_the_config_and_told() {
    let desk = stepped();
    desk.text("optim.toml", "rule = \"adamw\"\nlr = 0.5\n");
    let told = desk.succeeds(RESUME).stderr;
    for part in [
        "note: the rule was adam in s.safetensors and is adamw in optim.toml",
        "note: lr was 0.001 in s.safetensors and is 0.5 in optim.toml (2 tensors)",
        "note: weight_decay was 0 in s.safetensors and is 0.01 in optim.toml (2 tensors)",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("beta1"), "{told}");
}
