//! Saving an optimizer to a file, and going on from it: `save`, `load` and `load_partial` of [`cpu::Optimizer`] and of
//! the one on the GPU. Needs the feature `checkpoint`.
//!
//! ```
//! use wgpu_optim::checkpoint::{Checkpoint, Load, Save};
//! use wgpu_optim::{Adam, cpu};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("run.safetensors");
//! let mut w = [1.0, 2.0, 3.0];
//! let mut optimizer = cpu::Optimizer::<Adam, f32>::new(Adam::PYTORCH, [("w", 3)])?;
//! optimizer.step(&mut [&mut w], &[&[0.1, -0.1, 0.5]])?;
//! optimizer.save(&path, &Save { params: Some(&[&w]), ..Default::default() })?;
//!
//! let mut again = cpu::Optimizer::<Adam, f32>::new(Adam::PYTORCH, [("w", 3)])?;
//! let mut v = [0.0; 3];
//! again.load(&Checkpoint::open(&path)?, Load { params: Some(&mut [&mut v]), ..Default::default() })?;
//! assert_eq!((v, again.step_of("w")?), (w, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The file
//!
//! One safetensors file. Its tensors are `state.NAME.SLOT` for each slot of each tensor, `params.NAME` if the
//! parameters were asked for, and `extra.NAME` for what the caller adds. They are F32, or what the
//! [formats](crate::format) of their group say: F16, BF16, or for 8 bits U8 with the codes, and beside it
//! `scales.NAME.SLOT`, F32, one for each block of 256. Its `__metadata__` are JSON texts:
//!
//! | key | holds |
//! |---|---|
//! | `crc32` | the checksum of the header and of each tensor, in hex |
//! | `format`, `version` | `wgpu-optim-checkpoint`, `1`, or `2` where some group has formats |
//! | `rule` | the rule's name |
//! | `groups` | for each group its settings, the names of its tensors, its schedule if it has one, and in version 2 its `formats`: `params`, `grads`, `master`, `state` by slot, `rounding`, `seed`, `q8_min`, `q8_zero` |
//! | `steps` | each tensor's step count, exact to 2^64 - 1; steps that a scaler left out are not in it |
//! | `frozen` | the names of the tensors that are frozen |
//! | `extras` | values that the caller adds, by name |
//! | `chain` | the settings of the [`Chain`] |
//! | `recorded` | how many steps there were, those left out among them: where schedules are |
//! | `scaler` | with a scaler: `scale`, to the bit, `growth_tracker` and `skipped` |
//! | `histories` | with a scaler: a number for each tensor; those that are stepped together have the same |
//!
//! The last four, and a group's schedule, may be absent, as in files that are older than they are: nothing of it was in
//! use.
//!
//! It is written under another name beside its place, synced, and renamed: after a crash the old file or the new one is
//! there whole. Both ways go in chunks, so that no slot lies in memory beside the optimizer's own.
//!
//! # What is checked
//!
//! [`Checkpoint::open`] takes nothing that contradicts itself. `load` then holds the file against the optimizer, lists
//! everything in which they disagree, and reads the file once for its checksums, all before the optimizer is touched.
//! `load_partial` takes what fits, for a model or settings that were changed on purpose, and casts what [`Load::cast`]
//! names.
//!
//! Going on is bit for bit what it would have been, also where numbers are rounded by chance: that depends on the seed,
//! the names of tensors and how many steps there were. Scales of blocks that are not finite are refused: such a run has
//! diverged.
//!
//! # PyTorch
//!
//! `save_pytorch` writes an optimizer's `state_dict()`, [`Checkpoint::open`] also opens one: a safetensors file of
//! tensors `state.ID.SLOT` and `state.ID.step` whose metadata `param_groups` is the list of that name as JSON. IDs
//! count the tensors of all groups in order, and only this order says which is which, as in PyTorch.
//! `scripts/state_dict.py` turns such a file into a `state_dict()` and back. PyTorch keeps state in the type of the
//! parameters: where these are of 16 bits, so is the state. A master, Kahan's compensation, codes of 8 bits and
//! rounding by chance it does not have.
//!
//! [`cpu::Optimizer`]: crate::cpu::Optimizer

mod arrays;
mod cast;
mod changes;
mod checksum;
mod cpu;
mod error;
mod fit;
mod fitted;
mod formats;
mod from_pytorch;
pub(crate) mod native;
mod pytorch;
mod running;
mod saved;
pub mod settings;
pub(crate) mod to_pytorch;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

pub use error::{Disagreement, Error};
pub(crate) use fit::fit;
use fitted::Numbers;
pub(crate) use fitted::{From, Plane, Request};
use from_pytorch::StateDict;
use native::Native;
pub use serde_json::Value as Json;
pub(crate) use write::{Outline, Source, Writer};

