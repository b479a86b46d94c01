//! How numbers lie in memory: parameters and gradients in 32 or 16 bits, state in 32, 16 or 8.
//!
//! Arithmetic is always in `f32`. A format says how a number is read before the update and written after it, and no
//! rule knows of it.

pub mod blocks;
pub mod codes;
pub mod halves;
pub mod noise;
pub mod stored;

use std::collections::BTreeMap;

use crate::Error;
use crate::rule::{Rule, kept_slots, words};

/// The name of formats in messages.
const NAME: &str = "format";

words! {
    /// How parameters or gradients lie in memory.
    #[derive(Default, Hash)]
    pub enum Format {
        /// 32 bits.
        #[default]
        F32 = "f32",
        /// 16 bits, IEEE: 11 of precision, 5 of exponent.
        F16 = "f16",
        /// 16 bits, the high half of an `f32`: 8 of precision, 8 of exponent.
        Bf16 = "bf16",
    }
}

words! {
    /// How a slot of the state lies in memory.
    #[derive(Default, Hash)]
    pub enum StateFormat {
        /// 32 bits.
        #[default]
        F32 = "f32",
        /// 16 bits, as [`Format::Bf16`]. Second moments want [`Rounding::Stochastic`]: to the nearest, steps of a thousandth
        /// of them are lost, and after a thousand steps or two they are off by a third.
        Bf16 = "bf16",
        /// 8 bits, by blocks of 256 with one `f32` each: see [`blocks`].
        Q8 = "q8",
    }
}

words! {
    /// How a number becomes one of fewer bits.
    #[derive(Default, Hash)]
    pub enum Rounding {
        /// To the nearest, ties to even.
        #[default]
        Nearest = "nearest",
        /// Up or down by chance, so that the mean stays: see [`noise`]. Of parameters and of state in bf16.
        Stochastic = "stochastic",
        /// To the nearest, and what was lost is kept in a slot of 16 bits, `kahan_comp`. Of parameters; state rounds to the nearest.
        Kahan = "kahan",
    }
}

words! {
    /// What becomes of a second moment that is not 0 and that is nearest to code 0.
    #[derive(Default, Hash)]
    pub enum Q8Zero {
        /// It takes the next code: a first moment over a second of 0 would be a step of any length.
        #[default]
        Guarded = "guarded",
        /// It becomes 0, as in bitsandbytes and torchao.
        Reference = "reference",
    }
}

/// The formats of a group's tensors; the default is `f32` throughout.
#[derive(Clone, Debug, PartialEq)]
pub struct Formats {
    /// Of parameters.
    pub params: Format,
    /// Of gradients.
    pub grads: Format,
    /// Whether the optimizer keeps parameters in `f32`, in the slot `master_param`, and those of 16 bits are a copy of it.
    pub master: bool,
    /// Of the rule's slots, but for those in `slots`. What the chain keeps is `f32`.
    pub state: StateFormat,
    /// Of slots by name.
    pub slots: BTreeMap<String, StateFormat>,
    /// Of what is written in 16 bits.
    pub rounding: Rounding,
    /// Where [`Rounding::Stochastic`] starts.
    pub seed: u64,
    /// Tensors of fewer elements keep in `f32` what others keep in 8 bits; bitsandbytes's `min_8bit_size`.
    pub q8_min: u64,
    /// What becomes of second moments near 0.
    pub q8_zero: Q8Zero,
}

impl Default for Formats {
    fn default() -> Self {
        Self {
            params: Format::F32,
            grads: Format::F32,
            master: false,
            state: StateFormat::F32,
            slots: BTreeMap::new(),
            rounding: Rounding::Nearest,
            seed: 0,
            q8_min: 4096,
            q8_zero: Q8Zero::Guarded,
        }
    }
}

/// The slot of parameters in `f32`.
pub const MASTER: &str = "master_param";
/// The slot of what rounding has lost.
pub const KAHAN: &str = "kahan_comp";

/// How the numbers of one slot of one tensor lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
    /// 16 bits.
    Bf16,
    /// 8 bits by blocks, of either sign.
    Q8Signed,
    /// 8 bits by blocks, never negative.
    Q8Unsigned,
}

impl Format {
    /// Bytes of an element.
    pub fn size(self) -> u64 {
        self.storage().size()
    }

    /// The same, as state has it.
    pub fn storage(self) -> Storage {
        match self {
            Format::F32 => Storage::F32,
            Format::F16 => Storage::F16,
            Format::Bf16 => Storage::Bf16,
        }
    }
}

impl Storage {
    /// Bytes of an element, scales of blocks apart.
    pub fn size(self) -> u64 {
        match self {
            Storage::F32 => 4,
            Storage::F16 | Storage::Bf16 => 2,
            Storage::Q8Signed | Storage::Q8Unsigned => 1,
        }
    }

