//! Safetensors files: read strictly, a tensor at a time, and written so that data, and nothing else, change.

mod dtype;
mod header;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

pub use dtype::Dtype;
pub use header::{Entry, Unique};
use header::{Header, LENGTH, MAX_HEADER};

/// A file whose header has been read and found sound.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    file: File,
    /// The first bytes of the file as they are, the header's length included.
    head: Vec<u8>,
    header: Header,
    index: HashMap<String, usize>,
}

impl Archive {
    /// Opens a file and checks all of its header; no data are read.
    ///
    /// # Errors
    /// With the file's name and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).with_context(|| path.display().to_string())
    }

    fn read(path: &Path) -> Result<Self> {
        // Asked before the file is opened, because opening a pipe waits for its other end.
        if !fs::metadata(path)?.is_file() {
            bail!("not a regular file");
        }
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let head = read_head(&mut file, size)?;
        let header = Header::parse(&head[LENGTH as usize..], size - head.len() as u64)?;
        let names = header.entries.iter().enumerate();
        let index = names.map(|(i, entry)| (entry.name.clone(), i)).collect();
        Ok(Self { path: path.into(), file, head, header, index })
    }

    pub fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// The first bytes of the file: the header's length, and the header.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Every tensor, in the order of their data.
    pub fn entries(&self) -> &[Entry] {
        &self.header.entries
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries().iter().map(|entry| entry.name.as_str())
    }

    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.index.get(name).map(|&i| &self.header.entries[i])
    }

    /// A value of the file's `__metadata__`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata.get(key).map(String::as_str)
    }

    /// The values of an F32 tensor.
    pub fn values(&self, entry: &Entry) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        let len = usize::try_from(entry.len())?;
        values.try_reserve_exact(len).map_err(|error| self.failed(entry, &error))?;
        values.resize(len, 0.0f32);
        let bytes = bytemuck::cast_slice_mut(&mut values);
        self.data(entry).and_then(|mut data| data.read_exact(bytes)).map_err(|error| self.failed(entry, &error))?;
        Ok(values)
    }

    /// Copies a tensor's bytes, whatever they mean.
    pub fn copy(&self, entry: &Entry, sink: &mut dyn Write) -> Result<()> {
        let mut data = self.data(entry).map_err(|error| self.failed(entry, &error))?;
        let copied = io::copy(&mut data, sink).with_context(|| format!("tensor {:?}", entry.name))?;
        if copied != entry.size() {
            return Err(self.failed(entry, &"the file has become shorter"));
        }
        Ok(())
    }

    fn data(&self, entry: &Entry) -> io::Result<io::Take<&File>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.head.len() as u64 + entry.start))?;
        Ok(file.take(entry.size()))
    }

    fn failed(&self, entry: &Entry, why: &dyn std::fmt::Display) -> anyhow::Error {
        anyhow!("{}: cannot read tensor {:?}: {why}", self.path(), entry.name)
    }
}

fn read_head(file: &mut File, size: u64) -> Result<Vec<u8>> {
    if size < LENGTH {
        bail!("{size} bytes are too few for a safetensors file, which starts with {LENGTH} for its header's length");
    }
    let mut length = [0; LENGTH as usize];
    file.read_exact(&mut length)?;
    let header = u64::from_le_bytes(length);
    if header > MAX_HEADER {
        bail!(
            "the header's length is given as {header} bytes, at most {MAX_HEADER} are allowed; is it a safetensors file?"
        );
    }
    if header > size - LENGTH {
        bail!(
            "the header's length is given as {header} bytes, but only {} follow; is it a whole safetensors file?",
            size - LENGTH
        );
    }
    let mut head = vec![0; (LENGTH + header) as usize];
    head[..LENGTH as usize].copy_from_slice(&length);
    file.read_exact(&mut head[LENGTH as usize..])?;
    Ok(head)
}

/// The first bytes of a file with this metadata and these F32 tensors, given as names and shapes in the order of
/// their data.
///
/// # Errors
/// Where the header is longer than the format allows.
pub fn head<'a>(
    metadata: serde_json::Map<String, serde_json::Value>,
    tensors: impl IntoIterator<Item = (&'a str, &'a [u64])>,
) -> Result<Vec<u8>> {
    let mut header = serde_json::Map::new();
    header.insert(header::METADATA.into(), metadata.into());
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<u64>() * 4;
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.into(), entry);
    }
    let mut text = serde_json::to_vec(&header)?;
    // Data start at a multiple of 8, so that a reader may map them.
    text.resize(text.len().next_multiple_of(8), b' ');
    if text.len() as u64 > MAX_HEADER {
        bail!("the header would have {} bytes, at most {MAX_HEADER} are allowed", text.len());
    }
    Ok([&(text.len() as u64).to_le_bytes(), text.as_slice()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_is_written_is_read_back() -> Result<()> {
        let mut metadata = serde_json::Map::new();
        metadata.insert("k\n\"".into(), "v".into());
        let head = head(metadata, [("a", &[2u64, 3][..]), ("scalar", &[]), ("none", &[0, 7])])?;
        let header = Header::parse(&head[8..], 28)?;
        assert_eq!(head.len() % 8, 0);
        assert_eq!(header.metadata["k\n\""], "v");
        let found: Vec<_> = header.entries.iter().map(|e| (e.name.as_str(), e.start, e.size())).collect();
        assert_eq!(found, [("a", 0, 24), ("scalar", 24, 4), ("none", 28, 0)]);
        Ok(())
    }
}
