//! Settings out of range, missing, unknown or fixed are refused with what was expected.

use wgpu_optim::rule::{Rule, Value, Visitor, visit};
use wgpu_optim::{Adam, AdamEpsilon, AdamW, AmsgradOver, Decay, Error, Group, Optimizer, RmsProp, RmsPropEpsilon, cpu};

use crate::stand::{Stand, own, refusal, refused};
use crate::support::gpu;

/// The message of settings that every doorway must refuse alike; those of the GPU are tried where there is one.
fn message<R: Rule>(settings: &R) -> String {
    let message = settings.check().unwrap_err().to_string();
    let cpu = cpu::Optimizer::<R, f32>::new(settings.clone(), [("w", 4)]).unwrap_err();
    assert_eq!(cpu.to_string(), message);
    message
}

#[test]
fn a_number_out_of_its_range_is_refused_with_the_range() {
    let adam = |change: fn(&mut Adam)| {
        let mut settings = Adam::PYTORCH;
        change(&mut settings);
        message(&settings)
    };
    assert_eq!(adam(|s| s.beta2 = 1.5), "adam: beta2 is 1.5, expected 0 <= beta2 < 1");
    assert_eq!(adam(|s| s.beta1 = 1.0), "adam: beta1 is 1, expected 0 <= beta1 < 1");
    assert_eq!(adam(|s| s.beta1 = -0.1), "adam: beta1 is -0.1, expected 0 <= beta1 < 1");
    assert_eq!(adam(|s| s.beta2 = f64::NAN), "adam: beta2 is NaN, expected 0 <= beta2 < 1");
    assert_eq!(adam(|s| s.lr = -1e-3), "adam: lr is -0.001, expected a finite lr >= 0");
    assert_eq!(adam(|s| s.lr = f64::INFINITY), "adam: lr is inf, expected a finite lr >= 0");
    assert_eq!(adam(|s| s.lr = f64::NEG_INFINITY), "adam: lr is -inf, expected a finite lr >= 0");
    assert_eq!(adam(|s| s.eps = -1e-8), "adam: eps is -1e-8, expected a finite eps >= 0");
    assert_eq!(adam(|s| s.eps = f64::NAN), "adam: eps is NaN, expected a finite eps >= 0");
    assert_eq!(adam(|s| s.eps_root = -1.0), "adam: eps_root is -1, expected a finite eps_root >= 0");
    let decay = adam(|s| s.weight_decay = -0.1);
    assert_eq!(decay, "adam: weight_decay is -0.1, expected a finite weight_decay >= 0");
}

#[test]
fn a_number_out_of_its_range_is_refused_by_rmsprop_too() {
    let rmsprop = |change: fn(&mut RmsProp)| {
        let mut settings = RmsProp::PYTORCH;
        change(&mut settings);
        message(&settings)
    };
    assert_eq!(rmsprop(|s| s.alpha = 1.0), "rmsprop: alpha is 1, expected 0 <= alpha < 1");
    assert_eq!(rmsprop(|s| s.momentum = 1.0), "rmsprop: momentum is 1, expected 0 <= momentum < 1");
    assert_eq!(rmsprop(|s| s.momentum = f64::NAN), "rmsprop: momentum is NaN, expected 0 <= momentum < 1");
    assert_eq!(rmsprop(|s| s.eps = f64::INFINITY), "rmsprop: eps is inf, expected a finite eps >= 0");
    let start = rmsprop(|s| s.initial_scale = -1.0);
    assert_eq!(start, "rmsprop: initial_scale is -1, expected a finite initial_scale >= 0");
    let nesterov = rmsprop(|s| s.nesterov = true);
    assert_eq!(nesterov, "rmsprop: nesterov is true, expected false, or a momentum > 0 to look ahead with");
    let maximize = RmsProp { nesterov: true, momentum: 0.9, ..RmsProp::PYTORCH };
    maximize.check().unwrap();
}

