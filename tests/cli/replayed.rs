//! Trajectories of the frameworks, replayed through files: what is around an update does there what it does in them.

use crate::desk::{Desk, Ran, devices};
use crate::support::golden::{Case, Tensor, case};

/// A case, the config for it, and the same config with a number that is off.
const CASES: [(&str, &str, [&str; 2]); 6] = [
    (
        "torch_adam_clip_grad_norm1",
        "rule = \"adam\"\nlr = 0.01\n[clip]\nglobal_norm = 1.0\n",
        ["global_norm = 1.0", "global_norm = 1.001"],
    ),
    (
        "keras_adam_clipnorm1",
        "rule = \"adam\"\npreset = \"keras\"\nlr = 0.01\n[clip]\ntensor_norm = 1.0\n",
        ["tensor_norm", "global_norm"],
    ),
    (
        "keras_adam_global_clipnorm1",
        "rule = \"adam\"\npreset = \"keras\"\nlr = 0.01\n[clip]\nglobal_norm = 1\n",
        ["global_norm = 1\n", "global_norm = 1.001\n"],
    ),
    (
        "keras_adam_use_ema",
        "rule = \"adam\"\npreset = \"keras\"\nlr = 0.01\n[ema]\ndecay = 0.9\n",
        ["decay = 0.9", "decay = 0.8991"],
    ),
    (
        "torch_adam_gradscaler",
        "rule = \"adam\"\nlr = 0.01\n[scaler]\ninit_scale = 1024\ngrowth_interval = 3\n",
        ["growth_interval = 3", "growth_interval = 4"],
    ),
    (
        "torch_adam_onecycle",
        "rule = \"adam\"\nlr = 0.01\n[schedule]\nkind = \"one_cycle\"\nmax_lr = 0.05\ntotal_steps = 12\n",
        ["max_lr = 0.05", "max_lr = 0.05005"],
    ),
];

#[test]
fn a_run_over_files_ends_where_the_framework_does() {
    for (name, config, [from, to]) in CASES {
        let case = case(name);
        let desk = laid_out(&case);
        for device in devices() {
            desk.text("optim.toml", config);
            replay(&desk, &case, device);
            let worst = worst(&desk, &case);
            assert!(worst <= 1.0, "{name} on {device}: {worst:.3} of the tolerance");
            println!("{name} on {device}: {worst:.3} of the tolerance");
            // The comparison can fail.
            assert!(config.contains(from), "{name}");
            desk.text("optim.toml", &config.replace(from, to));
            replay(&desk, &case, device);
            let off = self::worst(&desk, &case);
            assert!(off.is_nan() || off > 1.0, "{name} with {to} on {device} passed at {off:.3}");
        }
    }
}

#[test]
fn a_skipped_step_is_told_with_the_scale_and_counts_for_nothing() {
    let (name, config, _) = CASES[4];
    let case = case(name);
    let (desk, scaling) = (laid_out(&case), case.scaling.as_ref().expect("a scaler"));
    desk.text("optim.toml", config);
    for device in devices() {
        let ran = replay(&desk, &case, device);
        let told: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("was skipped")).collect();
        let skips = scaling.iter().enumerate().filter(|(_, step)| step.found_inf);
        let expected: Vec<String> = skips
            .map(|(t, step)| {
                let scale = step.after;
                format!("note: step {} was skipped: a gradient was not finite; the scale is now {scale}", t + 1)
            })
            .collect();
        assert_eq!(told, expected, "{device}");
        assert!(!ran.stderr.contains("the gradients hold"), "{}", ran.stderr);
        let (skipped, last) = (expected.len(), scaling[case.steps - 1].after);
        let totals = format!("{skipped} of {} steps skipped; the scale is now {last}", case.steps);
        assert!(ran.stdout.contains(&totals), "{device}: {}", ran.stdout);
        let taken = (case.steps - skipped) as f32;
        assert_eq!(desk.values("state", &format!("state.{}.step", case.tensors[0].name)), [taken], "{device}");
    }
}

/// A folder with the parameters and gradients of a case.
fn laid_out(case: &Case) -> Desk {
    let desk = Desk::new();
    let shapes: Vec<[usize; 1]> = case.tensors.iter().map(|tensor| [tensor.start.len()]).collect();
    let write = |file: &str, values: &dyn Fn(&Tensor) -> Option<Vec<f32>>| {
        let all: Vec<_> = case.tensors.iter().map(values).collect();
        let named = case.tensors.iter().zip(&shapes).zip(&all);
        let some: Vec<(&str, &[usize], &[f32])> = named
            .filter_map(|((tensor, shape), values)| Some((tensor.name.as_str(), &shape[..], values.as_deref()?)))
            .collect();
        desk.tensors(file, &some);
    };
    write("p.safetensors", &|tensor| Some(tensor.start.clone()));
    for t in 0..case.steps {
        write(&format!("grad{t}"), &|tensor| tensor.grads[t].clone());
    }
    desk
}

fn replay(desk: &Desk, case: &Case, device: &str) -> Ran {
    let grads: Vec<String> = (0..case.steps).map(|t| format!("grad{t}")).collect();
    let ema = if case.chain.ema.is_some() { "--out-ema ema" } else { "" };
    desk.succeeds(&format!(
        "apply --device {device} --config optim.toml --params p.safetensors --grads {} --out-params out --out-state \
         state {ema}",
        grads.join(" ")
    ))
}

/// The largest distance of what was written from the framework's `f64` run, as a share of what `f32` may be off by.
fn worst(desk: &Desk, case: &Case) -> f64 {
    let mut worst = 0f64;
    for tensor in &case.tensors {
        let mut files = vec![("out", &tensor.reference)];
        files.extend(tensor.averages.as_ref().map(|averages| ("ema", averages)));
        for (file, reference) in files {
            let found = desk.values(file, &tensor.name);
            for (i, &found) in found.iter().enumerate() {
                let share = (f64::from(found) - reference[case.steps - 1][i]).abs() / tolerance(case, tensor, i);
                worst = if share.is_nan() { f64::NAN } else { worst.max(share) };
            }
        }
    }
    worst
}

/// That of `tests/golden.rs`: a share of the way that the parameter has gone, and roundings of each step.
fn tolerance(case: &Case, tensor: &Tensor, i: usize) -> f64 {
    let start = f64::from(tensor.start[i]);
    let (mut last, mut largest, mut length) = (start, start.abs(), 0.0);
    for reference in &tensor.reference {
        length += (reference[i] - last).abs();
        largest = f64::max(largest, reference[i].abs());
        last = reference[i];
    }
    1e-5 * case.lr + 2.0 * case.steps as f64 * largest * f64::from(f32::EPSILON) + 2e-6 * length
}
