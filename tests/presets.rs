//! The presets are what they are named after.

mod support;

use support::golden::{self, settings::FromCanonical};
use wgpu_optim::rule::{Rule, Value, Visitor, visit};
use wgpu_optim::{Adam, AdamW, Decay, Error, RmsProp, RmsPropEpsilon, cpu};

/// A preset folds to the scalars of the case that was recorded at its framework's defaults.
fn is_default_of<R: FromCanonical>(case: &str, mut preset: R) {
    let recorded = R::from_canonical(&golden::case(case).canonical);
    if preset.check().is_err() {
        // optax has no default for it; the case was recorded with this one.
        preset.set("lr", Value::Number(1e-3)).unwrap();
    }
    assert_eq!(preset.structure(), recorded.structure(), "{case}");
    for step in [1, 2, 1000] {
        assert_eq!(preset.fold(step), recorded.fold(step), "{case}, step {step}");
    }
}

#[test]
fn each_preset_has_the_defaults_of_its_framework() {
    is_default_of("torch_adam_default", Adam::PYTORCH);
    is_default_of("torch_adamw_default", AdamW::PYTORCH);
    is_default_of("keras_adam_default", Adam::KERAS);
    is_default_of("optax_adam_default", Adam::OPTAX);
    is_default_of("optax_adamw_default", AdamW::OPTAX);
    is_default_of("article_adam", Adam::ARTICLE);
    is_default_of("torch_rmsprop_default", RmsProp::PYTORCH);
    is_default_of("keras_rmsprop_default", RmsProp::KERAS);
    is_default_of("tfkeras_legacy_rmsprop_default", RmsProp::TF_KERAS_LEGACY);
    is_default_of("optax_rmsprop_default", RmsProp::OPTAX);
    is_default_of("article_rmsprop", RmsProp::ARTICLE);
    assert_eq!(Adam::default(), Adam::PYTORCH);
    assert_eq!(RmsProp::default(), RmsProp::PYTORCH);
    assert_eq!((AdamW::KERAS.weight_decay, AdamW::KERAS.decay), (4e-3, Decay::Decoupled));
}

#[test]
fn optax_has_no_default_lr_and_the_article_no_decay_of_adamw() {
    for (settings, missing) in [(Adam::OPTAX, "lr"), (AdamW::ARTICLE, "weight_decay")] {
        let Err(Error::Setting { setting, found, .. }) = settings.check() else { panic!("{missing} was not missed") };
        assert_eq!((setting, found.as_str()), (missing, "not given"));
    }
    let message = RmsProp::OPTAX.check().unwrap_err().to_string();
    assert_eq!(message, "rmsprop: lr is not given, expected a number: the preset has no default, so it must be given");
}

#[test]
fn the_legacy_epsilon_is_outside_without_momentum_and_inside_with_it() {
    let without = RmsProp::TF_KERAS_LEGACY;
    let with = RmsProp { momentum: 0.9, ..without.clone() };
    assert_eq!((without.fold(1).eps, without.fold(1).root), (1e-7, 0.0));
    assert_eq!((with.fold(1).eps, with.fold(1).root), (0.0, 1e-7));
    let keras = RmsProp { momentum: 0.9, ..RmsProp::KERAS };
    assert_eq!(with.fold(1), keras.fold(1));
    assert_eq!(without.fold(1), RmsProp { epsilon: RmsPropEpsilon::Outside, ..without.clone() }.fold(1));
}

/// How far a parameter moved, over lr, in the last of these steps of a constant gradient.
fn step_over_lr<R: Rule>(mut settings: R, gradient: f64, steps: usize) -> f64 {
    settings.set("lr", Value::Number(1e-3)).unwrap();
    let mut optimizer = cpu::Optimizer::<R, f64>::new(settings, [("p", 1)]).unwrap();
    let mut p = [0.0];
    let mut last = 0.0;
    for _ in 0..steps {
        last = p[0];
        optimizer.step(&mut [&mut p], &[&[gradient]]).unwrap();
    }
    (last - p[0]) / 1e-3
}

