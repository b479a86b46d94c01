//! The state file: `state.NAME.SLOT` and `state.NAME.step` for each tensor, and in the metadata the exact step
//! counts and the settings that they were made with.

mod metadata;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::Path;

use anyhow::{Result, bail};
use wgpu_optim::Rule;
use wgpu_optim::rule::kept_slots;

use crate::config::Config;
use crate::inputs::Inputs;
use crate::report::{count, nearest};
use crate::safetensors::{Archive, Dtype, Entry};
use metadata::Metadata;
pub use metadata::value_json;
pub use write::write;

/// The slot, in files, of the number of steps.
const STEP: &str = "step";
/// The first whole number that f32 cannot tell from its neighbour.
const INEXACT: f32 = 16_777_216.0;
/// Disagreements that are listed.
const LISTED: usize = 12;

/// A state file that fits the parameters and the config.
pub struct Saved {
    archive: Archive,
    steps: BTreeMap<String, u64>,
    /// Where its settings were others than the config's.
    pub differences: Vec<String>,
}

impl Saved {
    /// Opens a state file and holds it against the parameters and the config.
    ///
    /// # Errors
    /// With everything that does not fit.
    pub fn open<R: Rule>(path: &Path, inputs: &Inputs, config: &Config<R>) -> Result<Self> {
        let archive = Archive::open(path)?;
        let metadata = Metadata::read(&archive)?;
        let mut check = Check { archive: &archive, inputs, config, problems: Vec::new() };
        let tensors = check.tensors();
        let mut steps = BTreeMap::new();
        for (name, slots) in &tensors {
            check.slots(name, slots);
            let recorded = metadata.as_ref().map(|metadata| metadata.steps.get(*name).copied());
            if let Some(step) = check.step(name, recorded)? {
                steps.insert(name.to_string(), step);
            }
        }
        check.nothing_missing(&tensors, metadata.as_ref());
        let mut differences = Vec::new();
        if let Some(metadata) = &metadata {
            check.structure(tensors.keys(), metadata);
            differences = metadata.differences(tensors.keys().copied(), config, &archive);
        }
        check.verdict()?;
        Ok(Self { archive, steps, differences })
    }

    /// How many steps a tensor has taken, if it has state.
    pub fn step_of(&self, name: &str) -> Option<u64> {
        self.steps.get(name).copied()
    }

    /// The values of a slot of a tensor that has state.
    pub fn values(&self, name: &str, slot: &str) -> Result<Vec<f32>> {
        self.archive.values(self.entry(name, slot)?)
    }

    fn entry(&self, name: &str, slot: &str) -> Result<&Entry> {
        match self.archive.get(&key(name, slot)) {
            Some(entry) => Ok(entry),
            None => bail!("{}: {:?} is missing", self.archive.path(), key(name, slot)),
        }
    }
}

/// The slots that settings keep, by name.
pub fn slots_of<R: Rule>(settings: &R) -> Vec<&'static str> {
    kept_slots(settings).into_iter().map(|slot| R::SLOTS[slot]).collect()
}

fn key(name: &str, slot: &str) -> String {
    format!("state.{name}.{slot}")
}

/// The slots that a file has of each tensor.
type Tensors<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// A state file under examination: what is wrong is gathered, so that all of it is told at once.
struct Check<'a, R> {
    archive: &'a Archive,
    inputs: &'a Inputs,
    config: &'a Config<R>,
    problems: Vec<String>,
}

