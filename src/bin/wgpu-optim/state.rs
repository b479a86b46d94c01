//! The state file: `state.NAME.SLOT` and `state.NAME.step` for each tensor, and in the metadata the exact step
//! counts, the settings and formats that they were made with, and what schedules and scaler go on from. A slot of 8
//! bits is two tensors: codes as U8, and `state.NAME.SLOT.scale`.

pub mod average;
mod check;
mod held;
pub mod metadata;
mod progress;
mod write;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use wgpu_optim::Rule;
use wgpu_optim::chain::control::Control;
use wgpu_optim::format::Plane;
use wgpu_optim::safetensors::{Archive, Entry};

use crate::config::Config;
use crate::inputs::{Inputs, Member};
use crate::stepper::Stored;
use check::Check;
use held::scale_of;
use metadata::Metadata;
pub use write::write;

/// The slot, in files, of the number of steps.
const STEP: &str = "step";

/// A state file that fits the parameters and the config.
pub struct Saved {
    archive: Archive,
    steps: BTreeMap<String, u64>,
    /// How many steps there were, skipped ones included: where schedules go on.
    pub recorded: u64,
    /// What the scaler remembers, of a run that had one.
    pub control: Option<Control>,
    /// Where its settings were others than the config's.
    pub differences: Vec<String>,
}

impl Saved {
    /// Opens a state file and holds it against the parameters and the config.
    ///
    /// # Errors
    /// With everything that does not fit.
    pub fn open<R: Rule>(path: &Path, inputs: &Inputs, members: &[Member], config: &Config<R>) -> Result<Self> {
        let archive = Archive::open(path)?;
        let metadata = Metadata::read(&archive)?;
        let mut check = Check { archive: &archive, inputs, config, problems: Vec::new() };
        let tensors = check.tensors();
        let mut steps = BTreeMap::new();
        for (name, slots) in &tensors {
            check.slots(name, slots)?;
            let recorded = metadata.as_ref().map(|metadata| metadata.steps.get(*name).copied());
            if let Some(step) = check.step(name, recorded)? {
                steps.insert(name.to_string(), step);
            }
        }
        check.nothing_missing(members, &tensors, metadata.as_ref());
        let mut differences = Vec::new();
        if let Some(metadata) = &metadata {
            check.structure(tensors.keys(), metadata);
            differences = metadata.differences(tensors.keys().copied(), config, &archive);
        }
        check.verdict()?;
        let progress = metadata.and_then(|metadata| metadata.progress);
        let most = steps.values().copied().max().unwrap_or_default();
        if progress.is_none() && config.groups.iter().any(|group| group.schedule.is_some()) {
            let path = archive.path();
            differences.push(format!(
                "{path} does not tell how many steps there were; the schedule goes on at step {most}, the most that a \
                 tensor has taken"
            ));
        }
        let recorded = progress.map_or(most, |progress| progress.recorded);
        let control = progress.and_then(|progress| progress.control());
        Ok(Self { archive, steps, recorded, control, differences })
    }

    /// How many steps a tensor has taken, if it has state.
    pub fn step_of(&self, name: &str) -> Option<u64> {
        self.steps.get(name).copied()
    }

    /// The bytes of a slot of a tensor that has state, and of its scales.
    pub fn slot(&self, name: &str, plane: Plane) -> Result<Stored> {
        let bytes = |slot: &str| anyhow::Ok(self.archive.bytes(self.entry(name, slot)?)?);
        let scales = if plane.storage.has_scales() { bytes(&scale_of(plane.slot))? } else { Vec::new() };
        Ok(Stored { bytes: bytes(plane.slot)?, scales })
    }

    /// Writes what lies under a key.
    fn copy(&self, name: &str, slot: &str, sink: &mut dyn Write) -> Result<()> {
        self.archive.read_each(self.entry(name, slot)?, |chunk| anyhow::Ok(sink.write_all(chunk)?))
    }

    fn entry(&self, name: &str, slot: &str) -> Result<&Entry> {
        match self.archive.get(&key(name, slot)) {
            Some(entry) => Ok(entry),
            None => bail!("{}: {:?} is missing", self.archive.path(), key(name, slot)),
        }
    }
}

fn key(name: &str, slot: &str) -> String {
    format!("state.{name}.{slot}")
}