#[test]
fn a_number_that_f32_cannot_hold_is_refused() {
    let of = |lr, eps| message(&Adam { lr, eps, ..Adam::PYTORCH });
    assert_eq!(of(1e39, 1e-8), "adam: lr is 1e39, expected a number that f32 can hold");
    // 1e-50 is 0 in f32, and an element without gradients would become NaN.
    assert_eq!(of(1e-3, 1e-50), "adam: eps is 1e-50, expected 0, or a number that is not 0 in f32");
    Adam { eps: 1e-45, ..Adam::PYTORCH }.check().unwrap();
}

#[test]
fn the_edges_of_each_range_are_taken() {
    Adam { lr: 0.0, beta1: 0.0, beta2: 0.0, eps: 0.0, ..Adam::PYTORCH }.check().unwrap();
    Adam { beta2: 1.0 - 1e-9, ..Adam::PYTORCH }.check().unwrap();
    RmsProp { lr: 0.0, alpha: 0.0, eps: 0.0, momentum: 0.0, ..RmsProp::PYTORCH }.check().unwrap();
}

#[test]
fn a_preset_without_a_default_must_be_given_its_number() {
    let missing = "not given, expected a number: the preset has no default, so it must be given";
    assert_eq!(message(&Adam::OPTAX), format!("adam: lr is {missing}"));
    assert_eq!(message(&RmsProp::OPTAX), format!("rmsprop: lr is {missing}"));
    assert_eq!(message(&AdamW::OPTAX), format!("adam: lr is {missing}"));
    let decay = message(&AdamW::ARTICLE);
    assert!(decay.starts_with("adam: weight_decay is not given, "), "{decay}");
    Adam { lr: 1e-3, ..Adam::OPTAX }.check().unwrap();
}

#[test]
fn every_preset_but_those_that_say_so_can_be_used_as_it_is() {
    struct Presets(usize);
    impl Visitor for Presets {
        fn rule<R: Rule>(&mut self) {
            for (rule, framework, settings) in R::PRESETS {
                let open = *framework == "optax" || (*rule, *framework) == ("adamw", "article");
                assert_eq!(settings.check().is_err(), open, "{rule} {framework}");
                self.0 += 1;
            }
        }
    }
    let mut presets = Presets(0);
    visit(&mut presets);
    assert!(presets.0 >= 14);
}

#[test]
fn settings_out_of_range_are_refused_by_a_running_optimizer() {
    let Some(gpu) = gpu() else { return };
    let wrong = Adam { lr: -1.0, ..Adam::PYTORCH };
    let expected = "adam: lr is -1, expected a finite lr >= 0";
    assert_eq!(refusal(&gpu, |stand| stand.optimizer.retune(0, wrong.clone())), expected);
    let tensor = own(&gpu.device, "late", 4);
    assert_eq!(refusal(&gpu, |_| Optimizer::new(&gpu.device, wrong.clone(), [tensor.clone()])), expected);
    let group = Group::new(wrong.clone(), [tensor]);
    assert_eq!(refusal(&gpu, |stand| stand.optimizer.add_group(&gpu.device, group)), expected);
    let error = refused(&gpu, |stand| stand.optimizer.retune(0, wrong));
    assert!(matches!(error, Error::Setting { rule: "adam", setting: "lr", .. }));
}

#[test]
fn a_group_without_tensors_is_checked_all_the_same() {
    let Some(gpu) = gpu() else { return };
    let wrong = Adam { beta2: 1.0, ..Adam::PYTORCH };
    refused(&gpu, |stand| stand.optimizer.add_group(&gpu.device, Group::new(wrong, [])));
}

