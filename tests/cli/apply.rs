//! What `apply` computes, and what it leaves alone.

use safetensors::tensor::Dtype;
use wgpu_optim::{Adam, cpu};

use crate::desk::{Desk, STEP, devices, head};

#[test]
fn a_step_on_the_cpu_is_the_librarys_to_the_bit() {
    let desk = Desk::new();
    desk.succeeds(&format!("{STEP} --grads g1.safetensors"));
    let mut optimizer = cpu::Optimizer::<Adam, f32>::new(Adam::PYTORCH, [("w", 5)]).expect("an optimizer");
    let mut w = desk.values("p.safetensors", "w");
    for grads in ["g0.safetensors", "g1.safetensors"] {
        optimizer.step(&mut [&mut w], &[&desk.values(grads, "w")]).expect("a step");
    }
    assert_eq!(desk.values("out.safetensors", "w"), w);
}

#[test]
fn a_step_on_an_adapter_is_that_of_the_cpu() {
    let desk = Desk::new();
    for device in devices() {
        desk.succeeds(&step(device, &format!("--grads g1.safetensors --out-params {device}.safetensors")));
        desk.succeeds(&format!("compare cpu.safetensors {device}.safetensors --before p.safetensors"));
    }
}

#[test]
fn the_header_is_the_inputs_byte_for_byte() {
    let desk = Desk::new();
    // Keys out of order, odd spaces, escapes, a tail of spaces: what no writer would write again.
    let header = "{ \"b\":{\"shape\" : [2], \"dtype\":\"F32\",\"data_offsets\":[4,12]},  \"__metadata__\": \
                  {\"z\":\"\\u00e9\", \"a\":\"\"}, \"\\u0061\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]} }   ";
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend([1.0f32, 2.0, 3.0].iter().flat_map(|x| x.to_le_bytes()));
    desk.bytes("p.safetensors", &file);
    desk.tensors("g0.safetensors", &[("a", &[], &[1.0]), ("b", &[2], &[1.0, -1.0])]);
    for device in devices() {
        desk.succeeds(&step(device, "--out-params out.safetensors"));
        let out = desk.read("out.safetensors");
        assert_eq!(head(&out), head(&file), "{device}");
        assert_eq!(out.len(), file.len());
        assert_ne!(out, file);
        assert_eq!(desk.read("p.safetensors"), file, "the input");
    }
}

#[test]
fn scalars_are_stepped_and_tensors_without_elements_come_through() {
    let desk = Desk::new();
    desk.tensors("p.safetensors", &[("scalar", &[], &[1.0]), ("empty", &[0, 3], &[]), ("one", &[1], &[2.0])]);
    desk.tensors("g0.safetensors", &[("scalar", &[], &[1.0]), ("empty", &[0, 3], &[]), ("one", &[1], &[-1.0])]);
    for device in devices() {
        desk.succeeds(&step(device, "--out-params out.safetensors --out-state state.safetensors"));
        let scalar = desk.values("out.safetensors", "scalar")[0];
        assert!((scalar - 0.999).abs() < 1e-6, "{device}: {scalar}");
        assert_eq!(desk.values("state.safetensors", "state.scalar.step"), [1.0]);
        desk.succeeds(&step(device, "--state state.safetensors --out-params again.safetensors"));
    }
}

#[test]
fn what_has_no_gradient_in_any_file_comes_through_whatever_its_type() {
    let desk = Desk::new();
    let (nan, half, ids) = (f32::NAN.to_le_bytes(), [1u8, 2, 3, 4], [9u8; 16]);
    let one = 1.0f32.to_le_bytes();
    let params = [
        ("frozen", Dtype::F32, &[1][..], &nan[..]),
        ("half", Dtype::F16, &[2], &half),
        ("ids", Dtype::I64, &[2], &ids),
        ("w", Dtype::F32, &[1], &one),
    ];
    desk.raw("p.safetensors", &params, Some(&[("format", "pt")]));
    desk.tensors("g0.safetensors", &[("w", &[1], &[1.0])]);
    for device in devices() {
        desk.succeeds(&step(device, "--out-params out.safetensors"));
        let (before, after) = (desk.read("p.safetensors"), desk.read("out.safetensors"));
        let (before, after) = (deserialize(&before), deserialize(&after));
        for name in ["frozen", "half", "ids"] {
            assert_eq!(
                before.tensor(name).expect(name).data(),
                after.tensor(name).expect(name).data(),
                "{device} {name}"
            );
        }
        assert_ne!(before.tensor("w").expect("w").data(), after.tensor("w").expect("w").data(), "{device}");
    }
}

fn deserialize(bytes: &[u8]) -> safetensors::SafeTensors<'_> {
    safetensors::SafeTensors::deserialize(bytes).expect("a sound file")
}

#[test]
fn a_gradient_that_is_absent_leaves_tensor_state_and_count_alone() {
    let desk = Desk::new();
    desk.tensors("none.safetensors", &[("w", &[5], &[0.3, 0.0, 0.3, -1e-8, -9.0])]);
    for device in devices() {
        let skipped = "--grads none.safetensors --grads g1.safetensors --out-params out.safetensors \
                       --out-state state.safetensors";
        desk.succeeds(&step(device, skipped));
        desk.tensors("b0.safetensors", &[("b", &[2], &desk.values("g0.safetensors", "b"))]);
        desk.tensors("b1.safetensors", &[("b", &[2], &desk.values("g1.safetensors", "b"))]);
        desk.succeeds(&format!(
            "apply --device {device} --config optim.toml --params p.safetensors --grads b0.safetensors \
             b1.safetensors --out-params b.safetensors"
        ));
        assert_eq!(desk.values("out.safetensors", "b"), desk.values("b.safetensors", "b"), "{device}");
        assert_eq!(desk.values("state.safetensors", "state.b.step"), [2.0], "{device}");
        assert_eq!(desk.values("state.safetensors", "state.w.step"), [3.0], "{device}");
    }
}

