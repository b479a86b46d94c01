//! A run in one file: the library's checkpoint, and in it two sections that are this program's own.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use wgpu_optim::Rule;
use wgpu_optim::checkpoint::{Checkpoint, Extras, Json, Load, Save};

use super::curve::Curve;
use super::model::TENSORS;
use super::training::Training;

/// The section that tells our files from others. Its value is what `--rule` was.
const RUN: &str = "train_digits";
/// The section that holds the curve: the loss before each step.
const LOSSES: &str = "losses";

/// Writes the run as the steps submitted so far leave it, which waits for them. The curve goes in the same file, so that
/// neither is ever ahead of the other.
///
/// # Errors
/// Where the device is lost or the file cannot be written; an earlier file is then as it was.
pub fn save<R: Rule>(path: &Path, rule: &str, training: &Training<R>, curve: &Curve) -> Result<()> {
    let mut extras = Extras::default();
    extras.values.insert(RUN.into(), rule.into());
    extras.tensors.insert(LOSSES.into(), curve.losses().to_vec());
    let save = Save { params: true, extras };
    training.optimizer.save_blocking(&training.device, &training.queue, path, &save)?;
    Ok(())
}

/// Takes a run to where a file has it, and returns the curve up to there.
///
/// # Errors
/// Where the file cannot be read, is damaged, or is of another run; this one is then as it was.
pub fn load<R: Rule>(path: &Path, rule: &str, training: &mut Training<R>) -> Result<Curve> {
    let checkpoint = Checkpoint::open(path)?;
    let curve = curve(&checkpoint, rule).with_context(|| checkpoint.path().to_string())?;
    let load = Load { params: true, extras: &[RUN, LOSSES], ..Load::default() };
    training.optimizer.load_blocking(&training.device, &training.queue, &checkpoint, load)?;
    Ok(curve)
}

/// The curve, if the file is of this run. That everything else fits is the library's to check.
fn curve(checkpoint: &Checkpoint, rule: &str) -> Result<Curve> {
    let Extras { values, mut tensors } = checkpoint.extras()?;
    match values.get(RUN).and_then(Json::as_str) {
        None => bail!("this is no checkpoint of train_digits: it has no section {RUN:?} that names a rule"),
        Some(saved) if saved != rule => bail!("it was saved with --rule {saved}, this run has --rule {rule}"),
        Some(_) => {}
    }
    let losses = tensors.remove(LOSSES).with_context(|| format!("it has no tensor in a section {LOSSES:?}"))?;
    let (found, steps) = (losses.len() as u64, checkpoint.step_of(TENSORS[0].0).unwrap_or(0));
    ensure!(found == steps, "it has {found} losses, and has taken {steps} steps");
    Ok(Curve::new(losses))
}
