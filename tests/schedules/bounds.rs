//! No arguments that are taken lead to NaN, a negative lr or a momentum out of range, at any step.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use wgpu_optim::schedule::{
    AnnealStrategy, Base, Constant, Cosine, CosineWarmRestarts, Cyclic, Exponential, KerasCosineDecay,
    KerasExponentialDecay, KerasInverseTimeDecay, Kind, Linear, Mode, MultiStep, OneCycle, OptaxCosineDecay,
    OptaxCosineOnecycle, OptaxExponentialDecay, OptaxWarmupCosineDecay, Polynomial, Ramp, Schedule, Step,
    WarmupStableDecay,
};

type Numbers = [f64; 5];
type Steps = [u64; 3];

fn number() -> impl Strategy<Value = f64> {
    let special = [0.0, 1.0, f64::MIN_POSITIVE, 5e-324, 1e-300, 1e300, f64::MAX, -1e-9, f64::NAN, f64::INFINITY];
    prop_oneof![6 => 0.0..1.0, 2 => 1.0..1e6, 3 => prop::sample::select(special.to_vec())]
}

fn steps() -> impl Strategy<Value = u64> {
    let special = [0, 1, 2, 1 << 53, u64::MAX / 2, u64::MAX - 1, u64::MAX];
    prop_oneof![4 => 1..100_u64, 2 => any::<u64>(), 2 => prop::sample::select(special.to_vec())]
}

fn given() -> impl Strategy<Value = (Numbers, Steps, u8)> {
    let numbers = [number(), number(), number(), number(), number()];
    (numbers, [steps(), steps(), steps()], any::<u8>())
}

/// Every kind, made of the same numbers.
fn kinds(x: Numbers, n: Steps, choice: u8) -> Vec<Kind> {
    let flag = choice & 4 != 0;
    [factors(x, n), cycles(x, n, choice, flag), others(x, n, choice, flag)].concat()
}

fn factors(x: Numbers, n: Steps) -> Vec<Kind> {
    let mut milestones = n.to_vec();
    milestones.sort_unstable();
    vec![
        Constant { factor: x[0], total_iters: n[0] }.into(),
        Linear { start_factor: x[0], end_factor: x[1], total_iters: n[0] }.into(),
        Cosine { t_max: n[0], eta_min: x[0] }.into(),
        CosineWarmRestarts { t_0: n[0], t_mult: n[1], eta_min: x[0] }.into(),
        Step { step_size: n[0], gamma: x[0] }.into(),
        MultiStep { milestones, gamma: x[0] }.into(),
        Exponential { gamma: x[0] }.into(),
        Polynomial { total_iters: n[0], power: x[0] }.into(),
    ]
}

fn cycles(x: Numbers, n: Steps, choice: u8, flag: bool) -> Vec<Kind> {
    let one_cycle = OneCycle {
        max_lr: x[0],
        total_steps: n[0],
        pct_start: x[1],
        anneal_strategy: if choice & 1 == 0 { AnnealStrategy::Cos } else { AnnealStrategy::Linear },
        cycle_momentum: true,
        base_momentum: x[2],
        max_momentum: x[3],
        div_factor: x[4],
        final_div_factor: x[4],
        three_phase: flag,
    };
    let cyclic = Cyclic {
        base_lr: x[0],
        max_lr: x[0].max(x[1]),
        step_size_up: n[0],
        step_size_down: flag.then_some(n[1]),
        mode: [Mode::Triangular, Mode::Triangular2, Mode::ExpRange][usize::from(choice % 3)],
        gamma: x[2],
        cycle_momentum: true,
        base_momentum: x[3],
        max_momentum: x[3].max(x[4]),
    };
    vec![one_cycle.into(), cyclic.into()]
}

