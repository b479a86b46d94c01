//! PyTorch's `state_dict()` of an optimizer, as a safetensors file.
//!
//! Source: PyTorch 2.15, `torch/optim/optimizer.py` (`state_dict`, `load_state_dict`), `adam.py`, `rmsprop.py`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use super::saved::{Saved, json, only};
use super::settings::{value_from_json, value_to_json};
use super::write::{Outline, Part, Source};
use super::{Disagreement, checksum};
use crate::roster::Roster;
use crate::rule::{Rule, Value, kept_slots};
use crate::safetensors::{Archive, Unique};

/// The key in the metadata that says what a file is.
pub(super) const GROUPS: &str = "param_groups";
const CLASS: &str = "optimizer";
const STEP: &str = "step";
/// The first whole number that PyTorch's step count, an F32, cannot tell from its neighbour.
const INEXACT: u64 = 1 << 24;

/// An optimizer of PyTorch's.
#[derive(Debug)]
pub(super) struct Class {
    pub name: &'static str,
    pub rule: &'static str,
    /// The preset that it is, as [`Rule::PRESETS`] calls it.
    preset: &'static str,
    /// What its groups hold that decides how a step is made.
    keys: &'static [&'static str],
}

const CLASSES: [Class; 3] = [
    Class { name: "Adam", rule: "adam", preset: "adam", keys: ADAM },
    Class { name: "AdamW", rule: "adam", preset: "adamw", keys: ADAM },
    Class { name: "RMSprop", rule: "rmsprop", preset: "rmsprop", keys: RMSPROP },
];
const ADAM: &[&str] = &["lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay"];
const RMSPROP: &[&str] = &["lr", "momentum", "alpha", "eps", "centered", "weight_decay", "maximize"];
/// Keys that every file has; PyTorch sets others itself where an older version did not write them.
const ALWAYS: [&str; 6] = ["lr", "betas", "alpha", "eps", "weight_decay", "momentum"];
/// How a step is executed, not what it computes, and what it is called.
const EXECUTION: [&str; 6] = ["params", "param_names", "foreach", "fused", "capturable", "differentiable"];
/// What schedulers leave behind. A schedule is none of the optimizer's.
const SCHEDULE: [&str; 5] = ["initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"];

/// A `state_dict()`, found to be of one piece.
#[derive(Debug)]
pub(super) struct StateDict {
    pub class: &'static Class,
    groups: Vec<BTreeMap<String, Json>>,
    /// The IDs in each group.
    ids: Vec<Vec<u64>>,
    states: BTreeMap<u64, Saved>,
    /// What stands in the groups and is not a setting of the step.
    pub ignored: Vec<String>,
}

impl StateDict {
    /// Reads the metadata and the step counts, and sorts the entries by ID.
    ///
    /// # Errors
    /// With the first thing that does not hold together, or has no counterpart here.
    pub fn parse(archive: &Archive) -> Result<Self, String> {
        only(archive, &[checksum::KEY, "format", CLASS, GROUPS])?;
        let groups: Vec<Unique<Json>> = json(archive, GROUPS)?;
        let groups: Vec<_> = groups.into_iter().map(|Unique(group)| group).collect();
        let class = class(archive.metadata(CLASS), &groups)?;
        let ids: Vec<Vec<u64>> = groups.iter().enumerate().map(ids).collect::<Result<_, _>>()?;
        let ignored = groups.iter().enumerate().flat_map(|(number, group)| {
            let keys = group.keys().filter(|key| SCHEDULE.contains(&key.as_str()));
            keys.map(move |key| format!("{GROUPS}[{number}].{key}"))
        });
        let ignored = ignored.collect();
        let mut dict = Self { class, states: states(&ids)?, groups, ids, ignored };
        (0..archive.entries().len()).try_for_each(|entry| dict.sort(archive, entry))?;
        dict.states.iter().try_for_each(|(id, saved)| match saved.fresh && !saved.slots.is_empty() {
            true => Err(format!("state {id} has no {STEP:?}")),
            false => Ok(()),
        })?;
        Ok(dict)
    }

