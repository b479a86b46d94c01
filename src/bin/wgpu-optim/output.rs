//! Output files, with errors that name them, and the care that none of them is an input.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use wgpu_optim::output::{self, check, directory};

use crate::usage::usage;

/// A file on its way. Dropped before [`commit`], it leaves nothing.
pub struct Output(output::Output);

impl Output {
    /// Starts a file that will lie at `path`.
    ///
    /// # Errors
    /// Where the directory cannot be written to.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self(output::Output::create(path)?))
    }

    /// Writes the file with `write`, down to the disk.
    ///
    /// # Errors
    /// With the file's name.
    pub fn fill(&mut self, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        write(&mut self.0).with_context(|| format!("cannot write {}", self.0.path().display()))?;
        Ok(self.0.sync()?)
    }
}

/// Puts files that are whole in their places.
///
/// # Errors
/// With the name of the first that could not be put there.
pub fn commit(outputs: Vec<Output>) -> Result<()> {
    Ok(output::commit(outputs.into_iter().map(|Output(output)| output))?)
}

/// Refuses outputs that are an input, or each other, under whatever name.
///
/// # Errors
/// Of usage.
pub fn check_paths(inputs: &[&Path], outputs: &[(&str, &Path)]) -> Result<()> {
    for (i, (option, output)) in outputs.iter().enumerate() {
        let shown = output.display();
        check(output).map_err(|error| usage!("{option}: {error}"))?;
        if let Some(input) = inputs.iter().find(|input| same(input, output)) {
            return Err(usage!(
                "{option}: {shown} is the input {}; inputs are never written to, so name another file",
                input.display()
            ));
        }
        if let Some((other, _)) = outputs[..i].iter().find(|(_, earlier)| same(earlier, output)) {
            return Err(usage!("{option} and {other} are one file: {shown}"));
        }
    }
    Ok(())
}

/// Whether two paths lead to one file, be it through links, or would do so if it were there.
fn same(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| Some(directory(path).canonicalize().ok()?.join(path.file_name()?));
    let target = |path: &Path| path.canonicalize().ok();
    identity(a).is_some_and(|a| identity(b) == Some(a))
        || target(a).is_some_and(|a| target(b) == Some(a))
        || place(a).is_some_and(|a| place(b) == Some(a))
}

#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|about| (about.dev(), about.ino()))
}

#[cfg(not(unix))]
fn identity(_path: &Path) -> Option<(u64, u64)> {
    None
}