/// The figures of the README.
#[test]
fn the_presets_differ_as_much_as_the_readme_says() {
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 5e-4, "{found} for {expected}");
    near(step_over_lr(RmsProp::PYTORCH, 1e-4, 5000), 0.9999);
    near(step_over_lr(RmsProp::KERAS, 1e-4, 5000), 0.302);
    near(step_over_lr(RmsProp::OPTAX, 1e-4, 5000), 0.707);
    near(step_over_lr(Adam::PYTORCH, 1e-6, 1), 0.990);
    near(step_over_lr(Adam::KERAS, 1e-6, 1), 0.240);
}

struct Settings;

impl Visitor for Settings {
    fn rule<R: Rule>(&mut self) {
        for (rule, framework, preset) in R::PRESETS {
            let mut rebuilt = R::cases()[0].1.clone();
            for (name, value) in preset.settings() {
                rebuilt.set(name, value).unwrap();
            }
            // NaN is not itself, so what is printed is compared.
            assert_eq!(format!("{rebuilt:?}"), format!("{preset:?}"), "{rule} {framework}");
        }
        assert_eq!(R::NAME, R::NAME.to_lowercase());
    }
}

#[test]
fn every_setting_can_be_read_and_written_by_its_name() {
    visit(&mut Settings);
}

#[test]
fn decay_inside_the_sum_is_decoupled_decay() {
    let decayed = |decay| Adam { decay, weight_decay: 0.1, ..Adam::PYTORCH };
    assert_eq!(decayed(Decay::Inside).fold(3), decayed(Decay::Decoupled).fold(3));
    assert_ne!(decayed(Decay::L2).fold(3), decayed(Decay::Decoupled).fold(3));
}

#[test]
fn a_beta_of_zero_gives_the_gradient_itself() {
    let rule = Adam { beta1: 0.0, ..Adam::PYTORCH };
    let h = wgpu_optim::rule::cast(&rule.fold(1));
    let (_, state) = rule.update::<f32>(&h, 0.0, 1e-12, [1e9, 0.0, 0.0]);
    assert_eq!(state[0], 1e-12);
}

#[test]
fn centered_goes_nan_as_pytorch_does_unless_it_is_clamped() {
    let finite = |clamp_centered| {
        let settings = RmsProp { centered: true, clamp_centered, alpha: 0.9, ..RmsProp::PYTORCH };
        let mut optimizer = cpu::Optimizer::<RmsProp, f32>::new(settings, [("p", 64)]).unwrap();
        let mut p = [0.5f32; 64];
        let grads: Vec<f32> = (1..=64u8).map(|i| f32::from(i) * 0.017).collect();
        for _ in 0..2000 {
            optimizer.step(&mut [&mut p], &[&grads]).unwrap();
        }
        p.iter().all(|p| p.is_finite())
    };
    assert!(!finite(false));
    assert!(finite(true));
}

#[test]
fn an_infinite_parameter_without_decay_stays_infinite_as_in_pytorch() {
    struct Infinite;
    impl Visitor for Infinite {
        fn rule<R: Rule>(&mut self) {
            for (case, settings) in R::cases() {
                let h: R::Hyper<f32> = wgpu_optim::rule::cast(&settings.fold(1));
                let decays = settings
                    .settings()
                    .iter()
                    .any(|(name, value)| *name == "weight_decay" && *value != Value::Number(0.0));
                let (p, _) = settings.update(&h, f32::INFINITY, 1.0, [0.0; 3]);
                assert!(decays || p == f32::INFINITY, "{} {case}: {p}", R::NAME);
            }
        }
    }
    visit(&mut Infinite);
}

#[test]
fn a_nan_gradient_reaches_every_slot_as_in_pytorch() {
    let rule = Adam { amsgrad: true, ..Adam::PYTORCH };
    let h = wgpu_optim::rule::cast(&rule.fold(1));
    let (p, state) = rule.update::<f32>(&h, 1.0, f32::NAN, [0.0; 3]);
    assert!(p.is_nan() && state.iter().all(|slot| slot.is_nan()), "{p} {state:?}");
}
