//! Every trajectory of the real frameworks, stepped three times: by the oracle, by the twin, by the shader.

mod support;

use support::golden::{Case, FromCanonical, Tensor, files, load};
use support::paths::{Cpu, OnGpu, Path, Start};
use wgpu_optim::rule::{Rule, Value};
use wgpu_optim::{Adam, RmsProp};

/// How far from the reference a path may be.
#[derive(Clone, Copy)]
enum Rounding {
    /// `f64` against `f64`: the order of operations only.
    Oracle,
    /// `f32` against `f64`. The rule was set above the error of an honest implementation and below a change of
    /// any setting by a thousandth: see `tests/golden/README.md`.
    Single,
}

/// The share of the distance that a parameter has gone that `f32` may be off by.
const SHARE: f64 = 2e-6;
/// The same, where the reference is itself `f32`.
const SHARE_OF_SINGLE: f64 = 1e-5;

#[test]
fn the_oracle_is_the_framework() {
    each_case(|case| match case.algo.as_str() {
        "adam" => follow(&case, Cpu::<Adam, f64>::new, Rounding::Oracle),
        _ => follow(&case, Cpu::<RmsProp, f64>::new, Rounding::Oracle),
    });
}

#[test]
fn the_twin_is_the_framework() {
    each_case(|case| match case.algo.as_str() {
        "adam" => follow(&case, Cpu::<Adam, f32>::new, Rounding::Single),
        _ => follow(&case, Cpu::<RmsProp, f32>::new, Rounding::Single),
    });
}

#[test]
fn the_shader_is_the_framework() {
    let Some(gpu) = support::gpu() else { return };
    each_case(|case| match case.algo.as_str() {
        "adam" => follow(&case, |g, t| OnGpu::<Adam>::new(&gpu, g, t), Rounding::Single),
        _ => follow(&case, |g, t| OnGpu::<RmsProp>::new(&gpu, g, t), Rounding::Single),
    });
}

#[test]
fn a_setting_off_by_a_thousandth_is_noticed() {
    for (setting, name) in [("beta1", "torch_adam_default"), ("alpha", "torch_rmsprop_alpha0.9")] {
        let path = files().into_iter().find(|path| path.file_stem().is_some_and(|stem| stem == name)).unwrap();
        let mut case = load(&path);
        let value = case.canonical[setting].as_f64().unwrap() * 0.999;
        case.canonical[setting] = value.into();
        let off = match case.algo.as_str() {
            "adam" => follow(&case, Cpu::<Adam, f32>::new, Rounding::Single),
            _ => follow(&case, Cpu::<RmsProp, f32>::new, Rounding::Single),
        };
        assert!(off.is_err(), "{name} with {setting} off by a thousandth passed");
    }
}

