//! What a file has of one tensor.

use std::collections::BTreeMap;

use crate::safetensors::{Archive, Dtype};

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
    pub slots: BTreeMap<String, usize>,
    pub params: Option<usize>,
    /// Elements, where there are data that tell.
    pub len: Option<u64>,
}

impl Saved {
    pub fn new(group: usize, step: u64, frozen: Option<bool>) -> Self {
        Self { group, step, history: 0, frozen, fresh: false, slots: BTreeMap::new(), params: None, len: None }
    }

    /// Notes that an entry is a slot, or the parameters.
    pub fn add(&mut self, archive: &Archive, entry: usize, slot: Option<&str>) -> Result<(), String> {
        let len = len_of_f32(archive, entry)?;
        if let Some(other) = self.len.filter(|&other| other != len) {
            let name = &archive.entries()[entry].name;
            return Err(format!("{name:?} has {len} elements, others of its tensor have {other}"));
        }
        self.len = Some(len);
        match slot {
            Some(slot) => drop(self.slots.insert(slot.into(), entry)),
            None => self.params = Some(entry),
        }
        Ok(())
    }
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
