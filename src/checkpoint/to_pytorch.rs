//! Writing a `state_dict()`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use super::pytorch::{CLASS, CLASSES, Class, GROUPS, INEXACT, STEP, by_group};
use super::saved::dtype;
use super::settings::value_to_json;
use super::write::{Outline, Part, Source};
use crate::chain::{ACCUMULATED, EMA};
use crate::format::{Format, Formats, KAHAN, MASTER, Plane, Rounding};
use crate::roster::Roster;
use crate::rule::{Rule, Value};
use crate::safetensors::Dtype;

/// A file with the optimizer's `state_dict()`, for tensors that have taken so many steps.
///
/// # Errors
/// With what has no counterpart in PyTorch.
pub(crate) fn outline<R: Rule>(
    roster: &Roster<R>,
    steps: &[u64],
    shape: impl Fn(usize) -> Option<Vec<u64>>,
) -> Result<Outline, String> {
    let decoupled = roster.groups().iter().any(|settings| is(settings, "decay", "decoupled"));
    let mut classes = CLASSES.iter().filter(|class| class.rule == R::NAME);
    let plain = classes.next().ok_or_else(|| format!("{} has no counterpart in PyTorch", R::NAME))?;
    let class = classes.next().filter(|_| decoupled).unwrap_or(plain);
    let (mut groups, mut parts, mut ids) = (Vec::new(), Vec::new(), 0u64..);
    for (number, tensors) in by_group(roster).into_iter().enumerate() {
        let formats = roster.formats(number).map_err(|error| error.to_string())?;
        let group = check_formats(formats).and_then(|()| write_group(class, &roster.groups()[number]));
        let group = group.map_err(|why| format!("group {number}: {why}"))?;
        let mut own = Vec::with_capacity(tensors.len());
        for (tensor, id) in tensors.into_iter().zip(&mut ids) {
            add_state(&mut parts, roster, (tensor, steps[tensor]), id, shape(tensor))?;
            own.push(id);
        }
        groups.push(Json::from(group.into_iter().chain([("params".to_string(), own.into())]).collect::<Map<_, _>>()));
    }
    let pairs = [("format", "pt".into()), (CLASS, class.name.into()), (GROUPS, Json::from(groups).to_string())];
    let metadata = pairs.into_iter().map(|(key, text): (_, String)| (key.to_string(), text.into())).collect();
    Ok(Outline { metadata, parts })
}

fn add_state<R: Rule>(
    parts: &mut Vec<Part>,
    roster: &Roster<R>,
    (tensor, step): (usize, u64),
    id: u64,
    shape: Option<Vec<u64>>,
) -> Result<(), String> {
    let member = &roster.members()[tensor];
    if step >= INEXACT {
        return Err(format!("{:?} has taken {step} steps, PyTorch counts to 2^24 - 1", member.name));
    }
    let shape = shape.unwrap_or_else(|| vec![member.len]);
    let source = Source::Values(vec![step as f32]);
    parts.push(Part { key: format!("state.{id}.{STEP}"), dtype: Dtype::F32, shape: Vec::new(), source });
    let params = roster.formats(member.group).map_err(|error| error.to_string())?.params.storage();
    // The rule's come first; PyTorch knows none of the chain's.
    let own = |plane: &(usize, Plane)| plane.1.slot != EMA && plane.1.slot != ACCUMULATED;
    for (plane, Plane { slot, storage }) in roster.planes(tensor).into_iter().enumerate().filter(own) {
        if storage != params {
            let (found, theirs) = (storage.word(), params.word());
            return Err(format!(
                "{slot} of {:?} is {found}, and PyTorch keeps it as it keeps the parameters, in {theirs}; save, \
                 load_partial with cast into an optimizer whose state is {theirs}, and save_pytorch that",
                member.name
            ));
        }
        let (key, source) = (format!("state.{id}.{slot}"), Source::Slot(tensor, plane));
        parts.push(Part { key, dtype: dtype(storage), shape: shape.clone(), source });
    }
    Ok(())
}

/// Refuses formats that PyTorch's optimizers do not have.
fn check_formats(formats: &Formats) -> Result<(), String> {
    let advice = "save, load_partial into an optimizer without, and save_pytorch that";
    if formats.master {
        return Err(format!("it keeps {MASTER}, and PyTorch's optimizers keep no master: {advice}"));
    }
    if formats.rounding == Rounding::Kahan {
        return Err(format!("it keeps {KAHAN}, and PyTorch's optimizers keep no such thing: {advice}"));
    }
    if formats.params != Format::F32 && formats.rounding == Rounding::Stochastic {
        return Err(format!("its rounding is stochastic, and PyTorch rounds to the nearest: {advice}"));
    }
    Ok(())
}

/// A group as PyTorch has it, without its tensors.
fn write_group<R: Rule>(class: &Class, settings: &R) -> Result<Map<String, Json>, String> {
    let values: BTreeMap<&str, Value> = settings.settings().into_iter().collect();
    refuse_others(class, settings)?;
    let number = |name: &str| values.get(name).cloned().map_or(Json::Null, value_to_json);
    let mut group = Map::new();
    for &key in class.keys {
        let value = match key {
            "betas" => json!([number("beta1"), number("beta2")]),
            "decoupled_weight_decay" => is(settings, "decay", "decoupled").into(),
            name => number(name),
        };
        group.insert(key.into(), value);
    }
    // As PyTorch's constructors leave them.
    let execution = [("foreach", Json::Null), ("fused", Json::Null), ("capturable", false.into())];
    let execution = execution.into_iter().filter(|(key, _)| *key != "fused" || class.keys.contains(&"betas"));
    group.extend(execution.chain([("differentiable", false.into())]).map(|(key, value)| (key.to_string(), value)));
    Ok(group)
}

/// Refuses settings that PyTorch does not have, unless they are what it does anyway.
fn refuse_others<R: Rule>(class: &Class, settings: &R) -> Result<(), String> {
    let preset = R::PRESETS.iter().find(|(rule, framework, _)| *rule == class.rule && *framework == "pytorch");
    let (_, _, preset) = preset.ok_or_else(|| format!("{} has no preset for PyTorch", R::NAME))?;
    let written: BTreeSet<&str> = class.keys.iter().copied().chain(["beta1", "beta2"]).collect();
    let no_decay = settings.settings().contains(&("weight_decay", Value::Number(0.0)));
    let decoupled = class.keys.contains(&"decoupled_weight_decay");
    for ((name, ours), (_, theirs)) in settings.settings().into_iter().zip(preset.settings()) {
        let decay = no_decay || (decoupled && ours == Value::Word("decoupled".into()));
        if ours != theirs && !written.contains(name) && !(name == "decay" && decay) {
            return Err(format!("{name} is {ours}, and PyTorch's {} has {theirs} and nothing else", class.name));
        }
    }
    Ok(())
}

fn is<R: Rule>(settings: &R, name: &str, word: &str) -> bool {
    settings.settings().iter().any(|(known, value)| *known == name && *value == Value::Word(word.into()))
}
