//! A path along a case: stepped with its gradients, compared at every step.

use wgpu_optim::rule::{Rule, Value};
use wgpu_optim::{Chain, wgsl::Real};

use super::compare::{Rounding, Trail, compare_state};
use super::settings::FromCanonical;
use super::{Case, Scaled, Tensor};
use crate::support::paths::{Cpu, Path, Start};

/// Steps a case and compares at every step; the worst error as a share of the tolerance.
pub fn follow<R: FromCanonical, P: Path<R>>(
    case: &Case,
    make: impl FnOnce(&[R], &Chain, &[Start]) -> P,
    rounding: Rounding,
) -> Result<f64, String> {
    let groups: Vec<R> = case.groups.iter().map(|own| settings(case, own)).collect();
    let mut path = make(&groups, &case.chain, &starts(case));
    restore(case, &mut path);
    let mut worst = 0f64;
    let mut trails: Vec<Trail> = case.tensors.iter().map(Trail::new).collect();
    for t in 0..case.steps {
        if let Some(schedule) = &case.schedule {
            path.retune(0, scheduled(&groups[0], schedule[t]));
        }
        step(case, t, &mut path)?;
        for ((tensor, trail), params) in case.tensors.iter().zip(&mut trails).zip(path.params()) {
            worst = worst.max(trail.compare(case, tensor, t, (&params, &path), rounding)?);
        }
    }
    for (tensor, trail) in case.tensors.iter().zip(&trails) {
        worst = worst.max(compare_state(case, tensor, trail, &path, rounding)?);
    }
    Ok(worst)
}

/// The oracle or the twin, before the first step of a case.
pub fn at_the_start<R: FromCanonical, T: Real>(case: &Case) -> Cpu<R, T> {
    let groups: Vec<R> = case.groups.iter().map(|own| settings(case, own)).collect();
    Cpu::chained(&groups, &case.chain, &starts(case))
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
    settings.set(R::CYCLED.unwrap(), Value::Number(cycled)).unwrap();
    settings
}

fn starts(case: &Case) -> Vec<Start> {
    let start =
        |tensor: &Tensor| Start { name: tensor.name.clone(), group: tensor.group, params: tensor.start.clone() };
    case.tensors.iter().map(start).collect()
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

/// One step, and what the scaler makes of it.
fn step<R: Rule>(case: &Case, t: usize, path: &mut impl Path<R>) -> Result<(), String> {
    let grads: Vec<Option<&[f32]>> = case.tensors.iter().map(|x| x.grads[t].as_deref()).collect();
    let Some(scaling) = &case.scaling else {
        path.step(&grads);
        return Ok(());
    };
    let Scaled { before, after, found_inf } = scaling[t];
    let failed = |what: String| Err(format!("step {}: {what}", t + 1));
    if path.scale() != Some(before) {
        return failed(format!("the scale is {:?} before, not {before}", path.scale()));
    }
    let held = found_inf.then(|| Held::by(path));
    path.step(&grads);
    if path.scale() != Some(after) {
        return failed(format!("the scale is {:?} after, not {after}", path.scale()));
    }
    if held.is_some_and(|held| held != Held::by(path)) {
        return failed("what should have been left out has moved something".into());
    }
    let skipped = scaling[..=t].iter().filter(|step| step.found_inf).count() as u64;
    match path.skipped() {
        Some(found) if found != skipped => failed(format!("{found} steps were left out so far, not {skipped}")),
        _ => Ok(()),
    }
}

/// Everything that a step may move, as bits.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    values: Vec<Vec<u64>>,
    /// `None` where the device alone knows.
    steps: Vec<Option<u64>>,
}

impl Held {
    pub fn by<R: Rule>(path: &impl Path<R>) -> Self {
        let bits = |values: Vec<f64>| values.into_iter().map(f64::to_bits).collect();
        let mut values: Vec<Vec<u64>> = path.params().into_iter().map(bits).collect();
        for name in path.names() {
            values.extend(path.slots(name).into_iter().map(|slot| bits(path.state(name, slot))));
        }
        Self { values, steps: path.names().iter().map(|name| path.step_of(name)).collect() }
    }
}