use crate::chain::Chain;
use crate::format::Formats;
use crate::format::blocks::{BLOCK, check_scales};
use crate::format::codes::Codes;
use crate::rule::Rule;
use crate::safetensors::Archive;
use crate::schedule::Schedule;

/// What a caller adds to a checkpoint: sections of its own, by name. A section may have a value, a tensor or both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extras {
    /// JSON values, nested at most some 100 deep. Numbers come back to the bit.
    pub values: BTreeMap<String, Json>,
    /// Tensors, which lie in memory whole.
    pub tensors: BTreeMap<String, Vec<f32>>,
}

/// What `save` writes besides the state.
#[derive(Clone, Debug, Default)]
pub struct Save<P = bool> {
    /// The parameters: on the GPU whether they are written, on the CPU the slices or `None`.
    pub params: P,
    /// Sections of the caller's.
    pub extras: Extras,
}

/// What `load` takes from a file besides the state.
#[derive(Debug, Default)]
pub struct Load<'a, P = bool> {
    /// The parameters: on the GPU whether they are loaded, on the CPU the slices or `None`. Where they are not asked
    /// for they are left in the file.
    pub params: P,
    /// The sections of the caller's that it knows, by name; another one in the file is refused, and one that is missing
    /// too.
    pub extras: &'a [&'a str],
    /// Give the groups the file's numbers, as PyTorch's `load_state_dict` does. Otherwise every setting must be what it
    /// was. Those that decide about state must be in any case. The schedules and the chain are settings in this, too,
    /// but for `zero_grads`, which stays the optimizer's. `load_partial` keeps the optimizer's numbers.
    ///
    /// Formats are never changed: they must be what they were.
    pub retune: bool,
    /// What `load_partial` may cast to the optimizer's format, to the nearest: slots by name, and `params`. Anything
    /// else that is in another format is refused, and `load` refuses all of it.
    pub cast: &'a [&'a str],
}

/// What was done with everything in a file and in an optimizer, under the keys of the file's format.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What was loaded.
    pub loaded: Vec<String>,
    /// What the optimizer has and the file has not; it is what it was.
    pub left: Vec<String>,
    /// What the file has and the optimizer has not, or was not asked for.
    pub ignored: Vec<String>,
    /// Where the file's settings are others than those of the optimizer, which it keeps (`load_partial`).
    pub differences: Vec<Disagreement>,
    /// The caller's sections.
    pub extras: Extras,
}

/// A file whose header has been read and found sound.
#[derive(Debug)]
pub struct Checkpoint {
    archive: Archive,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Native(Box<Native>),
    PyTorch(StateDict),
}

