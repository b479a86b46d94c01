//! What clips, clamps and averages do to files.

use crate::desk::{Desk, STEP, devices, head};

#[test]
fn averages_have_the_layout_of_the_parameters() {
    let desk = Desk::new();
    desk.text("optim.toml", "rule = \"adam\"\nlr = 0.5\n[ema]\ndecay = 0.5\n");
    desk.tensors("w0", &[("w", &[5], &[1.0; 5])]);
    for device in devices() {
        let apply = format!("apply --device {device} --config optim.toml --params p.safetensors");
        desk.succeeds(&format!("{apply} --grads w0 --out-params out --out-ema ema --out-state state"));
        assert_eq!(head(&desk.read("ema")), head(&desk.read("p.safetensors")));
        // After one step the average is the parameters, and what has no gradient is what it was.
        assert_eq!(desk.values("ema", "w"), desk.values("out", "w"), "{device}");
        assert_eq!(desk.values("ema", "b"), desk.values("p.safetensors", "b"), "{device}");
        assert_eq!(desk.values("state", "state.w.ema"), desk.values("ema", "w"), "{device}");
        desk.succeeds(&format!("{apply} --grads w0 w0 --out-params two --out-ema ema"));
        let halves = desk.values("out", "w").into_iter().zip(desk.values("two", "w")).map(|(a, b)| 0.5 * a + 0.5 * b);
        for (found, half) in desk.values("ema", "w").into_iter().zip(halves) {
            assert!((found - half).abs() <= 1e-6 * half.abs().max(1.0), "{device}: {found} for {half}");
        }
        // What is not stepped any more keeps the average that it had.
        desk.tensors("b0", &[("b", &[2], &[1.0; 2])]);
        let first = desk.values("state", "state.w.ema");
        desk.succeeds(&format!("{apply} --state state --grads b0 --out-params three --out-ema ema --out-state again"));
        assert_eq!(desk.values("ema", "w"), first, "{device}");
        assert_eq!(desk.values("again", "state.w.ema"), first, "{device}");
    }
}

#[test]
fn a_tensor_that_has_taken_no_step_is_its_own_average() {
    let desk = Desk::new();
    desk.text("optim.toml", "rule = \"adam\"\n[scaler]\n[ema]\n");
    desk.tensors("inf", &[("w", &[5], &[f32::INFINITY; 5]), ("b", &[2], &[1.0; 2])]);
    for device in devices() {
        let apply = format!("apply --device {device} --config optim.toml --params p.safetensors --grads inf");
        let ran = desk.succeeds(&format!("{apply} --out-params out --out-ema ema --json"));
        assert!(desk.read("out") == desk.read("p.safetensors") && desk.read("ema") == desk.read("out"), "{device}");
        let told: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one JSON object");
        assert_eq!(told["scaler"]["skipped"], 1);
        assert_eq!(told["scaler"]["scale"], 32768.0);
        assert_eq!(told["out_ema"], "ema");
        assert!(ran.stderr.contains("note: step 1 was skipped: a gradient was not finite; the scale is now 32768"));
    }
}

#[test]
fn clips_and_clamps_do_what_they_say() {
    let desk = Desk::new();
    desk.tensors("p.safetensors", &[("w", &[2], &[0.0, 0.0]), ("b", &[1], &[0.0])]);
    desk.tensors("g0.safetensors", &[("w", &[2], &[3.0, -4.0]), ("b", &[1], &[12.0])]);
    // In RMSprop with alpha = 0.75 and eps = 1, a first step of lr 1 is g / (|g| / 2 + 1).
    let step = |g: f32| -g / (0.5 * g.abs() + 1.0);
    for (clip, [w0, w1, b]) in [
        ("value = 2", [2.0, -2.0, 2.0]),
        ("global_norm = 6.5", [1.5, -2.0, 6.0]),
        ("group_norm = 2.5", [1.5, -2.0, 2.5]),
        ("tensor_norm = 2.5\nform = \"keras\"", [1.5, -2.0, 2.5]),
        ("global_norm = 6\nnorm = \"inf\"\nform = \"optax\"", [1.5, -2.0, 6.0]),
        ("global_norm = 100", [3.0, -4.0, 12.0]),
    ] {
        let rest = "[[group]]\nmatch = \"b\"\n";
        let rule = "rule = \"rmsprop\"\nlr = 1\nalpha = 0.75\neps = 1\n";
        desk.text("optim.toml", &format!("{rule}[clip]\n{clip}\n[clamp]\nmax = 1.2\n{rest}"));
        for device in devices() {
            desk.succeeds(&STEP.replace("cpu", device));
            let found = [desk.values("out.safetensors", "w"), desk.values("out.safetensors", "b")].concat();
            for (found, expected) in found.into_iter().zip([w0, w1, b].map(step).map(|p: f32| p.min(1.2))) {
                assert!((found - expected).abs() < 1e-5, "{clip} on {device}: {found} for {expected}");
            }
        }
    }
}
