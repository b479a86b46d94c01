//! Safetensors files: read strictly, a chunk at a time, and written so that data, and nothing else, change.
//!
//! A file is 8 bytes that give the length of a header, the header (JSON: each tensor's type, shape and bytes), and the
//! data. Format: <https://huggingface.co/docs/safetensors>. Nothing in a header is believed: lengths, types, shapes and
//! the bytes of each tensor are held against each other and against the file before anything is made of them.

mod dtype;
mod header;
mod write;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

pub use dtype::Dtype;
pub use header::{Entry, Unique};
use header::{Header, LENGTH, MAX_HEADER};
pub use write::head;

/// Bytes that are read at once, at most.
pub const CHUNK: usize = 1 << 20;

/// Why a file was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are what the message says of them")]
pub enum Error {
    /// The system does not give the file.
    #[error("{path}: {message}")]
    File { path: String, message: String },

    /// It is no safetensors file, or not a sound one.
    #[error("{path}: {message}")]
    Unsound { path: String, message: String },

    /// A tensor could not be read.
    #[error("{path}: cannot read tensor {name:?}: {message}")]
    Tensor { path: String, name: String, message: String },

    /// More names than the format allows.
    #[error("the header would have {size} bytes, at most {limit} are allowed")]
    HeaderTooLong { size: u64, limit: u64 },
}

/// A file whose header has been read and found sound.
#[derive(Debug)]
pub struct Archive {
    path: String,
    source: Source,
    /// The first bytes of the file as they are, the header's length included.
    head: Vec<u8>,
    header: Header,
    index: HashMap<String, usize>,
}

