//! Files that are whole or not there, whenever the process is killed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// Writes a file beside its place, down to the disk, and then puts it there. A process that is killed meanwhile
/// leaves the old file, and `PATH.partial`, which the next call writes over.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut partial = OsString::from(path);
    partial.push(".partial");
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
