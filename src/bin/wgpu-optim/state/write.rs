//! Writing the state file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::Result;
use wgpu_optim::Rule;
use wgpu_optim::safetensors::{self, Dtype};

use super::progress::Progress;
use super::{STEP, Saved, key, metadata};
use crate::config::Config;
use crate::inputs::{Inputs, Member};
use crate::stepper::Stepper;

/// Where the state of a tensor comes from.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// From the optimizer, under this number.
    Live(usize),
    /// From the file that the job started from: the tensor had no gradient.
    Kept(&'a Saved),
}

/// Writes the state of every tensor that has any, those that were read and not stepped too.
///
/// # Errors
/// Where the state cannot be read back or the file not be written.
pub fn write<R: Rule>(
    sink: &mut dyn Write,
    config: &Config<R>,
    inputs: &Inputs,
    members: &[Member],
    saved: Option<&Saved>,
    stepper: &dyn Stepper<R>,
) -> Result<()> {
    let sources = sources(members, saved);
    let live = stepper.steps()?;
    let step = |(name, source): (&&str, &Source<'_>)| match source {
        Source::Live(tensor) => (name.to_string(), live[*tensor]),
        Source::Kept(saved) => (name.to_string(), saved.step_of(name).unwrap_or_default()),
    };
    let steps: BTreeMap<String, u64> = sources.iter().map(step).collect();
    let recorded = saved.map_or(0, |saved| saved.recorded) + inputs.grads.len() as u64;
    let progress = Progress::new(&config.chain, recorded, stepper.control()?);
    sink.write_all(&head(config, inputs, &sources, (&steps, &progress))?)?;
    for (name, source) in &sources {
        for slot in config.slots_of(config.group_of(name)) {
            match source {
                Source::Live(tensor) => stepper.write_state(*tensor, slot, sink)?,
                Source::Kept(saved) => saved.copy(name, slot, sink)?,
            }
        }
        sink.write_all(&(steps[*name] as f32).to_le_bytes())?;
    }
    Ok(())
}

fn sources<'a>(members: &'a [Member], saved: Option<&'a Saved>) -> BTreeMap<&'a str, Source<'a>> {
    let kept =
        saved.into_iter().flat_map(|saved| saved.steps.keys().map(move |name| (name.as_str(), Source::Kept(saved))));
    let live = members.iter().enumerate().map(|(tensor, member)| (member.name.as_str(), Source::Live(tensor)));
    kept.chain(live).collect()
}

fn head<R: Rule>(
    config: &Config<R>,
    inputs: &Inputs,
    sources: &BTreeMap<&str, Source<'_>>,
    (steps, progress): (&BTreeMap<String, u64>, &Progress),
) -> Result<Vec<u8>> {
    let params = inputs.params.entries().iter();
    let never = params.filter(|param| param.dtype == Dtype::F32 && !param.is_empty());
    let never: BTreeSet<&str> = never.map(|param| param.name.as_str()).collect();
    let without_state = never.into_iter().filter(|name| !sources.contains_key(name)).collect();
    let mut tensors: Vec<(String, &[u64])> = Vec::new();
    for name in sources.keys() {
        let shape = inputs.params.get(name).map_or(&[][..], |param| &param.shape);
        for slot in config.slots_of(config.group_of(name)) {
            tensors.push((key(name, slot), shape));
        }
        tensors.push((key(name, STEP), &[]));
    }
    let tensors = tensors.iter().map(|(key, shape)| (key.as_str(), Dtype::F32, *shape));
    Ok(safetensors::head(metadata::to_json(config, steps, &without_state, progress)?, tensors)?)
}
