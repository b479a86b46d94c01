//! Numbers of a tensor, in whatever format they lie.

use std::ops::Range;

use half::{bf16, f16};

use crate::chain::Norm;
use crate::chain::control::Measure;
use crate::format::blocks::{self, Map};
use crate::format::halves::Half;
use crate::format::noise::noise;
use crate::format::{Format, Rounding};
use crate::wgsl::{Real, U32};

/// Elements of a block of 8 bits.
const BLOCK: usize = blocks::BLOCK as usize;

/// Numbers to be read. `From` makes one of a slice of `f32`, `half::f16` or `half::bf16`.
#[derive(Clone, Copy, Debug)]
pub enum Slice<'a, T = f32> {
    /// As they are computed with: the format `f32`; the oracle's are `f64`.
    Full(&'a [T]),
    /// The format `f16`.
    F16(&'a [f16]),
    /// The format `bf16`.
    Bf16(&'a [bf16]),
    /// The format `q8`, which state alone can have: see [`blocks`].
    Q8 {
        /// What the codes mean.
        map: Map,
        /// One for each element.
        codes: &'a [u8],
        /// One for each 256 elements and for what is left.
        scales: &'a [f32],
    },
}

/// [`Slice`], to be written.
#[derive(Debug)]
pub enum SliceMut<'a, T = f32> {
    /// As they are computed with: the format `f32`; the oracle's are `f64`.
    Full(&'a mut [T]),
    /// The format `f16`.
    F16(&'a mut [f16]),
    /// The format `bf16`.
    Bf16(&'a mut [bf16]),
    /// The format `q8`, which state alone can have: see [`blocks`].
    Q8 {
        /// What the codes mean.
        map: Map,
        /// One for each element.
        codes: &'a mut [u8],
        /// One for each 256 elements and for what is left.
        scales: &'a mut [f32],
    },
}

impl<'a> Slice<'a> {
    /// Numbers in the bytes of a file, or nothing where these are not whole numbers or not aligned as such.
    pub fn of_bytes(format: Format, bytes: &'a [u8]) -> Option<Self> {
        match format {
            Format::F32 => bytemuck::try_cast_slice(bytes).ok().map(Self::Full),
            Format::F16 => bytemuck::try_cast_slice(bytes).ok().map(Self::F16),
            Format::Bf16 => bytemuck::try_cast_slice(bytes).ok().map(Self::Bf16),
        }
    }
}

impl<'a> SliceMut<'a> {
    /// As [`Slice::of_bytes`].
    pub fn of_bytes(format: Format, bytes: &'a mut [u8]) -> Option<Self> {
        match format {
            Format::F32 => bytemuck::try_cast_slice_mut(bytes).ok().map(Self::Full),
            Format::F16 => bytemuck::try_cast_slice_mut(bytes).ok().map(Self::F16),
            Format::Bf16 => bytemuck::try_cast_slice_mut(bytes).ok().map(Self::Bf16),
        }
    }
}

impl<'a, T: Real> Slice<'a, T> {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Full(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::Q8 { codes, .. } => codes.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The format's name.
    pub fn format(&self) -> &'static str {
        match self {
            Self::Full(_) => "f32",
            Self::F16(_) => "f16",
            Self::Bf16(_) => "bf16",
            Self::Q8 { .. } => "q8",
        }
    }

    /// The bytes they take, scales included.
    pub fn size(&self) -> usize {
        match self {
            Self::Full(values) => size_of_val(*values),
            Self::F16(values) => size_of_val(*values),
            Self::Bf16(values) => size_of_val(*values),
            Self::Q8 { codes, scales, .. } => size_of_val(*codes) + size_of_val(*scales),
        }
    }

    /// The numbers, decoded.
    pub fn to_vec(&self) -> Vec<T> {
        let mut values = vec![T::from_f64(0.0); self.len()];
        self.decode(&mut values);
        values
    }

    /// Takes the first `len` of them, or all: whole blocks, or all.
    #[inline(always)]
    pub(crate) fn split_off(&mut self, len: usize) -> Self {
        let n = len.min(self.len());
        match self {
            Self::Full(values) => Self::Full(values.split_off(..n).unwrap_or_default()),
            Self::F16(values) => Self::F16(values.split_off(..n).unwrap_or_default()),
            Self::Bf16(values) => Self::Bf16(values.split_off(..n).unwrap_or_default()),
            Self::Q8 { map, codes, scales } => Self::Q8 {
                map: *map,
                codes: codes.split_off(..n).unwrap_or_default(),
                scales: scales.split_off(..n.div_ceil(BLOCK)).unwrap_or_default(),
            },
        }
    }

    /// Those of a range: whole blocks, or all.
    pub(crate) fn within(mut self, range: &Range<usize>) -> Self {
        self.split_off(range.start);
        self.split_off(range.len())
    }

    /// Calls `meet` with each of `values` and the number at its place.
    #[inline(always)]
    pub(crate) fn meet(self, values: &mut [T], meet: impl Fn(&mut T, T)) {
        let of_half = |half: Half, code: u16| T::from_f64(half.widen(code).into());
        match self {
            Self::Full(own) => values.iter_mut().zip(own).for_each(|(x, y)| meet(x, *y)),
            Self::F16(own) => values.iter_mut().zip(own).for_each(|(x, y)| meet(x, of_half(Half::F16, y.to_bits()))),
            Self::Bf16(own) => values.iter_mut().zip(own).for_each(|(x, y)| meet(x, of_half(Half::Bf16, y.to_bits()))),
            Self::Q8 { map, codes, scales } => {
                for ((values, codes), &scale) in values.chunks_mut(BLOCK).zip(codes.chunks(BLOCK)).zip(scales) {
                    let of_code = |code: u8| T::from_f64(map.decode(code, scale).into());
                    values.iter_mut().zip(codes).for_each(|(x, code)| meet(x, of_code(*code)));
                }
            }
        }
    }

    #[inline(always)]
    pub(crate) fn decode(self, values: &mut [T]) {
        self.meet(values, |x, y| *x = y);
    }

    /// The numbers where they are, or decoded into `values`.
    #[inline(always)]
    pub(crate) fn open<'b>(self, coding: &impl Coding<T>, values: &'b mut [T]) -> &'b [T]
    where
        'a: 'b,
    {
        match self {
            Self::Full(own) => own,
            _ => {
                let values = &mut values[..self.len()];
                coding.decode(self, values);
                values
            }
        }
    }

    /// What is known of them as gradients.
    pub(crate) fn measure(self, norm: Norm) -> Measure {
        match self {
            Self::Full(own) => Measure::of(own, norm),
            Self::F16(own) => Measure::over(own.iter().map(|x| Half::F16.widen(x.to_bits()).into()), norm),
            Self::Bf16(own) => Measure::over(own.iter().map(|x| Half::Bf16.widen(x.to_bits()).into()), norm),
            Self::Q8 { .. } => Measure::of(&self.to_vec(), norm),
        }
    }
}

impl<'a, T: Real> SliceMut<'a, T> {
    /// The same, to be read.
    #[inline(always)]
    pub fn as_slice(&self) -> Slice<'_, T> {
        match self {
            Self::Full(values) => Slice::Full(values),
            Self::F16(values) => Slice::F16(values),
            Self::Bf16(values) => Slice::Bf16(values),
            Self::Q8 { map, codes, scales } => Slice::Q8 { map: *map, codes, scales },
        }
    }

    /// The same, lent on.
    #[inline(always)]
    pub(crate) fn lent(&mut self) -> SliceMut<'_, T> {
        match self {
            Self::Full(values) => SliceMut::Full(values),
            Self::F16(values) => SliceMut::F16(values),
            Self::Bf16(values) => SliceMut::Bf16(values),
            Self::Q8 { map, codes, scales } => SliceMut::Q8 { map: *map, codes, scales },
        }
    }

    #[inline(always)]
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }

    /// The numbers as they are computed with; none where they lie otherwise.
    #[inline(always)]
    pub(crate) fn full(self) -> &'a mut [T] {
        match self {
            Self::Full(values) => values,
            _ => &mut [],
        }
    }

    /// The numbers of the format `bf16`, or no numbers.
    #[cfg(feature = "parallel")]
    pub(crate) fn bf16(&mut self) -> Option<&mut [bf16]> {
        match self {
            Self::Bf16(values) => Some(values),
            Self::Full([]) => Some(&mut []),
            _ => None,
        }
    }

    /// As [`Slice::split_off`].
    #[inline(always)]
    pub(crate) fn split_off(&mut self, len: usize) -> Self {
        let n = len.min(self.as_slice().len());
        match self {
            Self::Full(values) => Self::Full(values.split_off_mut(..n).unwrap_or_default()),
            Self::F16(values) => Self::F16(values.split_off_mut(..n).unwrap_or_default()),
            Self::Bf16(values) => Self::Bf16(values.split_off_mut(..n).unwrap_or_default()),
            Self::Q8 { map, codes, scales } => Self::Q8 {
                map: *map,
                codes: codes.split_off_mut(..n).unwrap_or_default(),
                scales: scales.split_off_mut(..n.div_ceil(BLOCK)).unwrap_or_default(),
            },
        }
    }

    /// As [`Slice::within`].
    pub(crate) fn within(mut self, range: &Range<usize>) -> Self {
        self.split_off(range.start);
        self.split_off(range.len())
    }

    /// As [`Slice::open`], to be changed; [`Coding::encode`] puts back what was decoded.
    #[inline(always)]
    pub(crate) fn open<'b>(&'b mut self, coding: &impl Coding<T>, values: &'b mut [T]) -> &'b mut [T] {
        match self {
            Self::Full(own) => own,
            _ => {
                let own = self.as_slice();
                let values = &mut values[..own.len()];
                coding.decode(own, values);
                values
            }
        }
    }

    /// Writes these numbers, to the nearest, or by chance.
    #[inline(always)]
    pub(crate) fn encode(&mut self, values: &[T], chance: Option<Chance>) {
        match self {
            Self::Full(own) => own.copy_from_slice(values),
            Self::F16(own) => narrow(Half::F16, values, bytemuck::cast_slice_mut(own), chance),
            Self::Bf16(own) => narrow(Half::Bf16, values, bytemuck::cast_slice_mut(own), chance),
            Self::Q8 { map, codes, scales } => {
                let mut block = [0.0; BLOCK];
                for ((codes, values), scale) in codes.chunks_mut(BLOCK).zip(values.chunks(BLOCK)).zip(&mut **scales) {
                    let block = &mut block[..codes.len()];
                    block.iter_mut().zip(values).for_each(|(x, y)| *x = single(*y));
                    *scale = blocks::encode(*map, block, codes);
                }
            }
        }
    }
}

