//! What a step moves of a tensor, and how that lies in memory: as much as planning and a kernel must know.

use super::blocks::BLOCK;
use super::{Format, KAHAN, MASTER, Plane, Q8Zero, Rounding, Storage};

/// How what a step moves of a tensor lies in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Parameters.
    pub params: Format,
    /// Gradients.
    pub grads: Format,
    /// State, in the order of planes.
    pub planes: Vec<Plane>,
    /// How what is written becomes one of fewer bits.
    pub rounding: Rounding,
    /// What becomes of second moments near 0.
    pub q8_zero: Q8Zero,
}

impl Stored {
    /// All of it in `f32`, with these slots.
    pub fn plain(slots: impl IntoIterator<Item = &'static str>) -> Self {
        let plane = |slot| Plane { slot, storage: Storage::F32 };
        Self { planes: slots.into_iter().map(plane).collect(), ..Self::default() }
    }

    /// The storages of the planes.
    pub fn storages(&self) -> Vec<Storage> {
        self.planes.iter().map(|plane| plane.storage).collect()
    }

    /// Bytes of an element in the narrowest plane.
    pub fn narrowest(&self) -> u64 {
        narrowest(self.planes.iter().map(|plane| plane.storage))
    }

    /// Whether anything is rounded by chance.
    pub fn has_chance(&self) -> bool {
        let halves = self.params != Format::F32 || self.planes.iter().any(|plane| plane.storage == Storage::Bf16);
        self.rounding == Rounding::Stochastic && halves
    }

    /// Whether parameters are kept in `f32`, too.
    pub fn has_master(&self) -> bool {
        self.planes.iter().any(|plane| plane.slot == MASTER)
    }

    /// Whether what rounding loses is kept.
    pub fn has_kahan(&self) -> bool {
        self.planes.iter().any(|plane| plane.slot == KAHAN)
    }

    /// The place of each plane, and behind the last one the end: how many of the narrowest would lie before it.
    pub fn places(&self) -> Vec<u64> {
        let narrowest = self.narrowest();
        let mut end = 0;
        let mut places = vec![0];
        places.extend(self.planes.iter().map(|plane| {
            end += plane.storage.size() / narrowest;
            end
        }));
        places
    }

    /// A bit for the place of each plane of a kind.
    pub fn mask(&self, kind: impl Fn(Storage) -> bool) -> u32 {
        let of_kind = self.places().into_iter().zip(&self.planes).filter(|(_, plane)| kind(plane.storage));
        of_kind.fold(0, |mask, (place, _)| mask | 1u32.wrapping_shl(place as u32))
    }
}

/// Bytes of an element in the narrowest of these planes.
pub(crate) fn narrowest(storages: impl IntoIterator<Item = Storage>) -> u64 {
    storages.into_iter().map(Storage::size).min().unwrap_or(Storage::F32.size())
}

/// Whether any of these planes goes by blocks.
pub(crate) fn has_blocks(storages: &[Storage]) -> bool {
    storages.iter().any(|storage| storage.has_scales())
}

/// Bytes of an element in all of these planes, scales of blocks apart.
pub(crate) fn width(storages: &[Storage]) -> u64 {
    storages.iter().map(|storage| storage.size()).sum()
}

/// Bytes of the scales of one plane of so many elements, which are whole blocks.
pub(crate) fn scales_size(elements: u64) -> u64 {
    elements / BLOCK * Storage::F32.size()
}