#[test]
fn a_setting_that_the_rule_does_not_have_is_refused_with_those_it_has() {
    let mut settings = Adam::PYTORCH;
    let error = settings.set("alpha", Value::Number(0.9)).unwrap_err();
    assert!(matches!(&error, Error::UnknownSetting { rule: "adam", setting, .. } if setting == "alpha"), "{error}");
    let message = error.to_string();
    assert!(message.starts_with(r#"adam: there is no setting "alpha""#), "{message}");
    for (name, _) in Adam::PYTORCH.settings() {
        assert!(message.contains(name), "{message} does not list {name}");
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_and_changes_nothing() {
    let mut settings = RmsProp::PYTORCH;
    let set = |settings: &mut RmsProp, name, value| settings.set(name, value).unwrap_err().to_string();
    let lr = set(&mut settings, "lr", Value::Flag(true));
    assert_eq!(lr, "rmsprop: lr is true, expected a number");
    let centered = set(&mut settings, "centered", Value::Number(1.0));
    assert_eq!(centered, "rmsprop: centered is 1, expected true or false");
    let epsilon = set(&mut settings, "epsilon", Value::Word("hat".into()));
    let expected = r#"rmsprop: epsilon is "hat", expected one of "outside", "inside", "inside_with_momentum""#;
    assert_eq!(epsilon, expected);
    assert_eq!(settings, RmsProp::PYTORCH);
}

#[test]
fn every_setting_can_be_set_to_what_it_is_by_its_name() {
    struct All;
    impl Visitor for All {
        fn rule<R: Rule>(&mut self) {
            for (case, settings) in R::cases() {
                let mut copy = R::cases()[0].1.clone();
                for (name, value) in settings.settings() {
                    copy.set(name, value).unwrap();
                }
                assert_eq!(copy, settings, "{} {case}", R::NAME);
            }
        }
    }
    visit(&mut All);
}

/// The message of `retune` from one case to another; the running optimizer goes on as it was.
fn retuned<R: Rule>(from: &R, to: &R) -> Result<(), Error> {
    let mut optimizer = cpu::Optimizer::<R, f32>::new(from.clone(), [("w", 4)]).unwrap();
    let answer = optimizer.retune(0, to.clone());
    assert_eq!(optimizer.settings(0).unwrap(), if answer.is_ok() { to } else { from });
    answer
}

#[test]
fn what_decides_adams_state_or_pipeline_cannot_be_retuned() {
    let plain = Adam::PYTORCH;
    let amsgrad = Adam { amsgrad: true, ..Adam::PYTORCH };
    let corrected = Adam { amsgrad_over: AmsgradOver::Corrected, ..amsgrad.clone() };
    let nesterov = Adam { nesterov: true, ..Adam::PYTORCH };
    for (from, to, setting) in [
        (&plain, &amsgrad, "amsgrad"),
        (&amsgrad, &plain, "amsgrad"),
        (&amsgrad, &corrected, "amsgrad_over"),
        (&plain, &nesterov, "nesterov"),
        (&nesterov, &plain, "nesterov"),
    ] {
        let error = retuned(from, to).unwrap_err();
        assert!(matches!(&error, Error::Structure { setting: found, group: 0, .. } if *found == setting), "{error}");
    }
    // It says nothing where there is no maximum.
    retuned(&plain, &Adam { amsgrad_over: AmsgradOver::Corrected, ..plain.clone() }).unwrap();
}

#[test]
fn what_decides_rmsprops_state_or_pipeline_cannot_be_retuned() {
    let plain = RmsProp::PYTORCH;
    let momentum = RmsProp { momentum: 0.9, ..RmsProp::PYTORCH };
    let centered = RmsProp { centered: true, ..RmsProp::PYTORCH };
    let clamped = RmsProp { clamp_centered: true, ..centered.clone() };
    let nesterov = RmsProp { nesterov: true, ..momentum.clone() };
    let inside = RmsProp { lr_in_momentum: true, ..momentum.clone() };
    for (from, to, setting) in [
        (&plain, &momentum, "momentum > 0"),
        (&momentum, &plain, "momentum > 0"),
        (&plain, &centered, "centered"),
        (&centered, &plain, "centered"),
        (&centered, &clamped, "clamp_centered"),
        (&momentum, &nesterov, "nesterov"),
        (&momentum, &inside, "lr_in_momentum"),
    ] {
        let error = retuned(from, to).unwrap_err();
        assert!(matches!(&error, Error::Structure { setting: found, .. } if *found == setting), "{error}");
    }
    retuned(&plain, &RmsProp { lr_in_momentum: true, ..plain.clone() }).unwrap();
    retuned(&momentum, &RmsProp { momentum: 0.5, ..momentum.clone() }).unwrap();
}

#[test]
fn all_else_can_be_retuned() {
    let other = Adam {
        lr: 0.5,
        beta1: 0.5,
        beta2: 0.5,
        eps: 1e-3,
        eps_root: 1e-5,
        epsilon: AdamEpsilon::Hat,
        weight_decay: 0.1,
        decay: Decay::Inside,
        maximize: true,
        ..Adam::PYTORCH
    };
    retuned(&Adam::PYTORCH, &other).unwrap();
    let other = RmsProp {
        lr: 0.5,
        alpha: 0.5,
        eps: 1e-3,
        epsilon: RmsPropEpsilon::Inside,
        weight_decay: 0.1,
        decay: Decay::Decoupled,
        maximize: true,
        ..RmsProp::PYTORCH
    };
    retuned(&RmsProp::PYTORCH, &other).unwrap();
}

#[test]
fn a_changed_structure_is_refused_on_the_gpu_with_from_and_to() {
    let Some(gpu) = gpu() else { return };
    let amsgrad = Adam { amsgrad: true, lr: 0.5, ..Adam::PYTORCH };
    let message = refusal(&gpu, |stand| stand.optimizer.retune(0, amsgrad));
    let expected = "adam: amsgrad of group 0 cannot change from false to true between steps: ";
    assert!(message.starts_with(expected), "{message}");
    assert!(message.ends_with("build a new optimizer"), "{message}");
}

#[test]
fn a_group_of_another_structure_can_be_added_to_a_running_optimizer() {
    let Some(gpu) = gpu() else { return };
    let mut stand: Stand<Adam> = crate::stand::running(&gpu);
    let settings = Adam { amsgrad: true, ..AdamW::KERAS };
    let tensors = [own(&gpu.device, "late", 77)];
    let group = Group::new(settings.clone(), tensors.clone());
    assert_eq!(stand.optimizer.add_group(&gpu.device, group).unwrap(), 1);
    stand.groups.push(settings);
    stand.watch(1, &tensors);
    stand.verified_step();
    stand.verified_step();
    assert_eq!(stand.optimizer.step_of("late").unwrap(), 2);
    assert_eq!(stand.optimizer.step_of("fc1.bias").unwrap(), 4);
}

/// A term that is off is not in the kernel, so that turning one on or off takes another kernel.
#[test]
fn a_term_can_be_turned_on_and_off_between_steps() {
    let Some(gpu) = gpu() else { return };
    let adam = [
        Adam::PYTORCH,
        AdamW::PYTORCH,
        Adam { weight_decay: 0.1, maximize: true, ..Adam::PYTORCH },
        Adam { epsilon: AdamEpsilon::Inside, beta1: 0.3, ..Adam::PYTORCH },
        Adam::PYTORCH,
    ];
    turn(&gpu, &adam);
    let rmsprop = [
        RmsProp::PYTORCH,
        RmsProp { weight_decay: 0.1, decay: Decay::Decoupled, ..RmsProp::PYTORCH },
        RmsProp { weight_decay: 0.1, maximize: true, ..RmsProp::PYTORCH },
        RmsProp { epsilon: RmsPropEpsilon::Inside, ..RmsProp::PYTORCH },
        RmsProp::PYTORCH,
    ];
    turn(&gpu, &rmsprop);
}

/// Steps two groups, the second retuned through these settings.
fn turn<R: Rule>(gpu: &crate::support::Gpu, settings: &[R]) {
    let flat = [crate::stand::buffer(&gpu.device, 2048), crate::stand::buffer(&gpu.device, 2048)];
    let tensors = |name: &str, first| vec![crate::stand::at(name, &flat, first, 515)];
    let groups = vec![(settings[0].clone(), tensors("a", 0)), (settings[0].clone(), tensors("b", 1024))];
    let mut stand = Stand::with_groups(gpu, groups);
    for settings in settings {
        stand.retune(1, settings.clone());
        stand.verified_step();
        stand.verified_step();
    }
}
