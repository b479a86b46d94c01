//! A state file held against the parameters and the config.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use wgpu_optim::Rule;
use wgpu_optim::chain::EMA;
use wgpu_optim::rule::Value;
use wgpu_optim::safetensors::{Archive, Dtype, Entry};

use super::metadata::Metadata;
use super::{STEP, key};
use crate::config::Config;
use crate::inputs::Inputs;
use crate::report::nearest;

/// The first whole number that f32 cannot tell from its neighbour.
const INEXACT: f32 = 16_777_216.0;
/// Disagreements that are listed.
const LISTED: usize = 12;

/// The slots that a file has of each tensor.
pub type Tensors<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// A state file under examination: what is wrong is gathered, so that all of it is told at once.
pub struct Check<'a, R> {
    pub archive: &'a Archive,
    pub inputs: &'a Inputs,
    pub config: &'a Config<R>,
    pub problems: Vec<String>,
}

impl<'a, R: Rule> Check<'a, R> {
    /// Sorts the keys by tensor.
    pub fn tensors(&mut self) -> Tensors<'a> {
        let mut tensors = Tensors::new();
        for entry in self.archive.entries() {
            match self.split(&entry.name) {
                Ok((name, slot)) => drop(tensors.entry(name).or_default().insert(slot)),
                Err(problem) => self.problems.push(problem),
            }
        }
        tensors
    }

    fn split(&self, key: &'a str) -> Result<(&'a str, &'a str), String> {
        let parts = key.strip_prefix("state.").and_then(|rest| rest.rsplit_once('.'));
        let Some((name, slot)) = parts else {
            return Err(format!("{key:?} is not of the form state.NAME.SLOT"));
        };
        if slot != STEP && slot != EMA && !R::SLOTS.contains(&slot) {
            return Err(format!("{key:?}: {} keeps no {slot:?}, only {}", R::NAME, R::SLOTS.join(", ")));
        }
        let params = &self.inputs.params;
        match params.get(name) {
            Some(param) if param.dtype == Dtype::F32 => Ok((name, slot)),
            Some(param) => {
                Err(format!("{key:?}: {name:?} is {} in {}, and only F32 has state", param.dtype, params.path()))
            }
            None => {
                let near = nearest(name, params.names()).unwrap_or_default();
                Err(format!("{key:?}: {} has no {name:?}; the nearest is {near:?}", params.path()))
            }
        }
    }

    /// The slots of one tensor are those that its settings keep, each with the parameter's shape.
    pub fn slots(&mut self, name: &str, found: &BTreeSet<&str>) {
        let group = self.config.group_of(name);
        let kept = self.config.slots_of(group);
        for slot in kept.iter().chain(&[STEP]).filter(|slot| !found.contains(**slot)) {
            let begin = if *slot == EMA { "; to begin the average now, write the parameters there" } else { "" };
            self.problems.push(format!("{:?} is missing{begin}", key(name, slot)));
        }
        for slot in found.iter().filter(|slot| **slot != STEP && !kept.contains(*slot)) {
            let group = self.config.group_name(group);
            let keep = if *slot == EMA { ", for which there is a table [ema]" } else { "" };
            self.problems.push(format!("{:?} is not kept by the settings of {group}{keep}", key(name, slot)));
        }
        for slot in found {
            self.problems.extend(self.misfit(name, slot));
        }
    }

    fn misfit(&self, name: &str, slot: &str) -> Option<String> {
        let entry = self.archive.get(&key(name, slot))?;
        let param = self.inputs.params.get(name)?;
        let expected: &[u64] = if slot == STEP { &[] } else { &param.shape };
        let Entry { name, dtype, shape, .. } = entry;
        if *dtype != Dtype::F32 {
            return Some(format!("{name:?} is {dtype}, expected F32"));
        }
        (shape != expected).then(|| format!("{name:?} has shape {shape:?}, expected {expected:?}"))
    }

    /// How many steps a tensor has taken: what the metadata say, if there are any, else what its tensor says.
    pub fn step(&mut self, name: &str, recorded: Option<Option<u64>>) -> Result<Option<u64>> {
        let key = key(name, STEP);
        let sound = |entry: &&Entry| entry.dtype == Dtype::F32 && entry.shape.is_empty();
        let Some(entry) = self.archive.get(&key).filter(sound) else { return Ok(None) };
        let found = self.archive.values(entry)?[0];
        let step = match recorded {
            Some(Some(step)) if step as f32 == found => Ok(step),
            Some(Some(step)) => Err(format!("{key:?} is {found}, but the metadata say {step}")),
            Some(None) => Err(format!("the metadata have no step count of {name:?}")),
            None => exact(found).ok_or(format!("{key:?} is {found}, expected a whole number from 0 to 2^24 - 1")),
        };
        Ok(step.map_err(|problem| self.problems.push(problem)).ok())
    }

    /// Every tensor that will be stepped has state, or is known never to have been stepped.
    pub fn nothing_missing(&mut self, tensors: &Tensors<'_>, metadata: Option<&Metadata<R>>) {
        for member in self.inputs.members(self.config) {
            let fresh = metadata.is_some_and(|metadata| metadata.without_state.contains(&member.name));
            if !fresh && !tensors.contains_key(member.name.as_str()) {
                let kept = self.config.slots_of(member.group);
                let (slot, step) = (key(&member.name, kept.first().unwrap_or(&STEP)), key(&member.name, STEP));
                self.problems.push(format!(
                    "{:?} has a gradient, but {slot:?} is missing; to start it afresh, write it as zeros and {step:?} as 0",
                    member.name
                ));
            }
        }
        let counted = metadata.iter().flat_map(|metadata| metadata.steps.keys());
        for name in counted.filter(|name| !tensors.contains_key(name.as_str())) {
            self.problems.push(format!("the metadata count the steps of {name:?}, which has no state"));
        }
        let fresh = metadata.iter().flat_map(|metadata| &metadata.without_state);
        for name in fresh.filter(|name| tensors.contains_key(name.as_str())) {
            self.problems.push(format!("the metadata say that {name:?} has no state, but it is there"));
        }
    }

    /// What decides which state is kept, and what it means, is what it was.
    pub fn structure<'n>(&mut self, names: impl Iterator<Item = &'n &'n str>, metadata: &Metadata<R>) {
        let mut problems = BTreeSet::new();
        for name in names {
            let group = self.config.group_of(name);
            for (setting, then, now) in changes(metadata.settings_of(name), &self.config.groups[group].steps[0]) {
                let group = self.config.group_name(group);
                problems.insert(format!(
                    "it was made with {setting} = {then}, but {group} of {} have {now}",
                    self.config.path.display()
                ));
            }
        }
        self.problems.extend(problems);
    }

    /// # Errors
    /// With everything that was found wrong.
    pub fn verdict(self) -> Result<()> {
        let rest = self.problems.len().saturating_sub(LISTED);
        let mut listed: Vec<String> = self.problems.into_iter().take(LISTED).collect();
        if rest > 0 {
            listed.push(format!("and {rest} more"));
        }
        match listed.as_slice() {
            [] => Ok(()),
            [problem] => bail!("{}: {problem}", self.archive.path()),
            _ => bail!("{}: the state does not fit:\n  {}", self.archive.path(), listed.join("\n  ")),
        }
    }
}

/// The settings of structure in which two differ. What only one of them has hangs on another that differs.
fn changes<R: Rule>(then: &R, now: &R) -> Vec<(&'static str, Value, Value)> {
    let now = now.structure();
    let both = then.structure().into_iter().filter_map(|(setting, then)| {
        let (_, now) = now.iter().find(|(name, _)| *name == setting)?;
        Some((setting, then, now.clone()))
    });
    both.filter(|(_, then, now)| then != now).collect()
}

fn exact(step: f32) -> Option<u64> {
    ((0.0..INEXACT).contains(&step) && step.fract() == 0.0).then_some(step as u64)
}
