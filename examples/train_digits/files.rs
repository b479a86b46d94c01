//! Where a run's files lie.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wgpu_optim::Rule;
use wgpu_optim::output::{self, Output};

use super::checkpoint;
use super::curve::Curve;
use super::training::Training;

/// What a run leaves.
pub struct Files {
    /// What `--rule` is, which the checkpoint tells.
    rule: String,
    checkpoint: PathBuf,
    csv: PathBuf,
    svg: PathBuf,
}

impl Files {
    /// Makes the folder `out`. Without a path of its own, the checkpoint goes there, too.
    ///
    /// # Errors
    /// Where one of the files could not be written: better told now than after the training.
    pub fn new(rule: &str, out: &Path, checkpoint: Option<&Path>) -> Result<Self> {
        fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        let checkpoint = checkpoint.map_or_else(|| out.join("checkpoint.safetensors"), Path::to_path_buf);
        let files = Self { rule: rule.into(), checkpoint, csv: out.join("loss.csv"), svg: out.join("loss.svg") };
        for path in [&files.checkpoint, &files.csv, &files.svg] {
            Output::create(path)?;
        }
        Ok(files)
    }

    /// The curve of a run at its start.
    pub fn start(&self) -> Curve {
        if self.checkpoint.exists() {
            eprintln!("note: this starts at step 0 and replaces {}; --resume goes on", self.checkpoint.display());
        }
        Curve::default()
    }

    /// Writes the checkpoint.
    pub fn save<R: Rule>(&self, training: &Training<R>, curve: &Curve) -> Result<()> {
        checkpoint::save(&self.checkpoint, &self.rule, training, curve)
    }

    /// Goes on from the checkpoint, and returns the curve up to there. A run that was killed before its first one
    /// starts again.
    pub fn resume<R: Rule>(&self, training: &mut Training<R>) -> Result<Curve> {
        if !self.checkpoint.exists() {
            eprintln!("note: there is no {} yet, so this starts at step 0", self.checkpoint.display());
            return Ok(Curve::default());
        }
        checkpoint::load(&self.checkpoint, &self.rule, training).context("cannot go on")
    }

    /// Writes the curve as numbers and as a picture, both or none, and returns where the picture lies.
    pub fn write_curve(&self, curve: &Curve, title: &str) -> Result<&Path> {
        let csv = filled(&self.csv, &curve.csv()?)?;
        let svg = filled(&self.svg, &curve.svg(title)?)?;
        output::commit([csv, svg])?;
        Ok(&self.svg)
    }
}

/// A file that is whole, and lies beside its place until it is committed.
fn filled(path: &Path, text: &str) -> Result<Output> {
    let mut output = Output::create(path)?;
    output.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(output)
}
