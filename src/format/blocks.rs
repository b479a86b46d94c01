//! Numbers of 8 bits, by blocks of 256 elements with one scale each, the largest magnitude among them.
//!
//! The code of `x / scale` is that of the nearest entry of the dynamic map of bitsandbytes (`create_dynamic_map`; torchao has the same):
//! the magnitudes of a decade are the middles of equal parts of it, and each decade has twice as many parts as the one
//! below. Code 0 of an unsigned map, and code 127 of a signed one, is exactly 0. Entries of the map are numbered from the
//! bottom: the `k`th magnitude lies in the decade that is the place of the leading bit of `k`, and the bits below say
//! where, so that no table is looked up. The texts between marks stand in `shaders/format/blocks.wgsl`, too.

use super::Q8Zero;
use crate::wgsl::U32;

/// Elements of a block.
pub const BLOCK: u64 = 256;

/// Where decades of a signed map end, in units of the scale: half way between the last entry of one and the first of the next.
const SIGNED: [f32; 6] = ends(0);
/// The same of an unsigned map.
const UNSIGNED: [f32; 6] = ends(1);
/// The tops of decades, and their inverses.
const TOPS: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
const OVER_TOPS: [f32; 7] = [1e6, 1e5, 1e4, 1e3, 1e2, 1e1, 1.0];

const fn ends(unsigned: u32) -> [f32; 6] {
    let tops = [1e-6f64, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];
    let mut ends = [0.0; 6];
    let mut decade = 0;
    while decade < 6 {
        ends[decade] = (tops[decade] * (1.0 + 0.9 / (1u64 << (decade as u32 + unsigned)) as f64)) as f32;
        decade += 1;
    }
    ends
}

/// Which map, and what it does with small second moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// For numbers that are never negative, which have a code more for each decade.
    pub unsigned: bool,
    /// Code 0 is for 0 alone.
    pub guarded: bool,
}

impl Map {
    /// That of slots of either sign, or of those that are never negative.
    pub fn new(unsigned: bool, zero: Q8Zero) -> Self {
        Self { unsigned, guarded: unsigned && zero == Q8Zero::Guarded }
    }

    /// The code of `x` in a block of this scale.
    #[inline(always)]
    pub fn encode(self, x: f32, scale: f32) -> u8 {
        let k = self.entry(x, scale);
        if self.unsigned {
            return (k.0 - 1) as u8;
        }
        if x < 0.0 { (127 - k.0.min(127)) as u8 } else { (127 + k.0) as u8 }
    }

    /// The number of a code in a block of this scale.
    #[inline(always)]
    pub fn decode(self, code: u8, scale: f32) -> f32 {
        let code = u32::from(code);
        if self.unsigned {
            return magnitude(U32(code + 1), true) * scale;
        }
        let sign = if code < 127 { -1.0 } else { 1.0 };
        sign * magnitude(U32(code.abs_diff(127)), false) * scale
    }

    /// The number of the entry whose magnitude is nearest.
    #[inline(always)]
    fn entry(self, x: f32, scale: f32) -> U32 {
        let r = if scale > 0.0 { x.abs() / scale } else { 0.0 };
        let ends = if self.unsigned { UNSIGNED } else { SIGNED };
        let low = u32::from(self.unsigned);
        let mut decade = 0;
        for end in ends {
            decade += u32::from(r >= end);
        }
        let n = decade + low;
        let parts = (1u32 << n) as f32;
        let part = ((r * OVER_TOPS[decade as usize] - 0.1) / 0.9 * parts).clamp(0.0, parts - 1.0) as u32;
        let k = (1 << n) + part;
        let last = 1u32 << (7 + low);
        let k = if r >= 1.0 - 0.225 / (last / 2) as f32 { last } else { k };
        let zero = r < 0.5e-6 * (0.1 + 0.45 / (1 << low) as f32);
        U32(match (zero, self.guarded && x != 0.0) {
            (true, true) => 2,
            (true, false) => low,
            (false, _) => k,
        })
    }
}

/// The magnitude of an entry, in units of the scale.
#[inline(always)]
fn magnitude(k: U32, unsigned: bool) -> f32 {
    let low = u32::from(unsigned);
    if k.0 == low {
        return 0.0;
    }
    if k.0 == 128 << low {
        return 1.0;
    }
    let n = 31 - k.0.leading_zeros();
    let part = (k.0 as f32 + 0.5) / (1u32 << n) as f32 - 1.0;
    TOPS[(n - low) as usize] * (0.1 + 0.9 * part)
}

/// The scale of a block: the largest magnitude in it, by its bits, so that what is not finite is found.
#[inline(always)]
pub fn scale(values: &[f32]) -> f32 {
    const MAGNITUDE: u32 = 0x7fff_ffff;
    f32::from_bits(values.iter().fold(0, |most, x| most.max(x.to_bits() & MAGNITUDE)))
}

/// A block to its codes; returns the scale.
#[inline(always)]
pub fn encode(map: Map, values: &[f32], codes: &mut [u8]) -> f32 {
    let scale = scale(values);
    codes.iter_mut().zip(values).for_each(|(code, x)| *code = map.encode(*x, scale));
    scale
}

/// The codes of a block to its numbers.
pub fn decode(map: Map, codes: &[u8], scale: f32, values: &mut [f32]) {
    values.iter_mut().zip(codes).for_each(|(x, code)| *x = map.decode(*code, scale));
}
