//! Numbers as they are stored, and how far those of a device are from the expected ones.

use crate::cpu::{Slice, SliceMut};
use crate::format::blocks::BLOCK;
use crate::format::codes::Codes;
use crate::format::{Q8Zero, Storage};

/// The share of codes that may be adjacent to the expected ones. A number that is off by 2e-6 of itself, as the envelope
/// allows, crosses one of the thresholds of bf16, which are 2^-8 apart, in 5e-4 of all cases; what cancels does so more often.
pub const SHARE: f64 = 5e-3;

/// The numbers of a tensor's parameters, gradient or slot.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    storage: Storage,
    codes: Codes,
    values: Vec<f32>,
}

impl Numbers {
    /// Those of some codes.
    pub fn new(storage: Storage, codes: Codes) -> Self {
        let values = codes.values(storage);
        Self { storage, codes, values }
    }

    /// Each of some numbers becomes the nearest.
    pub fn nearest(storage: Storage, values: &[f32]) -> Self {
        Self::new(storage, Codes::of(storage, Q8Zero::default(), values))
    }

    /// Those of a slice on the CPU.
    pub(super) fn of_slice(storage: Storage, slice: Slice<'_>) -> Self {
        let (elements, scales) = match slice {
            Slice::Full(values) => (bytemuck::cast_slice(values), [].as_slice()),
            Slice::F16(values) => (bytemuck::cast_slice(values), [].as_slice()),
            Slice::Bf16(values) => (bytemuck::cast_slice(values), [].as_slice()),
            Slice::Q8 { codes, scales, .. } => (codes, bytemuck::cast_slice(scales)),
        };
        Self::new(storage, Codes { elements: elements.to_vec(), scales: scales.to_vec() })
    }

    /// Writes them to a slice of the same length and storage.
    pub(super) fn write_to(&self, slice: SliceMut<'_>) {
        let Codes { elements, scales } = &self.codes;
        match slice {
            SliceMut::Full(values) => bytemuck::cast_slice_mut(values).copy_from_slice(elements),
            SliceMut::F16(values) => bytemuck::cast_slice_mut(values).copy_from_slice(elements),
            SliceMut::Bf16(values) => bytemuck::cast_slice_mut(values).copy_from_slice(elements),
            SliceMut::Q8 { codes, scales: own, .. } => {
                codes.copy_from_slice(elements);
                bytemuck::cast_slice_mut(own).copy_from_slice(scales);
            }
        }
    }

    /// The numbers, decoded.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Their bytes, without scales.
    pub fn bytes(&self) -> &[u8] {
        &self.codes.elements
    }

    /// Whether they are `f32`.
    pub fn is_full(&self) -> bool {
        self.storage == Storage::F32
    }

    /// The number of a code among all, from the lowest up.
    fn place(&self, element: usize) -> i32 {
        let code = match self.storage {
            Storage::F16 | Storage::Bf16 => i32::from(u16::from_le_bytes(self.codes.elements.as_chunks().0[element])),
            _ => i32::from(self.codes.elements[element]),
        };
        if code & 0x8000 == 0 { code } else { 0x8000 - code }
    }

    fn scales(&self) -> impl Iterator<Item = f32> {
        self.codes.scales.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
    }
}

/// How far numbers are off.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Off {
    /// Codes of 16 and 8 bits compared.
    pub codes: u64,
    /// Those beside the expected ones, further off than the envelope allows a number before it is rounded.
    pub adjacent: u64,
    /// Those further off, and not where a number that the envelope allows would be.
    pub wrong: u64,
    /// The largest error of numbers of 32 bits, over what each may be off by.
    pub envelope: f64,
}

impl Off {
    /// Whether that is what a correct device may do.
    pub fn holds(&self) -> bool {
        self.wrong == 0 && self.envelope <= 1.0 && self.adjacent as f64 <= SHARE * self.codes as f64
    }

    /// Compares what a device stored with what it should have, each of which may be so far off before it is rounded.
    pub fn compare(&mut self, found: &Numbers, expected: &Numbers, within: impl Fn(usize) -> f64) {
        if found.values.len() != expected.values.len() {
            self.envelope = f64::INFINITY;
        } else if found.storage == Storage::F32 {
            self.full(&found.values, |element| expected.values[element].into(), within);
        } else {
            self.scales(found, expected, &within);
            (0..found.values.len()).for_each(|element| self.code(found, expected, element, within(element)));
        }
    }

    /// Compares numbers of 32 bits.
    pub fn full(&mut self, found: &[f32], expected: impl Fn(usize) -> f64, within: impl Fn(usize) -> f64) {
        for (element, &found) in found.iter().enumerate() {
            self.error(found.into(), expected(element), within(element));
        }
    }

    /// A scale is a number of its block.
    fn scales(&mut self, found: &Numbers, expected: &Numbers, within: impl Fn(usize) -> f64) {
        let block = BLOCK as usize;
        for (number, (found, own)) in found.scales().zip(expected.scales()).enumerate() {
            let elements = number * block..expected.values.len().min((number + 1) * block);
            self.error(found.into(), own.into(), elements.map(&within).fold(0.0, f64::max));
        }
    }

    /// A number that crosses two thresholds is off by at least what lies between them. One that is no further off than it
    /// may be before it is rounded has crossed none that matter: bf16 holds numbers so small that a device may flush them.
    fn code(&mut self, found: &Numbers, expected: &Numbers, element: usize, within: f64) {
        let by = found.place(element).abs_diff(expected.place(element));
        let error = (f64::from(found.values[element]) - f64::from(expected.values[element])).abs();
        self.codes += 1;
        if !error.is_finite() || (by > 1 && error > 3.0 * within) {
            self.wrong += 1;
        } else if by > 0 && error > within {
            self.adjacent += 1;
        }
    }

    fn error(&mut self, found: f64, expected: f64, within: f64) {
        let error = (found - expected).abs() / within;
        self.envelope = if error.is_nan() { f64::INFINITY } else { self.envelope.max(error) };
    }
}