fn others(x: Numbers, n: Steps, choice: u8, staircase: bool) -> Vec<Kind> {
    let ramp = |choice: u8| [Ramp::Linear, Ramp::Cosine, Ramp::OneMinusSqrt][usize::from(choice % 3)];
    let stable = WarmupStableDecay {
        num_warmup_steps: n[0],
        num_stable_steps: n[1],
        num_decay_steps: n[2],
        warmup_type: ramp(choice),
        decay_type: ramp(choice / 3),
        min_lr_ratio: x[0],
        num_cycles: x[1],
    };
    let cosine = KerasCosineDecay {
        initial_learning_rate: x[0],
        decay_steps: n[0],
        alpha: x[1],
        warmup_target: Some(x[2]),
        warmup_steps: n[1],
    };
    let exponential = OptaxExponentialDecay {
        init_value: x[0],
        transition_steps: n[0],
        decay_rate: x[1],
        transition_begin: n[1],
        staircase,
        end_value: Some(x[2]),
    };
    let warmup = OptaxWarmupCosineDecay {
        init_value: x[0],
        peak_value: x[1],
        warmup_steps: n[0].min(n[1]),
        decay_steps: n[0].max(n[1]),
        end_value: x[2],
        exponent: x[3],
    };
    let onecycle = OptaxCosineOnecycle {
        transition_steps: n[0],
        peak_value: x[0],
        pct_start: x[1],
        div_factor: x[2],
        final_div_factor: x[3],
    };
    let (initial_learning_rate, decay_steps, decay_rate) = (x[0], n[0], x[1]);
    vec![
        stable.into(),
        cosine.into(),
        KerasExponentialDecay { initial_learning_rate, decay_steps, decay_rate, staircase }.into(),
        KerasInverseTimeDecay { initial_learning_rate, decay_steps, decay_rate, staircase }.into(),
        OptaxCosineDecay { init_value: x[0], decay_steps: n[0], alpha: x[1], exponent: x[2] }.into(),
        exponential.into(),
        warmup.into(),
        onecycle.into(),
    ]
}

fn stays_in_bounds(schedule: &Schedule, step: u64, lr: f64) -> Result<(), TestCaseError> {
    let point = schedule.at(step, Base { lr, momentum: Some(0.9) });
    prop_assert!(point.lr.is_finite() && point.lr >= 0.0, "{schedule:?} at {step} of {lr}: {point:?}");
    let momentum = point.momentum.unwrap();
    prop_assert!((0.0..1.0).contains(&momentum), "{schedule:?} at {step}: {point:?}");
    Ok(())
}

#[test]
fn what_check_takes_stays_in_bounds_at_every_step() {
    let mut taken: BTreeMap<&str, usize> = Kind::NAMES.iter().map(|name| (*name, 0)).collect();
    let counts = std::cell::RefCell::new(&mut taken);
    let lr = prop_oneof![4 => 0.0..1.0, 1 => prop::sample::select(vec![0.0, 5e-324, 1e300, f64::MAX])];
    let mut runner = TestRunner::new(Config { cases: 4000, failure_persistence: None, ..Config::default() });
    let strategy = (given(), [steps(), steps()], lr);
    let outcome = runner.run(&strategy, |((x, n, choice), random, lr)| {
        for kind in kinds(x, n, choice) {
            let name = kind.name();
            let schedule = Schedule { first: kind, then: Vec::new() };
            let near = n.iter().flat_map(|n| [n.saturating_sub(1), *n, n.saturating_add(1)]);
            let steps: Vec<u64> = near.chain(random).chain([0, 1, u64::MAX]).collect();
            if schedule.check().is_err() {
                // It need not mean anything, but it must not panic.
                steps.iter().for_each(|step| _ = schedule.at(*step, Base { lr, momentum: None }));
                continue;
            }
            *counts.borrow_mut().get_mut(name).unwrap() += 1;
            steps.iter().try_for_each(|step| stays_in_bounds(&schedule, *step, lr))?;
        }
        Ok(())
    });
    outcome.unwrap();
    for (name, count) in taken {
        assert!(count > 200, "only {count} of 4000 sets of arguments were taken for {name}");
    }
}
