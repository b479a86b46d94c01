//! Every trajectory of the real frameworks, stepped four times: by the oracle, by the twin, by the fast CPU, by the shader.

mod support;

use support::golden::compare::Rounding;
use support::golden::follow::{Held, at_the_start, follow};
use support::golden::settings::FromCanonical;
use support::golden::{Case, case, cases};
use support::paths::{Cpu, OnGpu, Path};
use support::{Gpu, gpu};
use wgpu_optim::chain::control::Measure;
use wgpu_optim::{Adam, Ema, Norm, RmsProp, Scaler};

/// `f64` against `f64`: roundings only.
const LIMIT: f64 = 1e-12;

/// Who steps.
enum On {
    Oracle,
    Twin,
    Fast,
    Shader(Gpu),
}

#[test]
fn the_oracle_is_the_framework() {
    each_case(&On::Oracle);
}

#[test]
fn the_twin_is_the_framework() {
    each_case(&On::Twin);
}

#[test]
fn the_fast_step_is_the_framework() {
    each_case(&On::Fast);
}

#[test]
fn the_shader_is_the_framework() {
    let Some(gpu) = gpu() else { return };
    each_case(&On::Shader(gpu));
}

#[test]
fn a_norm_is_the_frameworks() {
    let mut case = case("torch_adam_clip_grad_norm1");
    assert!(worst(&norms(&case), case.total_norm.as_ref().unwrap()) <= LIMIT);
    case.tensors[0].grads[1].as_mut().unwrap()[0] *= 1.001;
    assert!(worst(&norms(&case), case.total_norm.as_ref().unwrap()) > LIMIT);
}

#[test]
fn a_schedule_is_the_schedulers() {
    let driven: Vec<Case> = cases().into_iter().filter(|case| case.scheduler.is_some()).collect();
    assert!(driven.len() >= 3);
    for case in driven {
        let (lr, momentum): (Vec<f64>, Vec<f64>) = case.answered().unwrap().into_iter().unzip();
        let recorded = case.schedule.as_ref().unwrap().iter().copied();
        let (recorded_lr, recorded_momentum): (Vec<f64>, Vec<f64>) = recorded.unzip();
        assert!(worst(&lr, &recorded_lr) <= LIMIT, "{}: lr {lr:?}, not {recorded_lr:?}", case.name);
        assert!(worst(&momentum, &recorded_momentum) <= LIMIT, "{}: {momentum:?}", case.name);
        let off: Vec<f64> = lr.iter().map(|lr| lr * (1.0 + 1e-10)).collect();
        assert!(worst(&off, &recorded_lr) > LIMIT);
    }
}

#[test]
fn a_setting_off_by_a_thousandth_is_noticed() {
    for (setting, name) in [("beta1", "torch_adam_default"), ("alpha", "torch_rmsprop_alpha0.9")] {
        is_noticed(name, &format!("{setting} off by a thousandth"), |case| {
            let value = case.canonical[setting].as_f64().unwrap() * 0.999;
            case.canonical[setting] = value.into();
        });
    }
}

#[test]
fn a_clip_off_by_a_thousandth_is_noticed() {
    let clipped = [
        "torch_adam_clip_grad_norm1",
        "keras_adam_clipnorm1",
        "keras_adam_global_clipnorm1",
        "keras_adam_clipvalue0.5",
    ];
    for name in clipped {
        is_noticed(name, "a clip off by a thousandth", |case| case.chain.clip.as_mut().unwrap().max *= 1.001);
    }
}

#[test]
fn an_average_that_is_off_is_noticed() {
    for name in ["keras_adam_use_ema", "keras_adam_ema_overwrite3"] {
        is_noticed(name, "a decay off by a thousandth", |case| case.chain.ema.as_mut().unwrap().decay *= 0.999);
    }
    is_noticed("keras_adam_ema_overwrite3", "no overwriting", |case| {
        case.chain.ema = Some(Ema { overwrite_every: 0, ..case.chain.ema.clone().unwrap() });
    });
}

#[test]
fn a_scaler_that_is_off_is_noticed() {
    let scaler = |off: fn(&mut Scaler)| move |case: &mut Case| off(case.chain.scaler.as_mut().unwrap());
    for name in ["torch_adam_gradscaler", "torch_adam_fused_gradscaler"] {
        is_noticed(name, "growth a step late", scaler(|scaler| scaler.growth_interval += 1));
        is_noticed(name, "growth by another factor", scaler(|scaler| scaler.growth_factor *= 2.0));
        is_noticed(name, "too much backing off", scaler(|scaler| scaler.backoff_factor *= 0.5));
        is_noticed(name, "a step that is taken where it should be left out", steps_on_infinity);
        is_noticed(name, "a step that is left out where it should be taken", |case| {
            case.tensors[0].grads[0].as_mut().unwrap()[0] = f32::NAN;
        });
        is_noticed(name, "something that moves where nothing should", |case| {
            case.scaling.as_mut().unwrap()[0].found_inf = true;
        });
    }
}