impl Checkpoint {
    /// Opens a file, and checks all of its header. Data are read when it is loaded.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Foreign`], [`Error::Unsound`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::new(Archive::open(path.as_ref())?)
    }

    /// [`open`](Self::open) for a file that is in memory; `path` is what messages call it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(path: impl Into<String>, bytes: Vec<u8>) -> Result<Self, Error> {
        Self::new(Archive::from_bytes(path, bytes)?)
    }

    fn new(archive: Archive) -> Result<Self, Error> {
        let unsound = |message| Error::Unsound { path: archive.path().into(), message };
        let format = match archive.metadata("format") {
            Some(native::FORMAT) => Format::Native(Box::new(Native::parse(&archive).map_err(unsound)?)),
            _ if archive.metadata(pytorch::GROUPS).is_some() => {
                Format::PyTorch(StateDict::parse(&archive).map_err(unsound)?)
            }
            other => return Err(foreign(&archive, other)),
        };
        Ok(Self { archive, format })
    }

    /// The file's name, for messages.
    pub fn path(&self) -> &str {
        self.archive.path()
    }

    /// The name of the rule, or of PyTorch's class.
    pub fn rule(&self) -> &str {
        match &self.format {
            Format::Native(native) => &native.rule,
            Format::PyTorch(dict) => dict.class.name,
        }
    }

    /// The settings of each group, for an optimizer that is to be built like the one that was saved.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where it is of another rule, [`Error::Unsound`] for settings that the rule refuses.
    pub fn settings<R: Rule>(&self) -> Result<Vec<R>, Error> {
        let base = R::PRESETS.first().map(|(_, _, preset)| preset);
        match self.groups(base)? {
            Ok(groups) => Ok(groups),
            Err(disagreement) => Err(Error::Mismatch { path: self.path().into(), disagreements: vec![disagreement] }),
        }
    }

    /// The chain that was saved, for an optimizer that is to be built like that one; the default in files that know of
    /// none.
    pub fn chain(&self) -> Chain {
        match &self.format {
            Format::Native(native) => native.running.chain.clone(),
            Format::PyTorch(_) => Chain::default(),
        }
    }

    /// The schedule of each group that was saved; empty in files that know of none.
    pub fn schedules(&self) -> &[Option<Schedule>] {
        match &self.format {
            Format::Native(native) => &native.schedules,
            Format::PyTorch(_) => &[],
        }
    }

    /// How the numbers of each group that was saved lie in memory, the state told slot by slot; empty in files that
    /// know of nothing but `f32`, and in those of PyTorch's, whose tensors tell it one by one.
    pub fn formats(&self) -> &[Formats] {
        match &self.format {
            Format::Native(native) => &native.formats,
            Format::PyTorch(_) => &[],
        }
    }

    /// The step count of a tensor that was saved; `None` where the file has none of this name, as a `state_dict()`,
    /// which names no tensor.
    pub fn step_of(&self, name: &str) -> Option<u64> {
        match &self.format {
            Format::Native(native) => native.tensors.get(name).map(|saved| saved.step),
            Format::PyTorch(_) => None,
        }
    }

    /// Every section of the caller's, to be looked at before anything is loaded, as which run it is of. What was read
    /// is compared with its checksums by `load` and [`verify`](Self::verify) only.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn extras(&self) -> Result<Extras, Error> {
        let Format::Native(native) = &self.format else { return Ok(Extras::default()) };
        let mut tensors = BTreeMap::new();
        for (name, &entry) in &native.extras {
            tensors.insert(name.clone(), self.archive.values(&self.archive.entries()[entry])?);
        }
        Ok(Extras { values: native.values.clone(), tensors })
    }

    /// The settings of each group, or that they are another rule's.
    fn groups<R: Rule>(&self, base: Option<&R>) -> Result<Result<Vec<R>, Disagreement>, Error> {
        let groups = match &self.format {
            Format::Native(native) if native.rule == R::NAME => native.settings(base),
            Format::PyTorch(dict) if dict.class.rule == R::NAME => dict.settings(),
            _ => return Ok(Err(Disagreement::Rule { file: self.rule().into(), optimizer: R::NAME })),
        };
        groups.map(Ok).map_err(|message| Error::Unsound { path: self.path().into(), message })
    }

    /// Reads the whole file and compares it with its checksums; scales of blocks must be finite. `load` does so by
    /// itself.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Unsound`], [`Error::File`].
    pub fn verify(&self) -> Result<(), Error> {
        checksum::verify(&self.archive)?;
        match &self.format {
            Format::Native(native) => native.scales().try_for_each(|entry| self.check_scales(entry)),
            Format::PyTorch(_) => Ok(()),
        }
    }

    /// Refuses scales that no block of numbers has.
    fn check_scales(&self, entry: usize) -> Result<(), Error> {
        let entry = &self.archive.entries()[entry];
        let mut block = 0;
        self.archive.read_each(entry, |chunk| {
            let scales = chunk.as_chunks().0;
            check_scales(block, scales.iter().map(|bytes| f32::from_le_bytes(*bytes))).map_err(|error| {
                let message = format!("{:?}: {error}", entry.name);
                Error::Unsound { path: self.path().into(), message }
            })?;
            block += scales.len() as u64;
            Ok(())
        })
    }

    /// Fills `bytes` with those of an array from its byte `start` on.
    pub(crate) fn read(&self, from: &From, start: u64, bytes: &mut [u8]) -> Result<(), Error> {
        match from {
            From::Entry(entry) => Ok(self.archive.read_at(&self.archive.entries()[*entry], start, bytes)?),
            From::Made(numbers, array) => {
                array.fill(start, bytes, |first, values| self.numbers(*numbers, first, values))
            }
        }
    }

    /// Fills `values` with the numbers from an element on that starts a block.
    fn numbers(&self, numbers: Numbers, first: u64, values: &mut [f32]) -> Result<(), Error> {
        let (entry, scales, storage) = match numbers {
            Numbers::Initial(value) => {
                values.fill(value);
                return Ok(());
            }
            Numbers::Stored { entry, scales, storage } => (entry, scales, storage),
        };
        let read = |entry: usize, start: u64, size: u64| {
            let mut bytes = vec![0; size as usize];
            self.archive.read_at(&self.archive.entries()[entry], start, &mut bytes).map(|()| bytes)
        };
        let (len, size) = (values.len() as u64, storage.size());
        let elements = read(entry, first * size, len * size)?;
        let scales = scales.map(|scales| read(scales, first / BLOCK * 4, len.div_ceil(BLOCK) * 4));
        values.copy_from_slice(&Codes { elements, scales: scales.transpose()?.unwrap_or_default() }.values(storage));
        Ok(())
    }
}

/// What to say of a sound file that is something else.
fn foreign(archive: &Archive, format: Option<&str>) -> Error {
    let message = match format {
        Some("wgpu-optim-state") => "it is a state file of `wgpu-optim apply`, which goes on from it".into(),
        Some(format) => format!("its format is {format:?}, expected {:?}", native::FORMAT),
        None => format!("its metadata have neither \"format\" nor {:?}; is it a file of weights?", pytorch::GROUPS),
    };
    Error::Foreign { path: archive.path().into(), message }
}
