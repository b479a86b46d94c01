//! A state file held against the parameters and the config.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use wgpu_optim::Rule;
use wgpu_optim::chain::EMA;
use wgpu_optim::format::blocks::check_scales;
use wgpu_optim::format::{Format, KAHAN, MASTER, Plane, StateFormat, Storage};
use wgpu_optim::rule::Value;
use wgpu_optim::safetensors::{Archive, Dtype, Entry};

use super::held::{Held, What, held, scaled};
use super::metadata::Metadata;
use super::{STEP, key};
use crate::config::Config;
use crate::inputs::{Inputs, Member};
use crate::numbers::{dtype_of, format_of};
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
        let rest = key.strip_prefix("state.").unwrap_or_default();
        let Some((name, slot)) = scaled(rest).unwrap_or(rest).rsplit_once('.') else {
            return Err(format!("{key:?} is not of the form state.NAME.SLOT"));
        };
        if ![STEP, EMA, MASTER, KAHAN].contains(&slot) && !R::SLOTS.contains(&slot) {
            return Err(format!("{key:?}: {} keeps no {slot:?}, only {}", R::NAME, R::SLOTS.join(", ")));
        }
        let params = &self.inputs.params;
        match params.get(name) {
            Some(param) if format_of(param.dtype).is_some() => Ok((name, &rest[name.len() + 1..])),
            Some(param) => {
                let (dtype, path) = (param.dtype, params.path());
                Err(format!("{key:?}: {name:?} is {dtype} in {path}, and only F32, F16 and BF16 have state"))
            }
            None => {
                let near = nearest(name, params.names()).unwrap_or_default();
                Err(format!("{key:?}: {} has no {name:?}; the nearest is {near:?}", params.path()))
            }
        }
    }

    /// The slots of one tensor are those that its settings keep, each with the parameter's shape, and as its formats
    /// have it.
    pub fn slots(&mut self, name: &str, found: &BTreeSet<&str>) -> Result<()> {
        let group = self.config.group_of(name);
        let planes = self.planes(name);
        let held = self.inputs.params.get(name).map(|param| held(&planes, &param.shape)).unwrap_or_default();
        // A slot in another format is told once, not by its scales too.
        let recast = |slot: &str| {
            let slot = scaled(slot)?;
            let kept = held.iter().find(|held| held.slot == slot)?;
            self.archive.get(&key(name, slot)).map(|entry| entry.dtype != kept.dtype)
        };
        let missing = held.iter().map(|held| held.slot.as_str()).filter(|slot| !found.contains(slot));
        let missing: Vec<&str> = missing.filter(|slot| recast(slot) != Some(true)).collect();
        let idle = found.iter().copied().filter(|slot| held.iter().all(|held| held.slot != *slot));
        let idle: Vec<&str> = idle.filter(|slot| recast(slot) != Some(true)).collect();
        for slot in missing {
            self.problems.push(format!("{:?} is missing{}", key(name, slot), begin(slot)));
        }
        for slot in idle {
            let group = self.config.group_name(group);
            self.problems.push(format!("{:?} is not kept by the settings of {group}{}", key(name, slot), keep(slot)));
        }
        for held in held.iter().filter(|held| found.contains(held.slot.as_str())) {
            match self.misfit(name, held) {
                Some(problem) => self.problems.push(problem),
                None => self.scales(name, held)?,
            }
        }
        Ok(())
    }

    fn planes(&self, name: &str) -> Vec<Plane> {
        let len = self.inputs.params.get(name).map_or(0, Entry::len);
        let params = self.inputs.format_of(name).unwrap_or_default();
        self.config.planes_of(self.config.group_of(name), params, len)
    }

    fn misfit(&self, tensor: &str, held: &Held) -> Option<String> {
        let Entry { name, dtype, shape, .. } = self.archive.get(&key(tensor, &held.slot))?;
        if *dtype != held.dtype {
            let expected = held.dtype;
            let hint = if let What::Values(slot) = held.what { self.recast(tensor, slot, *dtype) } else { None };
            return Some(format!("{name:?} is {dtype}, expected {expected}{}", hint.unwrap_or_default()));
        }
        let expected = &held.shape;
        (shape != expected).then(|| format!("{name:?} has shape {shape:?}, expected {expected:?}"))
    }

    /// What to do about a slot of another format.
    fn recast(&self, tensor: &str, slot: &str, found: Dtype) -> Option<String> {
        if !R::SLOTS.contains(&slot) {
            return None;
        }
        let storages = [Storage::F32, Storage::Bf16, Storage::Q8Signed];
        let word = storages.into_iter().find(|storage| dtype_of(*storage) == found)?.word();
        let keys = &self.config.groups[self.config.group_of(tensor)].format;
        let len = self.inputs.params.get(tensor).map_or(0, Entry::len);
        let asked = keys.formats(Format::F32, Format::F32).slots.get(slot).copied().or(keys.state);
        let set = match asked {
            Some(StateFormat::Q8) if found == Dtype::U8 => format!("lower q8_min, which is more than {len},"),
            _ => format!("set state = {{ {slot} = {word:?} }}"),
        };
        Some(format!("; state is never cast: {set} in [format] to go on with it, or begin without --state"))
    }

    /// A scale is the largest magnitude of its block, of numbers that are finite.
    fn scales(&mut self, name: &str, held: &Held) -> Result<()> {
        let What::Scales(_) = held.what else { return Ok(()) };
        let key = key(name, &held.slot);
        let Some(entry) = self.archive.get(&key) else { return Ok(()) };
        if let Err(error) = check_scales(0, self.archive.values(entry)?) {
            self.problems.push(format!("{key:?}: {error}"));
        }
        Ok(())
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
    pub fn nothing_missing(&mut self, members: &[Member], tensors: &Tensors<'_>, metadata: Option<&Metadata<R>>) {
        for member in members {
            let fresh = metadata.is_some_and(|metadata| metadata.without_state.contains(&member.name));
            if !fresh && !tensors.contains_key(member.name.as_str()) {
                let kept = self.planes(&member.name);
                let first = kept.first().map_or(STEP, |plane| plane.slot);
                let (slot, step) = (key(&member.name, first), key(&member.name, STEP));
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
            problems.extend(self.cast(name, metadata.params_of(name)));
        }
        self.problems.extend(problems);
    }

    /// Parameters that were of another format when the state was made.
    fn cast(&self, name: &str, then: Format) -> Option<String> {
        let now = self.inputs.format_of(name).filter(|now| *now != then)?;
        let (path, then, now) = (self.inputs.params.path(), dtype_of(then.storage()), dtype_of(now.storage()));
        Some(format!("it was made with {name:?} as {then}, and in {path} it is {now}; store it as {then} to go on"))
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

/// What to do about a slot that is missing.
fn begin(slot: &str) -> &'static str {
    match slot {
        EMA => "; to begin the average now, write the parameters there",
        MASTER => "; to begin a master now, write zeros there, which are taken from the parameters",
        KAHAN => "; to begin now, write zeros there",
        _ => "",
    }
}

/// What would keep a slot that is not kept.
fn keep(slot: &str) -> &'static str {
    match slot {
        EMA => ", for which there is a table [ema]",
        MASTER => ", for which there is master = true in [format]",
        KAHAN => ", for which there is rounding = \"kahan\" in [format]",
        _ => "",
    }
}

fn exact(step: f32) -> Option<u64> {
    ((0.0..INEXACT).contains(&step) && step.fract() == 0.0).then_some(step as u64)
}