impl Archive {
    /// Opens a file and checks all of its header; no data are read. Memory: the header's, which is at most 100 MB.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Unsound`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let shown = path.display().to_string();
        let failed = |error: io::Error| Error::File { path: shown.clone(), message: error.to_string() };
        // Asked before the file is opened, because opening a pipe waits for its other end.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err(Error::File { path: shown, message: "not a regular file".into() });
        }
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        Self::read(shown, Source::File { file: Mutex::new(file), size })
    }

    /// [`open`](Self::open) for a file that is in memory; `path` is what messages call it.
    ///
    /// # Errors
    /// [`Error::Unsound`].
    pub fn from_bytes(path: impl Into<String>, bytes: Vec<u8>) -> Result<Self, Error> {
        Self::read(path.into(), Source::Bytes(bytes))
    }

    fn read(path: String, source: Source) -> Result<Self, Error> {
        let unsound = |message: String| Error::Unsound { path: path.clone(), message };
        let head = read_head(&source).map_err(unsound)?;
        let header = Header::parse(&head[LENGTH as usize..], source.size() - head.len() as u64).map_err(unsound)?;
        let names = header.entries.iter().enumerate();
        let index = names.map(|(i, entry)| (entry.name.clone(), i)).collect();
        Ok(Self { path, source, head, header, index })
    }

    /// The file's name, for messages.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The first bytes of the file: the header's length, and the header.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Every tensor, in the order of their data.
    pub fn entries(&self) -> &[Entry] {
        &self.header.entries
    }

    /// The name of every tensor, in the order of their data.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries().iter().map(|entry| entry.name.as_str())
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.index.get(name).map(|&i| &self.header.entries[i])
    }

    /// A value of the file's `__metadata__`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata.get(key).map(String::as_str)
    }

    /// The keys of the file's `__metadata__`.
    pub fn metadata_keys(&self) -> impl Iterator<Item = &str> {
        self.header.metadata.keys().map(String::as_str)
    }

    /// The values of an F32 tensor.
    ///
    /// # Errors
    /// [`Error::Tensor`], also where there is no memory for them.
    pub fn values(&self, entry: &Entry) -> Result<Vec<f32>, Error> {
        self.elements(entry)
    }

    /// The elements of a tensor, of which each has the bytes of a `T`, whatever they mean.
    ///
    /// # Errors
    /// As [`values`](Self::values), and where elements have another size.
    pub fn elements<T: bytemuck::Pod>(&self, entry: &Entry) -> Result<Vec<T>, Error> {
        if entry.dtype.bits != 8 * size_of::<T>() as u64 {
            let why = format!("an element of {} has not {} bytes", entry.dtype, size_of::<T>());
            return Err(self.failed(entry, &why));
        }
        self.filled(entry, entry.len())
    }

    /// The bytes of a tensor, whatever they mean.
    ///
    /// # Errors
    /// As [`values`](Self::values).
    pub fn bytes(&self, entry: &Entry) -> Result<Vec<u8>, Error> {
        self.filled(entry, entry.size())
    }

    fn filled<T: bytemuck::Pod>(&self, entry: &Entry, len: u64) -> Result<Vec<T>, Error> {
        let mut filled = Vec::new();
        let len = usize::try_from(len).map_err(|error| self.failed(entry, &error))?;
        filled.try_reserve_exact(len).map_err(|error| self.failed(entry, &error))?;
        filled.resize(len, T::zeroed());
        self.read_at(entry, 0, bytemuck::cast_slice_mut(&mut filled))?;
        Ok(filled)
    }

    /// Fills `bytes` with those of a tensor from its byte `start` on.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn read_at(&self, entry: &Entry, start: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let end = start.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > entry.size()) {
            return Err(self.failed(entry, &"it has fewer bytes than were asked for"));
        }
        let offset = self.head.len() as u64 + entry.start + start;
        self.source.read_at(offset, bytes).map_err(|error| self.failed(entry, &error))
    }

    /// Calls `take` with a tensor's bytes, whatever they mean, in order and at most [`CHUNK`] of them at once.
    ///
    /// # Errors
    /// [`Error::Tensor`], or what `take` returns.
    pub fn read_each<E: From<Error>>(
        &self,
        entry: &Entry,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut chunk = vec![0; CHUNK.min(usize::try_from(entry.size()).unwrap_or(CHUNK))];
        let mut start = 0;
        while start < entry.size() {
            let size = (entry.size() - start).min(chunk.len() as u64) as usize;
            self.read_at(entry, start, &mut chunk[..size])?;
            take(&chunk[..size])?;
            start += size as u64;
        }
        Ok(())
    }

    fn failed(&self, entry: &Entry, why: &dyn std::fmt::Display) -> Error {
        Error::Tensor { path: self.path.clone(), name: entry.name.clone(), message: why.to_string() }
    }
}

/// Where bytes come from.
#[derive(Debug)]
enum Source {
    /// The place in the file is one for all who read, so they take turns.
    File {
        file: Mutex<File>,
        size: u64,
    },
    Bytes(Vec<u8>),
}

impl Source {
    fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File { file, .. } => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(offset))?;
                file.read_exact(to)
            }
            Self::Bytes(bytes) => bytes.get(offset as usize..).unwrap_or_default().read_exact(to),
        }
    }
}

fn read_head(source: &Source) -> Result<Vec<u8>, String> {
    let size = source.size();
    if size < LENGTH {
        return Err(format!(
            "{size} bytes are too few for a safetensors file, which starts with {LENGTH} for its header's length"
        ));
    }
    let mut length = [0; LENGTH as usize];
    source.read_at(0, &mut length).map_err(|error| error.to_string())?;
    let header = u64::from_le_bytes(length);
    if header > MAX_HEADER {
        return Err(format!(
            "the header's length is given as {header} bytes, at most {MAX_HEADER} are allowed; is it a safetensors file?"
        ));
    }
    if header > size - LENGTH {
        return Err(format!(
            "the header's length is given as {header} bytes, but only {} follow; is it a whole safetensors file?",
            size - LENGTH
        ));
    }
    let mut head = vec![0; (LENGTH + header) as usize];
    source.read_at(0, &mut head).map_err(|error| error.to_string())?;
    Ok(head)
}
