//! Where a run's files lie.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wgpu_optim::Rule;
use wgpu_optim::output::{self, Output};

use super::checkpoint;
use super::curve::Curve;
use super::plot::{self, Named};
use super::training::Training;

/// The checkpoint of a run.
pub struct Saved {
    /// What `--rule` is, which the checkpoint tells.
    rule: String,
    path: PathBuf,
}

/// The curves of all runs.
pub struct Drawn {
    csv: PathBuf,
    svg: PathBuf,
}

impl Saved {
    /// Where it lies: `path`.
    ///
    /// # Errors
    /// Where it could not be written: better told now than after the training.
    pub fn new(rule: &str, path: PathBuf) -> Result<Self> {
        Output::create(&path)?;
        Ok(Self { rule: rule.into(), path })
    }

    /// The curve of a run at its start.
    pub fn start(&self) -> Curve {
        if self.path.exists() {
            eprintln!("note: this starts at step 0 and replaces {}; --resume goes on", self.path.display());
        }
        Curve::default()
    }

    /// Writes the checkpoint.
    pub fn save<R: Rule>(&self, training: &Training<R>, curve: &Curve) -> Result<()> {
        checkpoint::save(&self.path, &self.rule, training, curve)
    }

    /// Goes on from the checkpoint, and returns the curve up to there. A run that was killed before its first one
    /// starts again.
    pub fn resume<R: Rule>(&self, training: &mut Training<R>) -> Result<Curve> {
        if !self.path.exists() {
            eprintln!("note: there is no {} yet, so this starts at step 0", self.path.display());
            return Ok(Curve::default());
        }
        checkpoint::load(&self.path, &self.rule, training).context("cannot go on")
    }
}

impl Drawn {
    /// In the folder `out`, which it makes.
    ///
    /// # Errors
    /// As [`Saved::new`].
    pub fn new(out: &Path) -> Result<Self> {
        fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        let files = Self { csv: out.join("loss.csv"), svg: out.join("loss.svg") };
        for path in [&files.csv, &files.svg] {
            Output::create(path)?;
        }
        Ok(files)
    }

    /// Writes the curves as numbers and as a picture, both or none, and returns where the picture lies.
    pub fn write(&self, curves: &[Named], title: &str) -> Result<&Path> {
        let csv = filled(&self.csv, &plot::csv(curves)?)?;
        let svg = filled(&self.svg, &plot::svg(curves, title)?)?;
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
