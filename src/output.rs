//! Output files: written beside their place under another name, and put there only when all of them are whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Bytes gathered before the file is written to.
const BUFFER: usize = 1 << 20;

/// Why a file cannot be written.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are what the message says of them")]
pub enum Error {
    /// A path that does not end with a name, as `out/` and `..`.
    #[error("{path} is no name for a file")]
    NoName { path: String },

    /// A link, and there is no telling where a file was wanted.
    #[error("{path} is a link that leads to no file; remove it, or name the file itself")]
    DanglingLink { path: String },

    /// A folder, a pipe, a device.
    #[error("{path} is there and is not a regular file")]
    NotRegular { path: String },

    /// The system refuses.
    #[error("cannot write {path}: {message}")]
    Write { path: String, message: String },
}

/// A file on its way. Dropped before [`commit`], it leaves nothing; until then it lies beside its place as
/// `.NAME.*.partial`, which a program that is killed leaves behind.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    writer: BufWriter<NamedTempFile>,
}

impl Output {
    /// Starts a file that will lie at `path`, or where a link there leads.
    ///
    /// # Errors
    /// As [`check`], or [`Error::Write`] where the directory cannot be written to.
    pub fn create(path: &Path) -> Result<Self, Error> {
        check(path)?;
        let path = place(path).map_err(|error| failed(path, &error))?;
        let mut prefix = OsString::from(".");
        prefix.push(path.file_name().unwrap_or_default());
        prefix.push(".");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".partial");
        if let Some(permissions) = permissions(&path) {
            builder.permissions(permissions);
        }
        let file = builder.tempfile_in(directory(&path)).map_err(|error| failed(&path, &error))?;
        Ok(Self { path, writer: BufWriter::with_capacity(BUFFER, file) })
    }

    /// Where the file will lie.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what is gathered down to the disk.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn sync(&mut self) -> Result<(), Error> {
        let synced = self.writer.flush().and_then(|()| self.writer.get_ref().as_file().sync_all());
        synced.map_err(|error| failed(&self.path, &error))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Seek for Output {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.writer.seek(to)
    }
}

/// Puts files in their places, once all of them are on the disk whole.
///
/// # Errors
/// [`Error::Write`] for the first that could not be put there.
pub fn commit(outputs: impl IntoIterator<Item = Output>) -> Result<(), Error> {
    let mut outputs: Vec<Output> = outputs.into_iter().collect();
    outputs.iter_mut().try_for_each(Output::sync)?;
    for Output { path, writer } in outputs {
        let file = writer.into_inner().map_err(|error| failed(&path, error.error()))?;
        file.persist(&path).map_err(|error| failed(&path, &error.error))?;
        sync_directory(&path);
    }
    Ok(())
}

/// Refuses a path at which no file can be put, or none should.
///
/// # Errors
/// [`Error::NoName`], [`Error::DanglingLink`], [`Error::NotRegular`].
pub fn check(path: &Path) -> Result<(), Error> {
    let shown = || path.display().to_string();
    if !ends_with_a_name(path) {
        return Err(Error::NoName { path: shown() });
    }
    if path.is_symlink() && !path.exists() {
        return Err(Error::DanglingLink { path: shown() });
    }
    if fs::metadata(path).is_ok_and(|about| !about.is_file()) {
        return Err(Error::NotRegular { path: shown() });
    }
    Ok(())
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::Write { path: path.display().to_string(), message: error.to_string() }
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

/// The folder that a path names a file in.
pub fn directory(path: &Path) -> &Path {
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
