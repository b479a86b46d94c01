//! A checkpoint on its way to the disk: the head, then the data as they come, then the checksums into the head.

use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::{Error, checksum};
use crate::output::{self, Output, commit};
use crate::safetensors::{self, Dtype};

/// What a file will hold, before any data are touched.
pub(crate) struct Outline {
    pub metadata: Map<String, Json>,
    /// In the order of their data.
    pub parts: Vec<Part>,
}

/// A tensor of the file.
pub(crate) struct Part {
    pub key: String,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    pub source: Source,
}

/// Where a tensor's data come from.
pub(crate) enum Source {
    /// A slot of a tensor, by the number of both: the slot's among those that are kept.
    Slot(usize, usize),
    /// The scales of such a slot's blocks.
    Scales(usize, usize),
    /// A tensor's parameters.
    Params(usize),
    /// Here they are.
    Values(Vec<f32>),
}

/// A file that is being written. Dropped before it is finished, it leaves nothing.
pub(crate) struct Writer {
    output: Output,
    head: Vec<u8>,
    sums: Vec<u32>,
    sum: crc32fast::Hasher,
    /// What went wrong while data came that could not be stopped.
    failure: Option<io::Error>,
}

impl Writer {
    /// Starts a file with its head.
    pub fn create(path: &Path, outline: &Outline) -> Result<Self, Error> {
        let mut metadata = Map::new();
        metadata.insert(checksum::KEY.into(), checksum::placeholder(outline.parts.len()).into());
        metadata.extend(outline.metadata.clone());
        let tensors = outline.parts.iter().map(|part| (part.key.as_str(), part.dtype, part.shape.as_slice()));
        let head = safetensors::head(metadata, tensors)?;
        let (sums, sum) = (Vec::with_capacity(outline.parts.len()), crc32fast::Hasher::new());
        let mut writer = Self { output: Output::create(path)?, head, sums, sum, failure: None };
        writer.failure = writer.output.write_all(&writer.head).err();
        Ok(writer)
    }

    /// Takes the next bytes of the tensor. A failure is told by [`end_tensor`](Self::end_tensor).
    pub fn take(&mut self, bytes: &[u8]) {
        if self.failure.is_none() {
            self.sum.update(bytes);
            self.failure = self.output.write_all(bytes).err();
        }
    }

    /// Takes the bytes of a whole tensor.
    pub fn tensor(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.take(bytes);
        self.end_tensor()
    }

    /// Ends a tensor.
    pub fn end_tensor(&mut self) -> Result<(), Error> {
        self.sums.push(std::mem::take(&mut self.sum).finalize());
        self.told()
    }

    /// Puts the checksums into the head, and the file in its place once it is on the disk.
    pub fn finish(mut self) -> Result<(), Error> {
        let value = checksum::value(&self.head, &self.sums);
        let put = self.output.seek(SeekFrom::Start(checksum::AT as u64));
        self.failure = put.and_then(|_| self.output.write_all(value.as_bytes())).err();
        self.told()?;
        Ok(commit([self.output])?)
    }

    fn told(&mut self) -> Result<(), Error> {
        let Some(failure) = self.failure.take() else { return Ok(()) };
        let path = self.output.path().display().to_string();
        Err(output::Error::Write { path, message: failure.to_string() }.into())
    }
}
