//! Arrays that a file does not hold as an optimizer has them: what is cast from another format, and what a rule starts
//! from.

use crate::format::blocks::BLOCK;
use crate::format::codes::Codes;
use crate::format::{Q8Zero, Storage};

/// Elements that are made at once: whole blocks.
const PIECE: u64 = 1 << 16;

/// An array of an optimizer: numbers as they are stored, or the scales of their blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Array {
    pub storage: Storage,
    pub zero: Q8Zero,
    /// The scales, and not the numbers.
    pub scales: bool,
    /// Elements of the tensor.
    pub len: u64,
}

impl Array {
    /// Fills `bytes`, those from byte `start` on, which are whole elements or scales. `numbers` fills a slice with
    /// those from an element on, at the start of a block.
    pub fn fill<E>(
        &self,
        start: u64,
        mut bytes: &mut [u8],
        mut numbers: impl FnMut(u64, &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        // Bytes of a unit, and its elements.
        let (size, each) = if self.scales { (4, BLOCK) } else { (self.storage.size(), 1) };
        let mut at = start / size * each;
        let end = self.len.min(at + bytes.len() as u64 / size * each);
        let mut values = Vec::new();
        while at < end {
            let first = at - at % BLOCK;
            let last = self.len.min(first + PIECE);
            values.resize((last - first) as usize, 0.0);
            numbers(first, &mut values)?;
            let made = self.encode(&values);
            let skipped = ((at - first) / each * size) as usize;
            let (these, rest) = bytes.split_at_mut(((end.min(last) - at).div_ceil(each) * size) as usize);
            these.copy_from_slice(&made[skipped..skipped + these.len()]);
            (at, bytes) = (last, rest);
        }
        Ok(())
    }

    /// The bytes of numbers that start at a block, or of the scales of their blocks.
    fn encode(&self, values: &[f32]) -> Vec<u8> {
        let Codes { elements, scales } = Codes::of(self.storage, self.zero, values);
        if self.scales { scales } else { elements }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::blocks;

    const LEN: u64 = PIECE + 700;

    fn number(element: u64) -> f32 {
        ((element * 2_654_435_761) % 1009) as f32 / 1009.0 - 0.3 * (element % 2) as f32
    }

    fn numbers(first: u64, values: &mut [f32]) -> Result<(), ()> {
        assert!(first.is_multiple_of(BLOCK));
        values.iter_mut().zip(first..).for_each(|(x, element)| *x = number(element));
        Ok(())
    }

    /// A whole array, by so many bytes at once.
    fn made(array: Array, size: usize, chunk: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; size];
        let mut start = 0;
        for chunk in bytes.chunks_mut(chunk) {
            array.fill(start, chunk, numbers).unwrap();
            start += chunk.len() as u64;
        }
        bytes
    }

    #[test]
    fn an_array_is_the_same_in_whatever_pieces_it_is_made() {
        for storage in [Storage::F32, Storage::F16, Storage::Bf16, Storage::Q8Signed, Storage::Q8Unsigned] {
            for scales in [false, true].into_iter().filter(|scales| !scales || storage.has_scales()) {
                let array = Array { storage, zero: Q8Zero::Guarded, scales, len: LEN };
                let size = if scales { LEN.div_ceil(BLOCK) * 4 } else { LEN * storage.size() } as usize;
                let whole = made(array, size, size);
                for chunk in [4, 1000, 1 << 15] {
                    let chunk = chunk.max(size / 300).next_multiple_of(4);
                    assert!(made(array, size, chunk) == whole, "{array:?} by {chunk}");
                }
            }
        }
    }

    /// Against the blocks one by one, the last of which is short.
    #[test]
    fn what_is_made_decodes_to_what_it_was_made_of() {
        let mut expected = vec![0.0; LEN as usize];
        numbers(0, &mut expected).unwrap();
        for (storage, worst) in
            [(Storage::F32, 0.0), (Storage::F16, 5e-4), (Storage::Bf16, 4e-3), (Storage::Q8Signed, 1e-2)]
        {
            let array = |scales| Array { storage, zero: Q8Zero::Guarded, scales, len: LEN };
            let elements = made(array(false), (LEN * storage.size()) as usize, 1 << 20);
            let blocks = if storage.has_scales() { LEN.div_ceil(BLOCK) as usize } else { 0 };
            let scales = made(array(true), blocks * 4, 1 << 20);
            let of_blocks: Vec<f32> = scales.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let found = Codes { elements, scales }.values(storage);
            let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, |most: f32, x| most.max(x));
            assert!(error <= worst && found.iter().all(|x| x.is_finite()), "{storage:?}: {error}");
            assert!(storage == Storage::F32 || error > 0.0);
            assert!(of_blocks.iter().zip(expected.chunks(256)).all(|(scale, values)| *scale == blocks::scale(values)));
        }
    }
}
