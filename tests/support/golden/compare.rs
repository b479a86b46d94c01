//! How far from a framework a path may be. `tests/golden/README.md` tells where the numbers come from.

use wgpu_optim::Rule;
use wgpu_optim::chain::EMA;

use super::super::paths::Path;
use super::{Case, Tensor};

/// How far from the reference a path may be.
#[derive(Clone, Copy)]
pub enum Rounding {
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

/// Where the reference of one tensor has been, by element.
pub struct Trail {
    last: Vec<f64>,
    largest: Vec<f64>,
    length: Vec<f64>,
}

impl Trail {
    pub fn new(tensor: &Tensor) -> Self {
        let last: Vec<f64> = tensor.start.iter().map(|&p| p.into()).collect();
        let largest = last.iter().map(|p| p.abs().max(1e-6)).collect();
        Self { length: vec![0.0; last.len()], largest, last }
    }

    /// Compares one step of a tensor: parameters, and the average where there is one, which is off by no more than what it
    /// averages.
    pub fn compare<R: Rule>(
        &mut self,
        case: &Case,
        tensor: &Tensor,
        t: usize,
        (params, path): (&[f64], &(impl Path<R> + ?Sized)),
        rounding: Rounding,
    ) -> Result<f64, String> {
        self.go_on(&tensor.reference[t]);
        let at = At { case, tensor, t, rounding };
        let worst = self.compare_values(&at, "parameter", params, &tensor.reference[t])?;
        let Some(averages) = &tensor.averages else { return Ok(worst) };
        let average = self.compare_values(&at, "average", &path.state(&tensor.name, EMA), &averages[t])?;
        Ok(worst.max(average))
    }

    fn go_on(&mut self, reference: &[f64]) {
        for (i, &reference) in reference.iter().enumerate().filter(|(_, reference)| reference.is_finite()) {
            self.length[i] += (reference - self.last[i]).abs();
            self.largest[i] = self.largest[i].max(reference.abs());
            self.last[i] = reference;
        }
    }

    fn compare_values(&self, at: &At<'_>, what: &str, values: &[f64], reference: &[f64]) -> Result<f64, String> {
        let mut worst = 0f64;
        assert_eq!((values.len(), reference.len()), (self.last.len(), self.last.len()));
        for (i, (&p, &reference)) in values.iter().zip(reference).enumerate() {
            let fail = |off: &str| {
                let (t, name) = (at.t + 1, &at.tensor.name);
                Err(format!("step {t}, {what} {name}[{i}]: {p:e} for {reference:e}{off}"))
            };
            if class(p) != class(reference) {
                return fail("");
            }
            // `f64` does not overflow where the framework's `f32` second moment did, which stops an element.
            let stopped = matches!(at.rounding, Rounding::Oracle) && overflowed(at.tensor, i);
            if !reference.is_finite() || stopped {
                continue;
            }
            let ratio = (p - reference).abs() / self.tolerance(at, i);
            if ratio > 1.0 {
                return fail(&format!(", {ratio:.2} of the tolerance"));
            }
            worst = worst.max(ratio);
        }
        Ok(worst)
    }

    fn tolerance(&self, at: &At<'_>, i: usize) -> f64 {
        match at.rounding {
            Rounding::Oracle if at.case.exact => 1e-12 * (self.largest[i] + self.length[i]),
            _ => {
                let share = if at.case.exact { SHARE } else { SHARE_OF_SINGLE };
                let ulps = 2.0 * (at.t + 1) as f64 * ulp(self.largest[i]);
                1e-5 * at.case.lr + ulps + share * self.length[i]
            }
        }
    }
}

/// Where a comparison is.
struct At<'a> {
    case: &'a Case,
    tensor: &'a Tensor,
    t: usize,
    rounding: Rounding,
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
pub fn compare_state<R: Rule>(
    case: &Case,
    tensor: &Tensor,
    trail: &Trail,
    path: &(impl Path<R> + ?Sized),
    rounding: Rounding,
) -> Result<f64, String> {
    if !case.exact {
        return Ok(0.0);
    }
    assert!(!tensor.after.is_empty());
    let mut worst = 0f64;
    for (slot, reference) in &tensor.after {
        if slot == "step" {
            if let Some(step) = path.step_of(&tensor.name).filter(|&step| step as f64 != reference[0]) {
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
            let decayed = weight_decay(case, tensor) * trail.largest[i];
            reference[i].abs().max(case.largest_grad(tensor, i) + decayed)
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
