//! Writing the averages of the parameters, in the parameters' own layout.

use std::collections::HashMap;
use std::io::Write;

use anyhow::Result;
use wgpu_optim::Rule;
use wgpu_optim::chain::EMA;

use super::Saved;
use crate::inputs::{Inputs, Member};
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
            (Some(&tensor), _) if steps[tensor] > 0 => stepper.write_state(tensor, EMA, sink)?,
            (Some(&tensor), _) => stepper.write_params(tensor, sink)?,
            (None, Some(saved)) => saved.copy(&entry.name, EMA, sink)?,
            (None, None) => params.read_each(entry, |chunk| anyhow::Ok(sink.write_all(chunk)?))?,
        }
    }
    Ok(())
}
