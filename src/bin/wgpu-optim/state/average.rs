//! Writing the averages of the parameters, in the parameters' own layout and formats.

use std::collections::HashMap;
use std::io::Write;

use anyhow::Result;
use wgpu_optim::Rule;
use wgpu_optim::chain::EMA;
use wgpu_optim::safetensors::Entry;

use super::Saved;
use crate::inputs::{Inputs, Member};
use crate::numbers::{Numbers, format_of};
use crate::stepper::Stepper;

/// Writes the average of each tensor, and the parameters of those that have taken no step: what has not moved is its
/// own average.
///
/// # Errors
/// Where it cannot be read back or the file not be written.
pub fn write<R: Rule>(
    sink: &mut dyn Write,
    inputs: &Inputs,
    members: &[Member],
    saved: Option<&Saved>,
    stepper: &dyn Stepper<R>,
) -> Result<()> {
    let params = &inputs.params;
    let steps = stepper.steps()?;
    let numbers: HashMap<&str, usize> =
        members.iter().enumerate().map(|(tensor, member)| (member.name.as_str(), tensor)).collect();
    sink.write_all(params.head())?;
    for entry in params.entries() {
        let kept = saved.filter(|saved| saved.step_of(&entry.name).is_some_and(|step| step > 0));
        match (numbers.get(entry.name.as_str()), kept) {
            (Some(&tensor), _) if steps[tensor] > 0 => {
                let mut average = Vec::new();
                stepper.write_state(tensor, EMA, &mut average)?;
                narrow(&average, entry, sink)?;
            }
            (Some(&tensor), _) => stepper.write_params(tensor, sink)?,
            (None, Some(saved)) => {
                let mut average = Vec::new();
                saved.copy(&entry.name, EMA, &mut average)?;
                narrow(&average, entry, sink)?;
            }
            (None, None) => params.read_each(entry, |chunk| anyhow::Ok(sink.write_all(chunk)?))?,
        }
    }
    Ok(())
}

/// Writes an average, which is kept in `f32`, in the format of its parameters.
fn narrow(average: &[u8], entry: &Entry, sink: &mut dyn Write) -> Result<()> {
    let format = format_of(entry.dtype).unwrap_or_default();
    let (narrowed, _) = Numbers::F32(bytemuck::pod_collect_to_vec(average)).cast(format);
    Ok(sink.write_all(narrowed.bytes())?)
}