/// How what is stored becomes numbers, and they what is stored.
pub(crate) trait Coding<T> {
    /// The numbers of `from`, as many as there are.
    fn decode(&self, from: Slice<'_, T>, values: &mut [T]);

    /// As [`SliceMut::encode`].
    fn encode(&self, values: &[T], to: &mut SliceMut<'_, T>, chance: Option<Chance>);
}

/// One number after the other, by the texts that the shaders have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain;

impl<T: Real> Coding<T> for Plain {
    fn decode(&self, from: Slice<'_, T>, values: &mut [T]) {
        from.decode(values);
    }

    fn encode(&self, values: &[T], to: &mut SliceMut<'_, T>, chance: Option<Chance>) {
        to.encode(values, chance);
    }
}

/// The noise of a stretch: that of its stream, from an element on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance {
    pub stream: U32,
    pub first: usize,
}

#[inline(always)]
fn narrow<T: Real>(half: Half, values: &[T], codes: &mut [u16], chance: Option<Chance>) {
    match chance {
        None => {
            codes.iter_mut().zip(values).for_each(|(code, x)| *code = half.narrow(single(*x), Rounding::Nearest, 0))
        }
        Some(Chance { stream, first }) => {
            // Indexed: the form that becomes lanes.
            let n = codes.len();
            let (values, first) = (&values[..n], first as u32);
            for i in 0..n {
                let noise = noise(stream, U32(first.wrapping_add(i as u32)));
                codes[i] = half.narrow(single(values[i]), Rounding::Stochastic, noise.0);
            }
        }
    }
}

/// What is stored is an `f32` first, of the oracle, too.
#[inline(always)]
fn single<T: Real>(x: T) -> f32 {
    x.to_f64() as f32
}

impl<T> Default for Slice<'_, T> {
    fn default() -> Self {
        Self::Full(&[])
    }
}

impl<T> Default for SliceMut<'_, T> {
    fn default() -> Self {
        Self::Full(&mut [])
    }
}

impl<'a, T: Real> From<&'a [T]> for Slice<'a, T> {
    fn from(values: &'a [T]) -> Self {
        Self::Full(values)
    }
}

impl<'a, T: Real> From<&'a mut [T]> for SliceMut<'a, T> {
    fn from(values: &'a mut [T]) -> Self {
        Self::Full(values)
    }
}

/// Makes slices of numbers of 16 bits.
macro_rules! halves {
    ($($of:ty => $variant:ident;)*) => {
        $(impl<'a, T> From<&'a [$of]> for Slice<'a, T> {
            fn from(values: &'a [$of]) -> Self {
                Self::$variant(values)
            }
        }

        impl<'a, T> From<&'a mut [$of]> for SliceMut<'a, T> {
            fn from(values: &'a mut [$of]) -> Self {
                Self::$variant(values)
            }
        })*
    };
}
halves! {
    f16 => F16;
    bf16 => Bf16;
}