impl<'a, R: Rule> Check<'a, R> {
    /// Sorts the keys by tensor.
    fn tensors(&mut self) -> Tensors<'a> {
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
        if slot != STEP && !R::SLOTS.contains(&slot) {
            return Err(format!("{key:?}: {} keeps no {slot:?}, only {}", R::NAME, R::SLOTS.join(", ")));
        }
        let params = &self.inputs.params;
        if params.get(name).is_none() {
            let near = nearest(name, params.names()).unwrap_or_default();
            return Err(format!("{key:?}: {} has no {name:?}; the nearest is {near:?}", params.path()));
        }
        Ok((name, slot))
    }

    /// The slots of one tensor are those that its settings keep, each with the parameter's shape.
    fn slots(&mut self, name: &str, found: &BTreeSet<&str>) {
        let group = self.config.group_of(name);
        let kept = slots_of(&self.config.groups[group].steps[0]);
        for slot in kept.iter().chain(&[STEP]).filter(|slot| !found.contains(**slot)) {
            self.problems.push(format!("{:?} is missing", key(name, slot)));
        }
        for slot in found.iter().filter(|slot| **slot != STEP && !kept.contains(*slot)) {
            let group = self.config.group_name(group);
            self.problems.push(format!("{:?} is not kept by the settings of {group}", key(name, slot)));
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
    fn step(&mut self, name: &str, recorded: Option<Option<u64>>) -> Result<Option<u64>> {
        let key = key(name, STEP);
        let sound = |entry: &&Entry| entry.dtype == Dtype::F32 && entry.shape.is_empty();
        let Some(entry) = self.archive.get(&key).filter(sound) else { return Ok(None) };
        let found = self.archive.values(entry)?[0];
        let step = match recorded {
            Some(Some(step)) if step as f32 == found => Ok(step),
            Some(Some(step)) => Err(format!("{key:?} is {found}, but the metadata say {step}")),
            Some(None) => Err(format!("the metadata have no step count of {name:?}")),
            None => exact(found).ok_or(format!("{key:?} is {found}, expected a whole number from 0 to 2^24")),
        };
        Ok(step.map_err(|problem| self.problems.push(problem)).ok())
    }

    /// Every tensor that will be stepped has state, or is known never to have been stepped.
    fn nothing_missing(&mut self, tensors: &Tensors<'_>, metadata: Option<&Metadata<R>>) {
        for member in self.inputs.members(self.config) {
            let fresh = metadata.is_some_and(|metadata| metadata.without_state.contains(&member.name));
            if !fresh && !tensors.contains_key(member.name.as_str()) {
                let kept = slots_of(&self.config.groups[member.group].steps[0]);
                let key = key(&member.name, kept.first().unwrap_or(&STEP));
                self.problems.push(format!("{:?} has a gradient, but {key:?} is missing", member.name));
            }
        }
        let counted = metadata.iter().flat_map(|metadata| metadata.steps.keys());
        for name in counted.filter(|name| !tensors.contains_key(name.as_str())) {
            self.problems.push(format!("the metadata count the steps of {name:?}, which has no state"));
        }
    }

    /// What decides which state is kept, and what it means, is what it was.
    fn structure<'n>(&mut self, names: impl Iterator<Item = &'n &'n str>, metadata: &Metadata<R>) {
        let mut problems = BTreeSet::new();
        for name in names {
            let group = self.config.group_of(name);
            let (then, now) = (metadata.settings_of(name).structure(), &self.config.groups[group].steps[0]);
            for ((setting, then), (_, now)) in then.into_iter().zip(now.structure()) {
                if then != now {
                    let group = self.config.group_name(group);
                    problems.insert(format!(
                        "it was made with {setting} = {then}, but {group} of {} have {now}",
                        self.config.path.display()
                    ));
                }
            }
        }
        self.problems.extend(problems);
    }

    fn verdict(self) -> Result<()> {
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

fn exact(step: f32) -> Option<u64> {
    (step >= 0.0 && step < INEXACT && step.fract() == 0.0).then_some(step as u64)
}

/// `lr was 0.1 in s.safetensors and is 0.2 in optim.toml (4 tensors)`.
fn difference(setting: &str, then: &dyn Display, now: &dyn Display, files: [&dyn Display; 2], n: u64) -> String {
    format!("{setting} was {then} in {} and is {now} in {} ({})", files[0], files[1], count(n, "tensor"))
}
