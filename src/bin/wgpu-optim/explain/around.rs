//! What is around each update, in words and formulas.

use serde_json::Value as Json;
use wgpu_optim::rule::Value;
use wgpu_optim::{Chain, Clip, ClipForm, Ema, Norm, Over, Scaler, Schedule};

/// The chain, a line for each of its parts, in the order in which they act.
pub fn chain(chain: &Chain) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(chain.scaler.iter().flat_map(scaler));
    lines.extend(chain.clip.as_ref().map(clip));
    if let Some(clamp) = &chain.clamp {
        lines.push(format!("clamp:    p = min(max(p, {}), {})", number(clamp.min), number(clamp.max)));
    }
    lines.extend(chain.ema.as_ref().map(ema));
    lines
}

/// A schedule: its parts with their arguments, and the steps at which they begin.
pub fn schedule(schedule: &Schedule) -> String {
    let mut parts = vec![(0, serde_json::to_value(&schedule.first).unwrap_or_default())];
    parts.extend(schedule.then.iter().map(|part| (part.at, serde_json::to_value(&part.kind).unwrap_or_default())));
    let told = parts.iter().map(|(at, kind)| {
        let arguments =
            kind.as_object().into_iter().flatten().filter(|(key, value)| *key != "kind" && !value.is_null());
        let arguments: Vec<String> = arguments.map(|(key, value)| format!("{key} = {value}")).collect();
        let name = kind.get("kind").and_then(Json::as_str).unwrap_or_default();
        format!("from step {at} {name}({})", arguments.join(", "))
    });
    told.collect::<Vec<_>>().join(", ")
}

/// What the chain dispatches besides what the plan has.
pub fn costs(chain: &Chain) -> String {
    let mut text = String::new();
    if chain.scaler.is_some() || chain.clip.as_ref().is_some_and(|clip| clip.over != Over::Value) {
        text += "  besides     dispatches that measure the gradients, and one that decides\n";
    }
    text
}

fn scaler(scaler: &Scaler) -> [String; 2] {
    let Scaler { init_scale, growth_factor, backoff_factor, growth_interval } = scaler;
    [
        format!("scaler:   g = grad / scale, and scale is {} at first", number(*init_scale)),
        format!(
            "          scale *= {} after {growth_interval} clean steps; where a gradient is not finite, the step is skipped \
             and scale *= {}",
            number(*growth_factor),
            number(*backoff_factor)
        ),
    ]
}

fn clip(clip: &Clip) -> String {
    let max = number(clip.max);
    if clip.over == Over::Value {
        return format!("clip:     g = min(max(g, -{max}), {max})");
    }
    let factor = match clip.form {
        ClipForm::PyTorch => format!("min(1, {max} / (norm + 1e-6))"),
        ClipForm::Keras => format!("{max} * min(1 / norm, 1 / {max})"),
        ClipForm::Optax => format!("(1 if norm < {max} else {max} / norm)"),
    };
    let norm = match clip.norm {
        Norm::L2 => "the root of the sum of squares",
        Norm::Inf => "the largest magnitude",
    };
    let over = match clip.over {
        Over::Tensor => "each tensor",
        Over::Group => "each group",
        Over::All | Over::Value => "all gradients",
    };
    format!("clip:     g *= {factor}, where norm is {norm} over {over}")
}

fn ema(Ema { decay, overwrite_every }: &Ema) -> String {
    let decay = number(*decay);
    let overwrite = match overwrite_every {
        0 => String::new(),
        1 => "; p = ema after every step".into(),
        n => format!("; p = ema after every {n} steps"),
    };
    format!("ema:      ema = {decay} * ema + (1 - {decay}) * p, and ema = p after the first step{overwrite}")
}

fn number(x: f64) -> String {
    Value::Number(x).to_string()
}