    fn sort(&mut self, archive: &Archive, entry: usize) -> Result<(), String> {
        let found = &archive.entries()[entry];
        let key = found.name.as_str();
        let parts = key.strip_prefix("state.").and_then(|rest| rest.split_once('.'));
        let parts = parts.and_then(|(id, slot)| Some((id.parse::<u64>().ok().filter(|n| n.to_string() == id)?, slot)));
        let (id, slot) = parts.ok_or_else(|| format!("{key:?} is not of the form state.ID.SLOT"))?;
        let saved = self.states.get_mut(&id).ok_or_else(|| format!("{key:?}: no group has the ID {id}"))?;
        if slot != STEP {
            return saved.add(archive, entry, Some(slot));
        }
        super::saved::len_of_f32(archive, entry)?;
        if found.len() != 1 {
            return Err(format!("{key:?} has shape {:?}, expected []", found.shape));
        }
        let step = archive.values(found).map_err(|error| error.to_string())?[0];
        let whole = (0.0..INEXACT as f32).contains(&step) && step.fract() == 0.0;
        saved.step = whole.then_some(step as u64).ok_or_else(|| {
            format!("{key:?} is {step}, expected a whole number from 0 to 2^24 - 1, which is as far as F32 counts")
        })?;
        saved.fresh = false;
        Ok(())
    }

    /// The settings of each group.
    pub fn settings<R: Rule>(&self) -> Result<Vec<R>, String> {
        let mut presets = R::PRESETS.iter();
        let preset = presets.find(|(rule, framework, _)| *rule == self.class.preset && *framework == "pytorch");
        let (_, _, preset) = preset.ok_or_else(|| format!("{} has no preset for PyTorch", R::NAME))?;
        let read = |(number, group): (usize, &BTreeMap<String, Json>)| {
            read_group(self.class, preset, group).map_err(|why| format!("{GROUPS}[{number}]: {why}"))
        };
        self.groups.iter().enumerate().map(read).collect()
    }

    /// The tensors under the names that the optimizer's have at the same places, and groups where that cannot be.
    pub fn named<R: Rule>(&self, roster: &Roster<R>) -> (BTreeMap<String, Saved>, Vec<Disagreement>) {
        let (mut named, mut disagreements) = (BTreeMap::new(), Vec::new());
        let in_order = by_group(roster);
        for (group, (ids, tensors)) in self.ids.iter().zip(&in_order).enumerate() {
            if ids.len() != tensors.len() {
                let (file, optimizer) = (ids.len(), tensors.len());
                disagreements.push(Disagreement::Members { group, file, optimizer });
            }
            for (id, &tensor) in ids.iter().zip(tensors) {
                named.insert(roster.members()[tensor].name.clone(), self.states[id].clone());
            }
        }
        (named, disagreements)
    }
}

/// The class that is named, or the one whose settings the groups hold.
fn class(name: Option<&str>, groups: &[BTreeMap<String, Json>]) -> Result<&'static Class, String> {
    let known = CLASSES.each_ref().map(|class| class.name).join(", ");
    if let Some(name) = name {
        let found = CLASSES.iter().find(|class| class.name == name);
        return found.ok_or_else(|| format!("PyTorch's {name} has no counterpart here; {known} have"));
    }
    let has = |class: &&Class| groups.iter().all(|group| class.keys[..3].iter().all(|key| group.contains_key(*key)));
    CLASSES.iter().find(has).ok_or_else(|| format!("{GROUPS:?} are not those of {known}"))
}

fn ids((number, group): (usize, &BTreeMap<String, Json>)) -> Result<Vec<u64>, String> {
    let ids = group.get("params").and_then(Json::as_array).map(|ids| ids.iter().map(Json::as_u64).collect());
    ids.flatten().ok_or_else(|| format!("{GROUPS}[{number}]: \"params\" is no list of IDs"))
}

