//! What the metadata of a case says, as settings of ours.

use serde_json::Value as Json;
use wgpu_optim::schedule::{Cosine, Linear, OneCycle, Schedule, Step};
use wgpu_optim::{Adam, AdamEpsilon, Chain, Clip, ClipForm, Decay, Ema, RmsProp, RmsPropEpsilon, Rule, Scaler};

/// Settings by name, for each group.
pub fn groups(meta: &Json) -> Vec<Vec<(&'static str, f64)>> {
    let Some(groups) = meta["features"]["groups"].as_array() else { return vec![Vec::new()] };
    let group = |group: &Json| {
        let mut settings = Vec::new();
        for name in ["lr", "eps", "weight_decay", "alpha", "momentum"] {
            settings.extend(group[name].as_f64().map(|x| (name, x)));
        }
        for (i, name) in ["beta1", "beta2"].into_iter().enumerate() {
            settings.extend(group["betas"][i].as_f64().map(|x| (name, x)));
        }
        settings
    };
    groups.iter().map(group).collect()
}

/// What is around the update.
pub fn chain(canonical: &Json, features: &Json) -> Chain {
    let decay = canonical["ema_momentum"].as_f64();
    let overwrite_every = canonical["ema_overwrite_frequency"].as_u64().unwrap_or(0) as u32;
    Chain {
        clip: clip(canonical, features),
        scaler: features.get("scaler").map(scaler),
        ema: decay.filter(|_| flag(canonical, "use_ema")).map(|decay| Ema { decay, overwrite_every }),
        ..Chain::default()
    }
}

/// torch clips by a call of its own, which is a feature of the case; Keras by a setting of the optimizer.
fn clip(canonical: &Json, features: &Json) -> Option<Clip> {
    let keras = |max| Clip { form: ClipForm::Keras, ..Clip::global_norm(max) };
    let torch = features["clip_norm"].as_f64().map(Clip::global_norm);
    torch
        .or(canonical["clipnorm"].as_f64().map(Clip::tensor_norm))
        .or(canonical["global_clipnorm"].as_f64().map(keras))
        .or(canonical["clipvalue"].as_f64().map(Clip::value))
}

fn scaler(made: &Json) -> Scaler {
    Scaler {
        init_scale: number(made, "init_scale"),
        growth_factor: number(made, "growth_factor"),
        backoff_factor: number(made, "backoff_factor"),
        growth_interval: number(made, "growth_interval") as u32,
    }
}

/// The scheduler of torch that drove the run.
pub fn scheduler(features: &Json) -> Option<Schedule> {
    let made = features.get("sched")?;
    let (number, steps) = (|key| number(made, key), |key| number(made, key) as u64);
    Some(match made["kind"].as_str() {
        Some("onecycle") => OneCycle::new(number("max_lr"), steps("total_steps")).into(),
        Some("step") => Step { gamma: number("gamma"), ..Step::new(steps("step_size")) }.into(),
        Some("warmup_cosine") => {
            let rise =
                Linear { start_factor: number("start_factor"), total_iters: steps("warmup"), ..Linear::default() };
            let fall = Cosine { eta_min: number("eta_min"), ..Cosine::new(steps("T_max")) };
            Schedule::from(rise).then(steps("warmup"), fall)
        }
        other => panic!("schedule {other:?}"),
    })
}

/// Settings that a case's canonical description asks for.
pub trait FromCanonical: Rule {
    fn from_canonical(canonical: &Json) -> Self;
}

fn number(canonical: &Json, key: &str) -> f64 {
    canonical[key].as_f64().unwrap_or(0.0)
}

fn flag(canonical: &Json, key: &str) -> bool {
    canonical[key].as_bool().unwrap_or(false)
}

fn decay(canonical: &Json) -> Decay {
    match canonical["wd_mode"].as_str() {
        Some("decoupled") => Decay::Decoupled,
        Some("l2") | None => Decay::L2,
        Some(other) => panic!("wd_mode {other}"),
    }
}

impl FromCanonical for Adam {
    fn from_canonical(canonical: &Json) -> Self {
        Adam {
            lr: number(canonical, "lr"),
            beta1: number(canonical, "beta1"),
            beta2: number(canonical, "beta2"),
            eps: number(canonical, "eps"),
            eps_root: number(canonical, "eps_root"),
            epsilon: match canonical["eps_placement"].as_str() {
                Some("outside_after_bias_correction") => AdamEpsilon::Outside,
                Some("outside_before_bias_correction") => AdamEpsilon::Hat,
                other => panic!("eps_placement {other:?}"),
            },
            weight_decay: number(canonical, "weight_decay"),
            decay: decay(canonical),
            amsgrad: flag(canonical, "amsgrad"),
            nesterov: flag(canonical, "nesterov"),
            maximize: flag(canonical, "maximize"),
            ..Adam::PYTORCH
        }
    }
}

impl FromCanonical for RmsProp {
    fn from_canonical(canonical: &Json) -> Self {
        RmsProp {
            lr: number(canonical, "lr"),
            alpha: number(canonical, "alpha"),
            eps: number(canonical, "eps"),
            epsilon: match canonical["eps_placement"].as_str() {
                Some("outside_sqrt") => RmsPropEpsilon::Outside,
                Some("inside_sqrt") => RmsPropEpsilon::Inside,
                other => panic!("eps_placement {other:?}"),
            },
            weight_decay: number(canonical, "weight_decay"),
            decay: decay(canonical),
            momentum: number(canonical, "momentum"),
            lr_in_momentum: canonical["momentum_form"] == "lr_inside",
            nesterov: flag(canonical, "nesterov"),
            centered: flag(canonical, "centered"),
            maximize: flag(canonical, "maximize"),
            initial_scale: number(canonical, "initial_scale"),
            ..RmsProp::PYTORCH
        }
    }
}
