//! Reading a `state_dict()`.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::pytorch::{ALWAYS, CLASS, CLASSES, Class, EXECUTION, GROUPS, INEXACT, SCHEDULE, STEP, by_group};
use super::saved::{Saved, json, len_of_f32, only};
use super::settings::value_from_json;
use super::{Disagreement, checksum};
use crate::roster::Roster;
use crate::rule::{Rule, Value};
use crate::safetensors::{Archive, Dtype, Unique};

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
            return match found.dtype {
                Dtype::F32 | Dtype::F16 | Dtype::BF16 => saved.add(archive, entry, Some(slot)),
                other => Err(format!("{key:?} is {other}, expected F32, F16 or BF16")),
            };
        }
        len_of_f32(archive, entry)?;
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
