//! Where a run's files lie, and in which order they are written.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wgpu_optim::Rule;

use super::checkpoint;
use super::curve::Curve;
use super::training::Training;

/// What a run leaves.
pub struct Files {
    /// The rule's name, which the checkpoint tells.
    rule: String,
    checkpoint: PathBuf,
    csv: PathBuf,
    svg: PathBuf,
}

impl Files {
    /// Makes the folder `out`. Without a path of its own, the checkpoint goes there, too.
    pub fn new(rule: &str, out: &Path, checkpoint: Option<&Path>) -> Result<Self> {
        fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        let checkpoint = checkpoint.map_or_else(|| out.join("checkpoint.safetensors"), Path::to_path_buf);
        Ok(Self { rule: rule.into(), checkpoint, csv: out.join("loss.csv"), svg: out.join("loss.svg") })
    }

    /// The curve first: it may be ahead of the checkpoint, never behind it.
    pub fn save<R: Rule>(&self, training: &Training<R>, curve: &Curve) -> Result<()> {
        curve.write(&self.csv)?;
        checkpoint::save(&self.checkpoint, &self.rule, training)
    }

    /// Goes on from the checkpoint, and returns the curve up to there. A run that was killed before its first one
    /// starts again.
    pub fn resume<R: Rule>(&self, training: &mut Training<R>) -> Result<Curve> {
        if !self.checkpoint.exists() {
            eprintln!("note: there is no {} yet, so this starts at step 0", self.checkpoint.display());
            return Ok(Curve::default());
        }
        checkpoint::load(&self.checkpoint, &self.rule, training)?;
        Curve::read(&self.csv, training.steps()?)
    }

    /// Writes the curve as numbers and as a picture, and returns where the picture lies.
    pub fn write_curve(&self, curve: &Curve, title: &str) -> Result<&Path> {
        curve.write(&self.csv)?;
        curve.draw(&self.svg, title)?;
        Ok(&self.svg)
    }
}
