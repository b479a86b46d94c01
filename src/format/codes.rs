//! Numbers of a slot to the bytes that they lie in, and back.

use super::blocks::{self, BLOCK, Map};
use super::halves::Half;
use super::{Q8Zero, Rounding, Storage};

/// The bytes of a slot, and of its scales, which only blocks have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Codes {
    /// Of the elements.
    pub elements: Vec<u8>,
    /// Of the scales.
    pub scales: Vec<u8>,
}

impl Codes {
    /// Those of some numbers, the first of which starts a block; each becomes the nearest.
    pub fn of(storage: Storage, zero: Q8Zero, values: &[f32]) -> Self {
        match Kind::of(storage) {
            Kind::Whole => Self { elements: bytemuck::cast_slice(values).to_vec(), scales: Vec::new() },
            Kind::Half(half) => {
                let code = |x: &f32| half.narrow(*x, Rounding::Nearest, 0).to_le_bytes();
                Self { elements: values.iter().flat_map(code).collect(), scales: Vec::new() }
            }
            Kind::Blocks { unsigned } => Self::of_blocks(Map::new(unsigned, zero), values),
        }
    }

    fn of_blocks(map: Map, values: &[f32]) -> Self {
        let mut elements = vec![0; values.len()];
        let blocks = elements.chunks_mut(BLOCK as usize).zip(values.chunks(BLOCK as usize));
        let scales = blocks.flat_map(|(codes, values)| blocks::encode(map, values, codes).to_le_bytes()).collect();
        Self { elements, scales }
    }

    /// The numbers.
    pub fn values(&self, storage: Storage) -> Vec<f32> {
        match Kind::of(storage) {
            Kind::Whole => self.elements.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
            Kind::Half(half) => {
                let pairs = self.elements.as_chunks::<2>().0;
                pairs.iter().map(|&code| half.widen(u16::from_le_bytes(code))).collect()
            }
            Kind::Blocks { unsigned } => {
                let map = Map::new(unsigned, Q8Zero::Reference);
                let mut values = vec![0.0; self.elements.len()];
                let blocks = values.chunks_mut(BLOCK as usize).zip(self.elements.chunks(BLOCK as usize));
                for ((values, codes), &scale) in blocks.zip(self.scales.as_chunks::<4>().0) {
                    blocks::decode(map, codes, f32::from_le_bytes(scale), values);
                }
                values
            }
        }
    }
}

enum Kind {
    Whole,
    Half(Half),
    Blocks { unsigned: bool },
}

impl Kind {
    fn of(storage: Storage) -> Self {
        match storage {
            Storage::F32 => Kind::Whole,
            Storage::F16 => Kind::Half(Half::F16),
            Storage::Bf16 => Kind::Half(Half::Bf16),
            Storage::Q8Signed => Kind::Blocks { unsigned: false },
            Storage::Q8Unsigned => Kind::Blocks { unsigned: true },
        }
    }
}
