//! Output files: written beside their place under another name, and put there only when all of them are whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

use crate::usage::usage;

/// Bytes gathered before the file is written to.
const BUFFER: usize = 1 << 20;

/// A file on its way. Dropped before [`commit`], it leaves nothing.
pub struct Output {
    path: PathBuf,
    writer: BufWriter<NamedTempFile>,
}

impl Output {
    /// Starts a file that will lie at `path`.
    ///
    /// # Errors
    /// Where the directory cannot be written to.
    pub fn create(path: &Path) -> Result<Self> {
        let failed = || format!("cannot write {}", path.display());
        let path = &place(path).with_context(failed)?;
        let mut prefix = OsString::from(".");
        prefix.push(path.file_name().unwrap_or_default());
        prefix.push(".");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".partial");
        if let Some(permissions) = permissions(path) {
            builder.permissions(permissions);
        }
        let file = builder.tempfile_in(directory(path)).with_context(failed)?;
        Ok(Self { path: path.into(), writer: BufWriter::with_capacity(BUFFER, file) })
    }

    /// Writes the file with `write`, down to the disk.
    ///
    /// # Errors
    /// With the file's name.
    pub fn fill(&mut self, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let failed = || format!("cannot write {}", self.path.display());
        write(&mut self.writer).with_context(failed)?;
        self.writer.flush().with_context(failed)?;
        self.writer.get_ref().as_file().sync_all().with_context(failed)
    }
}

/// Puts files that are whole in their places.
///
/// # Errors
/// With the name of the first that could not be put there.
pub fn commit(outputs: Vec<Output>) -> Result<()> {
    for Output { path, writer } in outputs {
        let file = writer.into_inner().map_err(|error| error.into_error())?;
        file.persist(&path).map_err(|error| error.error).with_context(|| path.display().to_string())?;
        sync_directory(&path);
    }
    Ok(())
}

/// Refuses outputs that are an input, or each other, under whatever name.
///
/// # Errors
/// Of usage.
pub fn check_paths(inputs: &[&Path], outputs: &[(&str, &Path)]) -> Result<()> {
    for (i, (option, output)) in outputs.iter().enumerate() {
        let shown = output.display();
        if !ends_with_a_name(output) {
            return Err(usage!("{option}: {shown} is no name for a file"));
        }
        if output.is_symlink() && !output.exists() {
            return Err(usage!(
                "{option}: {shown} is a link that leads to no file; remove it, or name the file itself"
            ));
        }
        if fs::metadata(output).is_ok_and(|about| !about.is_file()) {
            return Err(usage!("{option}: {shown} is there and is not a regular file"));
        }
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

/// Where a file goes: what a link leads to is replaced, and the link stays.
fn place(path: &Path) -> io::Result<PathBuf> {
    if path.is_symlink() { path.canonicalize() } else { Ok(path.into()) }
}

/// Whether a path ends with the name of a file, which `out/` and `out/.` do not.
fn ends_with_a_name(path: &Path) -> bool {
    let whole = path.as_os_str().as_encoded_bytes();
    path.file_name().is_some_and(|name| whole.ends_with(name.as_encoded_bytes()))
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

/// A temporary file is its owner's alone; an output is not, unless the file that it replaces was.
#[cfg(unix)]
fn permissions(path: &Path) -> Option<fs::Permissions> {
    use std::os::unix::fs::PermissionsExt;
    let replaced = fs::metadata(path).map(|about| about.permissions().mode() & 0o777);
    Some(fs::Permissions::from_mode(replaced.unwrap_or(0o666)))
}

#[cfg(not(unix))]
fn permissions(_path: &Path) -> Option<fs::Permissions> {
    None
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A rename is on the disk once its directory is. Not every system can be asked for that, and the file is whole
/// either way.
fn sync_directory(path: &Path) {
    if let Ok(directory) = File::open(directory(path)) {
        let _ = directory.sync_all();
    }
}