    /// Bytes of so many elements, with the scales of their blocks.
    pub fn size_of(self, len: u64) -> u64 {
        let scales = if self.has_scales() { len.div_ceil(blocks::BLOCK) * Storage::F32.size() } else { 0 };
        self.size() * len + scales
    }

    /// Whether it goes by blocks, each with a scale.
    pub fn has_scales(self) -> bool {
        matches!(self, Storage::Q8Signed | Storage::Q8Unsigned)
    }

    /// The word that files use.
    pub fn word(self) -> &'static str {
        match self {
            Storage::F32 => "f32",
            Storage::F16 => "f16",
            Storage::Bf16 => "bf16",
            Storage::Q8Signed | Storage::Q8Unsigned => "q8",
        }
    }
}

/// A slot of a tensor, and how it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plane {
    /// The slot.
    pub slot: &'static str,
    /// How it lies.
    pub storage: Storage,
}

impl Formats {
    /// Whether everything is as it is where nothing is said.
    pub fn is_plain(&self) -> bool {
        let halves = self.params != Format::F32 || self.grads != Format::F32 || self.master;
        !halves && self.state == StateFormat::F32 && self.slots.values().all(|&slot| slot == StateFormat::F32)
    }

    /// Whether anything may be rounded by chance, whatever else a group's tensors keep.
    pub fn has_chance(&self) -> bool {
        let halves = self.params != Format::F32 || self.state == StateFormat::Bf16;
        let slots = self.slots.values().any(|&slot| slot == StateFormat::Bf16);
        self.rounding == Rounding::Stochastic && (halves || slots)
    }

    /// Refuses what does not go together, for a rule that knows these slots.
    ///
    /// # Errors
    /// [`Error::Setting`] with the first that does not.
    pub fn check(&self, known: &[&'static str]) -> Result<(), Error> {
        let refuse = |setting, found: &str, expected: &str| {
            Err(Error::Setting { rule: NAME, setting, found: found.into(), expected: expected.into() })
        };
        if self.master && self.params == Format::F32 {
            return refuse("master", "true", "false where params are f32: they are the master");
        }
        if self.rounding == Rounding::Kahan && self.params == Format::F32 {
            return refuse("rounding", "\"kahan\"", "\"nearest\" where params are f32: nothing is lost");
        }
        if self.rounding == Rounding::Kahan && self.master {
            return refuse("rounding", "\"kahan\"", "no master beside it: that loses nothing");
        }
        match self.slots.keys().find(|slot| !known.contains(&slot.as_str())) {
            Some(slot) => refuse("state", &format!("{slot:?}"), &format!("slots among {}", known.join(", "))),
            None => Ok(()),
        }
    }

    /// Refuses what does not go together, or not with a rule's settings. What all tensors are too short for counts, too.
    ///
    /// # Errors
    /// As [`check`](Self::check); [`Error::Rounded`] for a slot that must lie in `f32`.
    pub fn check_with<R: Rule>(&self, settings: &R) -> Result<(), Error> {
        self.check(R::SLOTS)?;
        kept_slots(settings).into_iter().try_for_each(|number| {
            let slot = R::SLOTS[number];
            let storage = self.storage(slot, true, u64::MAX);
            match settings.must_be_full(number).filter(|_| storage != Storage::F32) {
                Some(why) => Err(Error::Rounded { rule: R::NAME, slot, format: storage.word(), why }),
                None => Ok(()),
            }
        })
    }

    /// How the state of a tensor of `len` elements lies: the rule's slots, given with whether they can be negative, those
    /// of the chain, and what the formats keep besides.
    pub fn planes(
        &self,
        rule: impl IntoIterator<Item = (&'static str, bool)>,
        chain: impl IntoIterator<Item = &'static str>,
        len: u64,
    ) -> Vec<Plane> {
        let own = rule.into_iter().map(|(slot, signed)| Plane { slot, storage: self.storage(slot, signed, len) });
        let chain = chain.into_iter().map(|slot| Plane { slot, storage: Storage::F32 });
        let master = self.master.then_some(Plane { slot: MASTER, storage: Storage::F32 });
        let lost = Plane { slot: KAHAN, storage: self.params.storage() };
        own.chain(chain).chain(master).chain((self.rounding == Rounding::Kahan).then_some(lost)).collect()
    }

    /// How a slot of the rule's lies, of a tensor of so many elements.
    pub(crate) fn storage(&self, slot: &str, signed: bool, len: u64) -> Storage {
        match self.slots.get(slot).copied().unwrap_or(self.state) {
            StateFormat::Bf16 => Storage::Bf16,
            StateFormat::Q8 if len >= self.q8_min && signed => Storage::Q8Signed,
            StateFormat::Q8 if len >= self.q8_min => Storage::Q8Unsigned,
            StateFormat::F32 | StateFormat::Q8 => Storage::F32,
        }
    }
}