/// Runs every case, and fails with the list of those that failed.
fn each_case(mut follow: impl FnMut(Case) -> Result<f64, String>) {
    let mut failures = Vec::new();
    let mut count = 0;
    for file in files() {
        let case = load(&file);
        let name = case.name.clone();
        count += 1;
        match follow(case) {
            Ok(worst) => println!("{name}: {worst:.3} of the tolerance"),
            Err(failure) => failures.push(format!("{name}: {failure}")),
        }
    }
    assert!(count >= 46, "only {count} cases were found");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Steps a case and compares at every step; the worst error as a share of the tolerance.
fn follow<R: FromCanonical, P: Path<R>>(
    case: &Case,
    make: impl FnOnce(&[R], &[Start]) -> P,
    rounding: Rounding,
) -> Result<f64, String> {
    let groups: Vec<R> = case.groups.iter().map(|own| settings(case, own)).collect();
    let tensors: Vec<Start> = case.tensors.iter().map(start).collect();
    let mut path = make(&groups, &tensors);
    restore(case, &mut path);
    let mut worst = 0f64;
    let mut trails: Vec<Trail> = case.tensors.iter().map(Trail::new).collect();
    for t in 0..case.steps {
        if let Some(schedule) = &case.schedule {
            path.retune(0, scheduled(&groups[0], schedule[t]));
        }
        let grads: Vec<Option<&[f32]>> = case.tensors.iter().map(|x| x.grads[t].as_deref()).collect();
        path.step(&grads);
        for ((tensor, trail), params) in case.tensors.iter().zip(&mut trails).zip(path.params()) {
            worst = worst.max(trail.compare(case, tensor, t, &params, rounding)?);
        }
    }
    for (tensor, trail) in case.tensors.iter().zip(&trails) {
        worst = worst.max(compare_state(case, tensor, trail, &path, rounding)?);
    }
    Ok(worst)
}

fn settings<R: FromCanonical>(case: &Case, own: &[(&'static str, f64)]) -> R {
    let mut settings = R::from_canonical(&case.canonical);
    for &(name, value) in own {
        settings.set(name, Value::Number(value)).unwrap();
    }
    settings
}

fn scheduled<R: FromCanonical>(settings: &R, (lr, cycled): (f64, f64)) -> R {
    let mut settings = settings.clone();
    settings.set("lr", Value::Number(lr)).unwrap();
    settings.set(<R as FromCanonical>::CYCLED, Value::Number(cycled)).unwrap();
    settings
}

fn start(tensor: &Tensor) -> Start {
    Start { name: tensor.name.clone(), group: tensor.group, params: tensor.start.clone() }
}

fn restore<R: Rule>(case: &Case, path: &mut impl Path<R>) {
    for tensor in &case.tensors {
        for (slot, values) in &tensor.before {
            if slot == "step" {
                path.set_step(&tensor.name, values[0] as u64);
            } else {
                let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
                path.set_state(&tensor.name, slot, &values);
            }
        }
    }
}

/// Where the reference of one tensor has been, by element.
struct Trail {
    last: Vec<f64>,
    largest: Vec<f64>,
    length: Vec<f64>,
}

impl Trail {
    fn new(tensor: &Tensor) -> Self {
        let last: Vec<f64> = tensor.start.iter().map(|&p| p.into()).collect();
        let largest = last.iter().map(|p| p.abs().max(1e-6)).collect();
        Self { length: vec![0.0; last.len()], largest, last }
    }

    fn compare(
        &mut self,
        case: &Case,
        tensor: &Tensor,
        t: usize,
        params: &[f64],
        rounding: Rounding,
    ) -> Result<f64, String> {
        let mut worst = 0f64;
        assert_eq!(params.len(), self.last.len());
        for (i, (&p, &reference)) in params.iter().zip(&tensor.reference[t]).enumerate() {
            let fail = |what: &str| Err(format!("step {}, {}[{i}]: {what}", t + 1, tensor.name));
            if class(p) != class(reference) {
                return fail(&format!("{p:e} for {reference:e}"));
            }
            if !reference.is_finite() {
                continue;
            }
            self.length[i] += (reference - self.last[i]).abs();
            self.largest[i] = self.largest[i].max(reference.abs());
            self.last[i] = reference;
            let tolerance = match rounding {
                Rounding::Oracle if case.exact => 1e-12 * (self.largest[i] + self.length[i]),
                _ => {
                    let share = if case.exact { SHARE } else { SHARE_OF_SINGLE };
                    let ulps = 2.0 * (t + 1) as f64 * ulp(self.largest[i]);
                    1e-5 * case.lr + ulps + share * self.length[i]
                }
            };
            // `f64` does not overflow where the framework's `f32` second moment did, which stops an element.
            if matches!(rounding, Rounding::Oracle) && overflowed(tensor, i) {
                continue;
            }
            let ratio = (p - reference).abs() / tolerance;
            if ratio > 1.0 {
                return fail(&format!("{p:e} for {reference:e}, {ratio:.2} of the tolerance"));
            }
            worst = worst.max(ratio);
        }
        Ok(worst)
    }
}

fn overflowed(tensor: &Tensor, i: usize) -> bool {
    tensor.after.iter().any(|(slot, values)| slot == "exp_avg_sq" && values[i] == f64::INFINITY)
}

fn class(x: f64) -> std::num::FpCategory {
    match x.classify() {
        std::num::FpCategory::Nan => std::num::FpCategory::Nan,
        std::num::FpCategory::Infinite => std::num::FpCategory::Infinite,
        _ => std::num::FpCategory::Normal,
    }
}

fn ulp(x: f64) -> f64 {
    let x = x as f32;
    f64::from(f32::from_bits(x.to_bits() + 1)) - f64::from(x)
}

/// The state after the last step.
fn compare_state<R: Rule>(
    case: &Case,
    tensor: &Tensor,
    trail: &Trail,
    path: &impl Path<R>,
    rounding: Rounding,
) -> Result<f64, String> {
    if !case.exact {
        return Ok(0.0);
    }
    assert!(!tensor.after.is_empty());
    let mut worst = 0f64;
    for (slot, reference) in &tensor.after {
        if slot == "step" {
            let step = path.step_of(&tensor.name) as f64;
            if step != reference[0] {
                return Err(format!("{} has taken {step} steps, not {}", tensor.name, reference[0]));
            }
            continue;
        }
        let state = path.state(&tensor.name, slot);
        assert_eq!(state.len(), reference.len());
        for (i, (&s, &r)) in state.iter().zip(reference).enumerate() {
            let tolerance = match rounding {
                Rounding::Oracle => 1e-12 * state_scale(case, tensor, trail, slot, reference, i) + 1e-300,
                Rounding::Single => state_tolerance(case, tensor, trail, slot, reference, i),
            };
            let ratio = (s - r).abs() / tolerance;
            if ratio.is_nan() || ratio > 1.0 {
                return Err(format!("{slot} of {}[{i}]: {s:e} for {r:e}, {ratio:.2}", tensor.name));
            }
            worst = worst.max(ratio);
        }
    }
    Ok(worst)
}

/// What an error of a slot is measured by: first moments by the largest gradient, which cancels in them; buffers
/// by the largest of the tensor; second moments by themselves.
fn state_scale(case: &Case, tensor: &Tensor, trail: &Trail, slot: &str, reference: &[f64], i: usize) -> f64 {
    let largest = || reference.iter().fold(0f64, |a, r| a.max(r.abs()));
    match slot {
        "exp_avg" | "grad_avg" => {
            let grads = tensor.grads.iter().flatten().map(|g| f64::from(g[i].abs()));
            let decayed = weight_decay(case, tensor) * trail.largest[i];
            reference[i].abs().max(grads.fold(0.0, f64::max) + decayed)
        }
        "momentum_buffer" => largest(),
        _ => reference[i].abs(),
    }
}

fn weight_decay(case: &Case, tensor: &Tensor) -> f64 {
    let own = case.groups[tensor.group].iter().find(|(name, _)| *name == "weight_decay");
    own.map_or(case.canonical["weight_decay"].as_f64().unwrap_or(0.0), |(_, value)| *value)
}

fn state_tolerance(case: &Case, tensor: &Tensor, trail: &Trail, slot: &str, reference: &[f64], i: usize) -> f64 {
    let scale = state_scale(case, tensor, trail, slot, reference, i);
    match slot {
        "exp_avg" | "grad_avg" => 1e-6 * scale + 1e-37,
        "momentum_buffer" => 2e-6 * scale + 1e-37,
        _ => (5e-6 + 2e-8 * case.steps as f64) * scale + 1e-37,
    }
}
