//! What a file has of one tensor.

use std::collections::BTreeMap;

use super::formats;
use crate::format::blocks::BLOCK;
use crate::format::{Formats, Storage};
use crate::safetensors::{Archive, Dtype};

/// An array in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    /// Its entry, by number.
    pub entry: usize,
    /// The word of its format.
    pub format: &'static str,
    /// The entry of the scales of its blocks, where it goes by blocks.
    pub scales: Option<usize>,
}

impl Stored {
    /// How it lies, for numbers that can be negative or not.
    pub fn storage(&self, signed: bool) -> Storage {
        let eight = if signed { Storage::Q8Signed } else { Storage::Q8Unsigned };
        let others = [Storage::F32, Storage::F16, Storage::Bf16];
        others.into_iter().find(|storage| storage.word() == self.format).unwrap_or(eight)
    }
}

/// A tensor's state in a file. Its data are told by the number of their entry.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    pub group: usize,
    pub step: u64,
    /// What others of its number share is more than the step count; 0 where the format does not tell.
    pub history: u64,
    /// `None` where the format does not tell.
    pub frozen: Option<bool>,
    /// It has taken no step, so there are no data: every slot is what the rule starts from.
    pub fresh: bool,
    pub slots: BTreeMap<String, Stored>,
    pub params: Option<Stored>,
    /// Elements, where there are data that tell.
    pub len: Option<u64>,
}

impl Saved {
    pub fn new(group: usize, step: u64, frozen: Option<bool>) -> Self {
        Self { group, step, history: 0, frozen, fresh: false, slots: BTreeMap::new(), params: None, len: None }
    }

    /// Notes that an entry is a slot, or the parameters.
    pub fn add(&mut self, archive: &Archive, entry: usize, slot: Option<&str>) -> Result<(), String> {
        let (len, format) = (archive.entries()[entry].len(), format_of(archive, entry)?);
        if let Some(other) = self.len.filter(|&other| other != len) {
            let name = &archive.entries()[entry].name;
            return Err(format!("{name:?} has {len} elements, others of its tensor have {other}"));
        }
        self.len = Some(len);
        let stored = Stored { entry, format, scales: None };
        match slot {
            Some(slot) => drop(self.slots.insert(slot.into(), stored)),
            None => self.params = Some(stored),
        }
        Ok(())
    }

    /// Notes that an entry holds the scales of a slot.
    pub fn add_scales(&mut self, archive: &Archive, entry: usize, slot: &str) -> Result<(), String> {
        let (found, name) = (len_of_f32(archive, entry)?, &archive.entries()[entry].name);
        let of_codes = |stored: &&mut Stored| stored.format == Storage::Q8Signed.word();
        let stored =
            self.slots.get_mut(slot).filter(of_codes).ok_or_else(|| format!("{name:?}: there are no codes of it"))?;
        let len = archive.entries()[stored.entry].len();
        if found != len.div_ceil(BLOCK) {
            let expected = len.div_ceil(BLOCK);
            return Err(format!("{name:?} has {found} elements, expected {expected}: one for each {BLOCK} of {len}"));
        }
        stored.scales = Some(entry);
        Ok(())
    }

    /// Refuses arrays that lie otherwise than these formats say.
    pub fn check(&self, archive: &Archive, of: &Formats) -> Result<(), String> {
        let check = |stored: &Stored, expected: Storage| {
            let entry = &archive.entries()[stored.entry];
            match (stored.format == expected.word(), stored.scales.is_some() == expected.has_scales()) {
                (false, _) => Err(format!("{:?} is {}, expected {}", entry.name, entry.dtype, dtype(expected))),
                (_, false) => Err(format!("{:?} has no scales of its blocks", entry.name)),
                _ => Ok(()),
            }
        };
        let len = self.len.unwrap_or_default();
        self.params.iter().try_for_each(|params| check(params, of.params.storage()))?;
        self.slots.iter().try_for_each(|(slot, stored)| check(stored, formats::storage(of, slot, len)))
    }
}

/// The type of a file's elements that are stored so.
pub(super) fn dtype(storage: Storage) -> Dtype {
    match storage {
        Storage::F32 => Dtype::F32,
        Storage::F16 => Dtype::F16,
        Storage::Bf16 => Dtype::BF16,
        Storage::Q8Signed | Storage::Q8Unsigned => Dtype::U8,
    }
}

/// The word of the format of an entry.
fn format_of(archive: &Archive, entry: usize) -> Result<&'static str, String> {
    let entry = &archive.entries()[entry];
    let mut all = [Storage::F32, Storage::F16, Storage::Bf16, Storage::Q8Signed].into_iter();
    let found = all.find(|storage| dtype(*storage) == entry.dtype);
    let refused = || format!("{:?} is {}, expected F32, F16, BF16 or U8", entry.name, entry.dtype);
    found.map(Storage::word).ok_or_else(refused)
}

/// The elements of an entry, which must be F32.
pub(super) fn len_of_f32(archive: &Archive, entry: usize) -> Result<u64, String> {
    let entry = &archive.entries()[entry];
    match entry.dtype {
        Dtype::F32 => Ok(entry.len()),
        other => Err(format!("{:?} is {other}, expected F32", entry.name)),
    }
}

/// A value of the metadata that must be there.
pub(super) fn required<'a>(archive: &'a Archive, key: &str) -> Result<&'a str, String> {
    archive.metadata(key).ok_or_else(|| format!("the metadata have no {key:?}"))
}

/// JSON in a value of the metadata.
pub(super) fn json<T: serde::de::DeserializeOwned>(archive: &Archive, key: &str) -> Result<T, String> {
    serde_json::from_str(required(archive, key)?).map_err(|error| format!("{key:?} of the metadata: {error}"))
}

/// Refuses keys of the metadata that are not known.
pub(super) fn only(archive: &Archive, known: &[&str]) -> Result<(), String> {
    match archive.metadata_keys().find(|key| !known.contains(key)) {
        Some(unknown) => Err(format!("the metadata have the unknown key {unknown:?}; known are {}", known.join(", "))),
        None => Ok(()),
    }
}
