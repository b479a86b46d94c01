//! Writing the state file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::Result;
use wgpu_optim::Rule;
use wgpu_optim::format::Format;
use wgpu_optim::safetensors;

use super::held::{Held, What, held};
use super::progress::Progress;
use super::{Saved, key, metadata};
use crate::config::Config;
use crate::inputs::{Inputs, Member};
use crate::numbers::format_of;
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
    let keys = keys(config, inputs, &sources);
    sink.write_all(&head(config, inputs, &sources, &keys, (&steps, &progress))?)?;
    for (name, held) in keys {
        match (&sources[name], held.what) {
            (_, What::Step) => sink.write_all(&(steps[name] as f32).to_le_bytes())?,
            (Source::Live(tensor), What::Values(slot)) => stepper.write_state(*tensor, slot, sink)?,
            (Source::Live(tensor), What::Scales(slot)) => stepper.write_scales(*tensor, slot, sink)?,
            (Source::Kept(saved), _) => saved.copy(name, &held.slot, sink)?,
        }
    }
    Ok(())
}

fn sources<'a>(members: &'a [Member], saved: Option<&'a Saved>) -> BTreeMap<&'a str, Source<'a>> {
    let kept =
        saved.into_iter().flat_map(|saved| saved.steps.keys().map(move |name| (name.as_str(), Source::Kept(saved))));
    let live = members.iter().enumerate().map(|(tensor, member)| (member.name.as_str(), Source::Live(tensor)));
    kept.chain(live).collect()
}

/// Every key of every tensor. Large elements come before small ones, so that each lies at a multiple of its size, which
/// readers that map a file want.
fn keys<'a, R: Rule>(
    config: &Config<R>,
    inputs: &Inputs,
    sources: &BTreeMap<&'a str, Source<'_>>,
) -> Vec<(&'a str, Held)> {
    let mut keys = Vec::new();
    for &name in sources.keys() {
        if let Some(param) = inputs.params.get(name) {
            let params = inputs.format_of(name).unwrap_or_default();
            let planes = config.planes_of(config.group_of(name), params, param.len());
            keys.extend(held(&planes, &param.shape).into_iter().map(|held| (name, held)));
        }
    }
    keys.sort_by_key(|(_, held)| std::cmp::Reverse(held.dtype.bits));
    keys
}

fn head<R: Rule>(
    config: &Config<R>,
    inputs: &Inputs,
    sources: &BTreeMap<&str, Source<'_>>,
    keys: &[(&str, Held)],
    (steps, progress): (&BTreeMap<String, u64>, &Progress),
) -> Result<Vec<u8>> {
    let params = inputs.params.entries().iter();
    let never = params.filter(|param| format_of(param.dtype).is_some() && !param.is_empty());
    let never: BTreeSet<&str> = never.map(|param| param.name.as_str()).collect();
    let without_state = never.into_iter().filter(|name| !sources.contains_key(name)).collect();
    let formats = sources.keys().map(|name| (*name, inputs.format_of(name).unwrap_or_default()));
    let formats = formats.filter(|(_, format)| *format != Format::F32).collect();
    let tensors: Vec<(String, &Held)> = keys.iter().map(|(name, held)| (key(name, &held.slot), held)).collect();
    let tensors = tensors.iter().map(|(key, held)| (key.as_str(), held.dtype, held.shape.as_slice()));
    let metadata = metadata::to_json(config, steps, &without_state, &formats, progress)?;
    Ok(safetensors::head(metadata, tensors)?)
}
