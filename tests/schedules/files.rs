//! Schedules as tables of TOML and JSON.

use wgpu_optim::schedule::{
    AnnealStrategy, Constant, Cosine, CosineWarmRestarts, Cyclic, Exponential, KerasCosineDecay, KerasExponentialDecay,
    KerasInverseTimeDecay, Kind, Linear, Mode, MultiStep, OneCycle, OptaxCosineDecay, OptaxCosineOnecycle,
    OptaxExponentialDecay, OptaxWarmupCosineDecay, Polynomial, Ramp, Schedule, Step, WarmupStableDecay,
};

/// One of each kind, no argument at its default.
fn kinds() -> Vec<Kind> {
    vec![
        Constant { factor: 0.25, total_iters: 7 }.into(),
        Linear { start_factor: 0.1, end_factor: 0.9, total_iters: 11 }.into(),
        Cosine { t_max: 55, eta_min: 1e-5 }.into(),
        CosineWarmRestarts { t_0: 10, t_mult: 3, eta_min: 1e-6 }.into(),
        Step { step_size: 30, gamma: 0.3 }.into(),
        MultiStep { milestones: vec![5, 5, 9], gamma: 0.7 }.into(),
        Exponential { gamma: 0.95 }.into(),
        Polynomial { total_iters: 40, power: 0.5 }.into(),
        OneCycle {
            max_lr: 0.1,
            total_steps: 60,
            pct_start: 0.4,
            anneal_strategy: AnnealStrategy::Linear,
            cycle_momentum: false,
            base_momentum: 0.5,
            max_momentum: 0.6,
            div_factor: 10.0,
            final_div_factor: 100.0,
            three_phase: true,
        }
        .into(),
        Cyclic {
            base_lr: 0.01,
            max_lr: 0.1,
            step_size_up: 5,
            step_size_down: Some(6),
            mode: Mode::ExpRange,
            gamma: 0.99,
            cycle_momentum: false,
            base_momentum: 0.5,
            max_momentum: 0.6,
        }
        .into(),
        WarmupStableDecay {
            num_warmup_steps: 1,
            num_stable_steps: 2,
            num_decay_steps: 3,
            warmup_type: Ramp::Cosine,
            decay_type: Ramp::OneMinusSqrt,
            min_lr_ratio: 0.1,
            num_cycles: 1.5,
        }
        .into(),
        KerasCosineDecay {
            initial_learning_rate: 0.001,
            decay_steps: 50,
            alpha: 0.1,
            warmup_target: Some(0.01),
            warmup_steps: 8,
        }
        .into(),
        KerasExponentialDecay { initial_learning_rate: 0.01, decay_steps: 5, decay_rate: 0.5, staircase: true }.into(),
        KerasInverseTimeDecay { initial_learning_rate: 0.01, decay_steps: 5, decay_rate: 0.5, staircase: true }.into(),
        OptaxCosineDecay { init_value: 0.01, decay_steps: 50, alpha: 0.1, exponent: 2.0 }.into(),
        OptaxExponentialDecay {
            init_value: 0.01,
            transition_steps: 10,
            decay_rate: 0.5,
            transition_begin: 3,
            staircase: true,
            end_value: Some(0.001),
        }
        .into(),
        OptaxWarmupCosineDecay {
            init_value: 0.001,
            peak_value: 0.01,
            warmup_steps: 8,
            decay_steps: 60,
            end_value: 1e-4,
            exponent: 2.0,
        }
        .into(),
        OptaxCosineOnecycle {
            transition_steps: 60,
            peak_value: 0.1,
            pct_start: 0.4,
            div_factor: 10.0,
            final_div_factor: 100.0,
        }
        .into(),
    ]
}

/// Those that have defaults to keep, with nothing else given.
fn plain() -> Vec<Kind> {
    vec![
        Constant::default().into(),
        OneCycle::new(0.1, 60).into(),
        Cyclic::new(0.01, 0.1).into(),
        KerasCosineDecay::new(0.01, 50).into(),
        OptaxExponentialDecay::new(0.01, 10, 0.5).into(),
    ]
}

fn alone(first: Kind) -> Schedule {
    Schedule { first, then: Vec::new() }
}

fn there_and_back(schedule: &Schedule) {
    let toml = toml::to_string(schedule).unwrap();
    assert_eq!(toml::from_str::<Schedule>(&toml).unwrap(), *schedule, "{toml}");
    let json = serde_json::to_string(schedule).unwrap();
    assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), *schedule, "{json}");
}

#[test]
fn every_kind_comes_back_as_it_was() {
    let names: Vec<&str> = kinds().iter().map(Kind::name).collect();
    assert_eq!(names, Kind::NAMES);
    kinds().into_iter().chain(plain()).map(alone).for_each(|schedule| there_and_back(&schedule));
}

#[test]
fn a_chain_of_all_kinds_comes_back_as_it_was() {
    let mut schedule = alone(kinds().remove(0));
    for (i, kind) in kinds().into_iter().chain(plain()).enumerate() {
        schedule = schedule.then(10 * (i as u64 + 1), alone(kind));
    }
    schedule.check().unwrap();
    there_and_back(&schedule);
}

#[test]
fn a_table_says_what_it_would_in_pytorch() {
    let toml = "kind = 'one_cycle'\nmax_lr = 0.1\ntotal_steps = 60";
    assert_eq!(toml::from_str::<Schedule>(toml).unwrap(), OneCycle::new(0.1, 60).into());

    let toml = "
        [schedule]
        kind = 'linear'
        start_factor = 0.1
        [[schedule.then]]
        at = 5
        kind = 'cosine'
        t_max = 55
        [[schedule.then]]
        at = 60
        kind = 'constant'
        factor = 1 # a whole number will do
    ";
    let expected = Schedule::from(Linear { start_factor: 0.1, ..Linear::default() })
        .then(5, Cosine::new(55))
        .then(60, Constant { factor: 1.0, ..Constant::default() });
    let table: toml::Table = toml.parse().unwrap();
    assert_eq!(table["schedule"].clone().try_into::<Schedule>().unwrap(), expected);
    let toml = toml::to_string(&expected).unwrap();
    assert!(toml.starts_with("kind = \"linear\"\n"), "{toml}");
    assert!(toml.contains("[[then]]\nat = 5\nkind = \"cosine\"\nt_max = 55\n"), "{toml}");
}

#[test]
fn any_number_survives_a_toml_file() {
    let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..2000 {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let gamma = f64::from_bits(bits & !(1 << 63));
        if gamma.is_finite() {
            let schedule = Schedule::from(Exponential { gamma });
            assert_eq!(toml::from_str::<Schedule>(&toml::to_string(&schedule).unwrap()).unwrap(), schedule);
        }
    }
}