#[test]
fn a_bit_that_moves_is_noticed() {
    let case = case("torch_adam_gradscaler");
    let mut path: Cpu<Adam, f32> = at_the_start(&case);
    let held = Held::by(&path);
    assert_eq!(held, Held::by(&path));
    let tensor = &case.tensors[0];
    let mut moments = vec![0.0; tensor.start.len()];
    moments[0] = f32::from_bits(1);
    path.set_state(&tensor.name, "exp_avg_sq", &moments);
    assert_ne!(held, Held::by(&path));
    path.set_state(&tensor.name, "exp_avg_sq", &vec![0.0; tensor.start.len()]);
    assert_eq!(held, Held::by(&path));
    path.set_step(&tensor.name, 1);
    assert_ne!(held, Held::by(&path));
}

/// Runs every case, and fails with the list of those that failed.
fn each_case(on: &On) {
    let mut failures = Vec::new();
    let cases = cases();
    assert!(cases.len() >= 57, "only {} cases were found", cases.len());
    for case in cases {
        match run(&case, on) {
            Ok(worst) => println!("{}: {worst:.3} of the tolerance", case.name),
            Err(failure) => failures.push(format!("{}: {failure}", case.name)),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Fails where a path passes although the case was changed.
fn is_noticed(name: &str, what: &str, change: impl Fn(&mut Case)) {
    let mut case = case(name);
    change(&mut case);
    let cpu = [("oracle", On::Oracle), ("twin", On::Twin), ("fast CPU", On::Fast)];
    for (path, on) in cpu.into_iter().chain(gpu().map(|gpu| ("shader", On::Shader(gpu)))) {
        match run(&case, &on) {
            Ok(worst) => panic!("{name} with {what} passed on the {path} at {worst:.3} of the tolerance"),
            Err(failure) => println!("{name} with {what} on the {path}: {failure}"),
        }
    }
}

fn run(case: &Case, on: &On) -> Result<f64, String> {
    match case.algo.as_str() {
        "adam" => run_rule::<Adam>(case, on),
        _ => run_rule::<RmsProp>(case, on),
    }
}

fn run_rule<R: FromCanonical>(case: &Case, on: &On) -> Result<f64, String> {
    match on {
        On::Oracle => follow(case, Cpu::<R, f64>::chained, Rounding::Oracle),
        On::Twin => follow(case, Cpu::<R, f32>::chained, Rounding::Single),
        On::Fast => follow(case, Cpu::<R, f32>::parallel, Rounding::Single),
        On::Shader(gpu) => {
            follow(case, |groups, chain, t| OnGpu::<R>::chained(gpu, groups, chain, t), Rounding::Single)
        }
    }
}

/// What becomes of an overflow whose gradient is zeroed and then stepped with: moments decay and the count goes on.
/// Nothing is told of the scale, so that the trajectory alone must give it away.
fn steps_on_infinity(case: &mut Case) {
    let scaling = case.scaling.take().unwrap();
    case.chain.scaler = None;
    for tensor in &mut case.tensors {
        for (step, grads) in scaling.iter().zip(&mut tensor.grads) {
            let unscaled = |g: f32| if g.is_finite() { g / step.before as f32 } else { 0.0 };
            grads.iter_mut().flatten().for_each(|g| *g = unscaled(*g));
        }
    }
}

/// The norm of all gradients of a case, by step.
fn norms(case: &Case) -> Vec<f64> {
    let of = |t: usize| {
        let grads = case.tensors.iter().filter_map(|tensor| tensor.grads[t].as_deref());
        grads.fold(Measure::default(), |all, grads| all.with(Measure::of(grads, Norm::L2), Norm::L2)).norm
    };
    (0..case.steps).map(of).collect()
}

/// The largest difference, as a share of what was recorded.
fn worst(answered: &[f64], recorded: &[f64]) -> f64 {
    assert_eq!(answered.len(), recorded.len());
    let share = |(a, b): (&f64, &f64)| if a == b { 0.0 } else { (a - b).abs() / b.abs() };
    answered
        .iter()
        .zip(recorded)
        .map(share)
        .fold(0.0, |worst, share| if share > worst || share.is_nan() { share } else { worst })
}