#[test]
fn groups_have_settings_of_their_own_and_the_first_match_wins() {
    let desk = Desk::new();
    let groups =
        "rule = \"adam\"\nlr = 0.5\n[[group]]\nmatch = \"^b$\"\nlr = 0.25\n[[group]]\nmatch = \"b\"\nlr = 0.125\n";
    desk.text("optim.toml", groups);
    for device in devices() {
        desk.succeeds(&step(device, "--out-params out.safetensors"));
        // The first step of Adam is lr, whatever the gradient.
        for (tensor, lr) in [("w", 0.5), ("b", 0.25)] {
            let (before, after) = (desk.values("p.safetensors", tensor)[0], desk.values("out.safetensors", tensor)[0]);
            assert!((before - after - lr).abs() < 1e-5, "{device} {tensor}: {before} to {after}");
        }
    }
}

#[test]
fn lists_give_each_step_its_own_value_also_in_groups() {
    let desk = Desk::new();
    desk.text(
        "lists.toml",
        "rule = \"adam\"\nlr = [0.5, 0.0]\nbeta1 = [0.9, 0.5]\n[[group]]\nmatch = \"b\"\nlr = [0.0, 0.25]\n",
    );
    for device in devices() {
        desk.succeeds(&format!(
            "apply --device {device} --config lists.toml --params p.safetensors --grads g0.safetensors g1.safetensors \
             --out-params out.safetensors"
        ));
        desk.text("optim.toml", "rule = \"adam\"\nlr = 0.5\n");
        desk.succeeds(&step(device, "--out-params once.safetensors"));
        assert_eq!(desk.values("out.safetensors", "w"), desk.values("once.safetensors", "w"), "{device}");
        let moved = desk.values("p.safetensors", "b")[1] - desk.values("out.safetensors", "b")[1];
        assert!(moved != 0.0 && moved.abs() < 0.25, "{device}: {moved}");
    }
}

#[test]
fn every_rule_and_preset_steps_on_every_device() {
    struct All(Vec<(&'static str, &'static str)>);
    impl wgpu_optim::rule::Visitor for All {
        fn rule<R: wgpu_optim::Rule>(&mut self) {
            self.0.extend(R::PRESETS.iter().map(|(rule, preset, _)| (*rule, *preset)));
        }
    }
    let mut all = All(Vec::new());
    wgpu_optim::rule::visit(&mut all);
    let desk = Desk::new();
    for (rule, preset) in all.0 {
        desk.text("optim.toml", &format!("rule = {rule:?}\npreset = {preset:?}\nlr = 0.01\nweight_decay = 0.1\n"));
        for device in devices() {
            let ran = desk.succeeds(&step(device, "--grads g1.safetensors --out-params out.safetensors"));
            assert!(
                ran.stdout.contains(&format!("2 tensors (7 elements), 2 steps of {rule} ({preset})")),
                "{}",
                ran.stdout
            );
        }
    }
}

#[test]
fn gradients_that_are_not_finite_are_applied_and_told() {
    let desk = Desk::new();
    desk.tensors("g0.safetensors", &[("w", &[5], &[f32::NAN, 1.0, f32::INFINITY, 1.0, f32::NAN])]);
    let ran = desk.succeeds(STEP);
    assert!(ran.stderr.contains("2 NaN and 1 infinite values, first in \"w\" of g0.safetensors"), "{}", ran.stderr);
    assert!(desk.values("out.safetensors", "w")[0].is_nan());
}

#[test]
fn a_file_without_gradients_is_a_step_of_nothing_and_told() {
    let desk = Desk::new();
    desk.tensors("nothing.safetensors", &[]);
    for device in devices() {
        let ran = desk.succeeds(&format!(
            "apply --device {device} --config optim.toml --params p.safetensors --grads nothing.safetensors \
             --out-params out.safetensors --out-state state.safetensors"
        ));
        assert!(ran.stderr.contains("warning: nothing.safetensors: no gradients"), "{}", ran.stderr);
        assert_eq!(desk.read("out.safetensors"), desk.read("p.safetensors"));
    }
}

#[test]
fn json_is_one_object_and_all_there_is_on_stdout() {
    let desk = Desk::new();
    desk.text("optim.toml", "rule = \"adam\"\n[[group]]\nmatch = \"nothing\"\n");
    for device in devices() {
        let ran = desk.succeeds(&step(device, "--json --out-params out.safetensors"));
        let told: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one JSON object");
        for (key, value) in [("tensors", 2), ("elements", 7), ("steps", 1)] {
            assert_eq!(told[key], value, "{key}");
        }
        assert_eq!(told["device"]["kind"], *device);
        assert!(told["seconds"].is_f64());
        assert!(told["warnings"][0].as_str().is_some_and(|warning| warning.contains("matches no tensor")), "{told}");
    }
}

#[test]
fn auto_says_what_it_took_and_why() {
    let desk = Desk::new();
    let ran = desk.succeeds(&step("auto", "--out-params out.safetensors"));
    assert!(ran.stderr.contains("note: stepping on "), "{}", ran.stderr);
}

/// A step of `g0.safetensors`.
fn step(device: &str, rest: &str) -> String {
    format!("apply --device {device} --config optim.toml --params p.safetensors --grads g0.safetensors {rest}")
}