/// A place for the state of each ID.
fn states(ids: &[Vec<u64>]) -> Result<BTreeMap<u64, Saved>, String> {
    let mut states = BTreeMap::new();
    for (group, ids) in ids.iter().enumerate() {
        for &id in ids {
            let fresh = Saved { fresh: true, ..Saved::new(group, 0, None) };
            if states.insert(id, fresh).is_some() {
                return Err(format!("{GROUPS:?} have the ID {id} twice"));
            }
        }
    }
    Ok(states)
}

fn read_group<R: Rule>(class: &Class, preset: &R, group: &BTreeMap<String, Json>) -> Result<R, String> {
    let mut settings = preset.clone();
    let missing = class.keys.iter().find(|key| ALWAYS.contains(key) && !group.contains_key(**key));
    if let Some(missing) = missing {
        return Err(format!("{missing:?} is missing"));
    }
    for (key, value) in group {
        let mut set = |name: &str, value| settings.set(name, value).map_err(|error| format!("{key} is {error}"));
        match (key.as_str(), value) {
            (other, _) if EXECUTION.contains(&other) || SCHEDULE.contains(&other) => {}
            (other, _) if !class.keys.contains(&other) => {
                return Err(format!("{other:?} = {value} has no counterpart in {}", class.rule));
            }
            ("betas", Json::Array(betas)) if betas.len() == 2 => {
                set("beta1", value_from_json(key, &betas[0])?)?;
                set("beta2", value_from_json(key, &betas[1])?)?;
            }
            ("betas", other) => return Err(format!("betas are {other}, expected two numbers")),
            ("decoupled_weight_decay", Json::Bool(decoupled)) => {
                set("decay", Value::Word(if *decoupled { "decoupled" } else { "l2" }.into()))?;
            }
            (name, value) => set(name, value_from_json(key, value)?)?,
        }
    }
    settings.check().map_err(|error| error.to_string())?;
    Ok(settings)
}

/// A file with the optimizer's `state_dict()`.
///
/// # Errors
/// With what has no counterpart in PyTorch.
pub(crate) fn outline<R: Rule>(
    roster: &Roster<R>,
    shape: impl Fn(usize) -> Option<Vec<u64>>,
) -> Result<Outline, String> {
    let decoupled = roster.groups().iter().any(|settings| is(settings, "decay", "decoupled"));
    let mut classes = CLASSES.iter().filter(|class| class.rule == R::NAME);
    let plain = classes.next().ok_or_else(|| format!("{} has no counterpart in PyTorch", R::NAME))?;
    let class = classes.next().filter(|_| decoupled).unwrap_or(plain);
    let (mut groups, mut parts, mut ids) = (Vec::new(), Vec::new(), 0u64..);
    for (number, tensors) in by_group(roster).into_iter().enumerate() {
        let group = write_group(class, &roster.groups()[number]).map_err(|why| format!("group {number}: {why}"))?;
        let mut own = Vec::with_capacity(tensors.len());
        for (tensor, id) in tensors.into_iter().zip(&mut ids) {
            add_state(&mut parts, roster, tensor, id, shape(tensor))?;
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
    tensor: usize,
    id: u64,
    shape: Option<Vec<u64>>,
) -> Result<(), String> {
    let (member, step) = (&roster.members()[tensor], roster.step_of(tensor));
    if step >= INEXACT {
        return Err(format!("{:?} has taken {step} steps, PyTorch counts to 2^24 - 1", member.name));
    }
    let shape = shape.unwrap_or_else(|| vec![member.len]);
    let source = Source::Values(vec![step as f32]);
    parts.push(Part { key: format!("state.{id}.{STEP}"), shape: Vec::new(), source });
    for slot in kept_slots(roster.settings_of(tensor)) {
        let (key, source) = (format!("state.{id}.{}", R::SLOTS[slot]), Source::Slot(tensor, slot));
        parts.push(Part { key, shape: shape.clone(), source });
    }
    Ok(())
}

/// The numbers of the tensors of each group, in order.
fn by_group<R: Rule>(roster: &Roster<R>) -> Vec<Vec<usize>> {
    let mut groups = vec![Vec::new(); roster.groups().len()];
    for (tensor, member) in roster.members().iter().enumerate() {
        groups[member.group].push(tensor);
    }
    groups
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
