//! The header of a safetensors file: JSON that is believed in nothing.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::Dtype;

/// Bytes of the number that a file starts with.
pub const LENGTH: u64 = 8;
/// The most bytes of a header, as the safetensors crate has it.
pub const MAX_HEADER: u64 = 100_000_000;
/// The key that is no tensor.
pub const METADATA: &str = "__metadata__";

/// A header whose tensors tile the data without a hole.
#[derive(Debug)]
pub struct Header {
    pub metadata: BTreeMap<String, String>,
    /// In the order of their data.
    pub entries: Vec<Entry>,
}

/// A tensor, and where its data lie.
#[derive(Debug)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// The type of an element.
    pub dtype: Dtype,
    /// Elements along each side; none for a scalar.
    pub shape: Vec<u64>,
    /// First byte, from the end of the header.
    pub start: u64,
    end: u64,
}

impl Entry {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.end - self.start
    }

    /// Elements.
    pub fn len(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that shape and dtype ask for; `None` where a number overflows or a byte would be shared.
    fn wanted(&self) -> Option<u64> {
        let product = self.shape.iter().try_fold(1u64, |product, &side| product.checked_mul(side));
        let bits = product?.checked_mul(self.dtype.bits)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

impl Header {
    /// Reads a header that `data` bytes follow.
    ///
    /// # Errors
    /// With the tensor and what is wrong with it.
    pub fn parse(json: &[u8], data: u64) -> Result<Self, String> {
        if json.first() != Some(&b'{') {
            return Err("the header is no JSON object: this is not a safetensors file".into());
        }
        let Raw { metadata, mut tensors } = match serde_json::from_slice(json) {
            Ok(raw) => raw,
            Err(error) => return Err(format!("the header is not sound: {error}")),
        };
        tensors.sort_by_key(|entry| (entry.start, entry.end));
        check_names(&tensors)?;
        check_layout(&tensors, data)?;
        Ok(Self { metadata, entries: tensors })
    }
}

fn check_names(entries: &[Entry]) -> Result<(), String> {
    let mut seen = HashSet::with_capacity(entries.len());
    match entries.iter().find(|entry| !seen.insert(entry.name.as_str())) {
        Some(twice) => Err(format!("tensor {:?} is in the header twice", twice.name)),
        None => Ok(()),
    }
}

/// Refuses entries, sorted by their data, that do not tile them.
fn check_layout(entries: &[Entry], data: u64) -> Result<(), String> {
    let mut end = 0;
    let mut before = "";
    for entry in entries {
        let Entry { name, dtype, shape, start, end: stop } = entry;
        if stop < start {
            return Err(format!("tensor {name:?} starts at byte {start} and ends before it, at byte {stop}"));
        }
        if *start < end {
            return Err(format!(
                "tensors {before:?} and {name:?} overlap: one ends at byte {end}, the other starts at {start}"
            ));
        }
        if *start > end {
            return Err(format!("no tensor has bytes {end}..{start}, before tensor {name:?}"));
        }
        match entry.wanted() {
            None => {
                return Err(format!(
                    "tensor {name:?} of {dtype} has shape {shape:?}: too large, or no whole number of bytes"
                ));
            }
            Some(wanted) if wanted != entry.size() => {
                return Err(format!(
                    "tensor {name:?} has shape {shape:?} of {dtype}, which is {wanted} bytes, but bytes {start}..{stop}"
                ));
            }
            Some(_) => (end, before) = (*stop, name),
        }
    }
    if end > data {
        return Err(format!("its tensors have {end} bytes, but the file holds {data}: it was cut short"));
    }
    if end < data {
        return Err(format!("its tensors have {end} bytes, but the file holds {data}"));
    }
    Ok(())
}

/// The JSON, with nothing checked but its types and that no key of an object is there twice. `serde_json` would
/// keep the last of two silently.
struct Raw {
    metadata: BTreeMap<String, String>,
    tensors: Vec<Entry>,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Raw, M::Error> {
        let mut metadata = None;
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name != METADATA {
                let fields: Fields = map.next_value().map_err(|error| about(&name, &error))?;
                tensors.push(fields.named(name)?);
            } else if metadata.is_none() {
                // The safetensors crate takes null for no metadata.
                let pairs: Option<Unique<String>> = map.next_value().map_err(|error| about(&name, &error))?;
                metadata = Some(pairs.map(|Unique(pairs)| pairs).unwrap_or_default());
            } else {
                return Err(M::Error::custom(format!("{METADATA:?} is there twice")));
            }
        }
        Ok(Raw { metadata: metadata.unwrap_or_default(), tensors })
    }
}

fn about<E: Error>(name: &str, error: &E) -> E {
    E::custom(format!("{name:?}: {error}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Fields {
    fn named<E: Error>(self, name: String) -> Result<Entry, E> {
        let Self { dtype, shape, data_offsets: (start, end) } = self;
        match Dtype::find(&dtype) {
            Some(dtype) => Ok(Entry { name, dtype, shape, start, end }),
            None => Err(E::custom(format!("tensor {name:?} has the unknown dtype {dtype:?}"))),
        }
    }
}

/// An object whose keys are all different, which `serde_json` does not ask for by itself.
#[derive(Clone, Debug)]
pub struct Unique<T>(pub BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(std::marker::PhantomData))
    }
}

struct UniqueVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for UniqueVisitor<T> {
    type Value = Unique<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Unique<T>, M::Error> {
        let mut pairs = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value()?;
            if pairs.contains_key(&key) {
                return Err(M::Error::custom(format!("the key {key:?} is there twice")));
            }
            pairs.insert(key, value);
        }
        Ok(Unique(pairs))
    }
}
