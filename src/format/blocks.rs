//! Numbers of 8 bits, by blocks of 256 elements with one scale each, the largest magnitude among them.
//!
//! The code of `x / scale` is that of the nearest entry of the dynamic map of bitsandbytes (`create_dynamic_map`;
//! torchao has the same): the magnitudes of a decade are the middles of equal parts of it, and each decade has twice as
//! many parts as the one below. Code 0 of an unsigned map, and code 127 of a signed one, is exactly 0; the last is the
//! scale, and a signed map has no `-scale`. Entries are numbered from the bottom: the `k`th magnitude lies in the
//! decade that is the place of the leading bit of `k`, and the bits below say where, so that no table is looked up.
//! That is the published map to within 2 ULP, and where two entries are equally near to within 1e-4 of their distance,
//! either may be taken. The texts between marks stand in `shaders/format/blocks.wgsl`, too.
//!
//! A block whose scale is not finite is that scale throughout, whatever its codes: a NaN in one gradient makes 256
//! elements NaN in the next step, as in torchao, where in `f32` it makes one. No code could say which of them it was,
//! and to leave that element out, as bitsandbytes's Adam does, would hide it. A [`Scaler`](crate::Scaler) leaves out
//! the whole step, and files with such a scale are refused ([`check_scales`]).
//!
//! A block whose scale is not a normal number (below 1.2e-38) is 0 throughout: a device need not have such numbers.
//! WGSL promises nothing of a division by more than 2^126, and so a device may take a block of such a scale for 0.
//!
//! Below a scale of 3.6e-32 the least that a guarded second moment becomes, 3.25e-7 of the scale, is no normal number
//! either, and a device that flushes such numbers reads 0, as it does where state is `f32`. That changes no update that
//! has an eps: a root below 1.1e-19 is nothing beside 1e-8, and the step is `lr * m / (bc1 * eps)` with or without it.
//! A first moment that goes with so small a second one is at most 4e-18 of its correction, so such a step is below 1e-9
//! of lr. Where eps is 0 it is infinite on such a device, again as in `f32`.

use super::Q8Zero;
use crate::Error;
use crate::wgsl::{U32, abs, f32, min, select, u32};

/// Elements of a block.
pub const BLOCK: u64 = 256;

const MAGNITUDE: U32 = U32(0x7fff_ffff);
const MIDDLE: U32 = U32(127);

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
        encode_q8(x, scale, self.unsigned, self.guarded).0 as u8
    }

    /// The number of a code in a block of this scale.
    #[inline(always)]
    pub fn decode(self, code: u8, scale: f32) -> f32 {
        decode_q8(U32(code.into()), scale, self.unsigned)
    }
}

/// The code of a number, none of whose block is larger than `scale`.
///
/// A decade ends half way between its last entry and the first of the next. In it, an entry's number is
/// `parts * (1 + (r / top - 0.1) / 0.9)`, rounded down.
#[inline(always)]
pub fn encode_q8(x: f32, scale: f32, unsigned: bool, guarded: bool) -> U32 {
    const ZERO: U32 = U32(0);
    const ONE: U32 = U32(1);
    const NORMAL: U32 = U32(0x0080_0000);
    const NORMALS: U32 = U32(0x7f00_0000);
    let x_bits = U32(x.to_bits()) & MAGNITUDE;
    let scale_bits = U32(scale.to_bits());
    // <encode_q8>
    let r = select(0.0, abs(x) / scale, (scale_bits - NORMAL) < NORMALS);
    let a = r >= select(1.9e-6, 1.45e-6, unsigned);
    let b = r >= select(1.45e-5, 1.225e-5, unsigned);
    let c = r >= select(1.225e-4, 1.1125e-4, unsigned);
    let d = r >= select(1.1125e-3, 1.05625e-3, unsigned);
    let e = r >= select(1.05625e-2, 1.028125e-2, unsigned);
    let f = r >= select(1.028125e-1, 1.0140625e-1, unsigned);
    let low = select(select(1111111.1, 111111.11, a), select(11111.111, 1111.1111, c), b);
    let over = select(low, select(select(111.111115, 11.111111, e), 1.1111112, f), d);
    let few = select(select(1.0, 2.0, a), select(4.0, 8.0, c), b);
    let parts = select(few, select(select(16.0, 32.0, e), 64.0, f), d) * select(1.0, 2.0, unsigned);
    let among = min((r * over + 0.8888889) * parts, parts + parts - 0.5);
    let one = r >= select(0.9964844, 0.9982422, unsigned);
    let none = r < select(2.75e-7, 1.625e-7, unsigned);
    let least = select(1.0, 2.0, guarded & (x_bits > ZERO));
    let zero = select(0.0, least, unsigned);
    let k = u32(select(select(among, select(128.0, 256.0, unsigned), one), zero, none));
    let signed_code = select(MIDDLE + k, MIDDLE - min(k, MIDDLE), x < 0.0);
    let code = select(signed_code, k - ONE, unsigned);
    // </encode_q8>
    code
}

/// The number of a code.
#[inline(always)]
pub fn decode_q8(code: U32, scale: f32, unsigned: bool) -> f32 {
    const EXPONENT: U32 = U32(0x7f80_0000);
    const TWICE_BIAS: U32 = U32(0x7f00_0000);
    let k = select(abs(f32(code) - 127.0), f32(code) + 1.0, unsigned);
    // The inverse of the power of two that is the leading bit of `k`, by its exponent.
    let share = f32::from_bits((TWICE_BIAS - (U32(k.to_bits()) & EXPONENT)).0);
    let scale_bits = U32(scale.to_bits());
    // <decode_q8>
    let j = k * select(1.0, 0.5, unsigned);
    let low = select(select(1e-6, 1e-5, j >= 2.0), select(1e-4, 1e-3, j >= 8.0), j >= 4.0);
    let high = select(select(1e-2, 1e-1, j >= 32.0), 1.0, j >= 64.0);
    let top = select(low, high, j >= 16.0);
    let entry = top * (0.1 + 0.9 * ((k + 0.5) * share - 1.0));
    let magnitude = select(select(entry, 1.0, j >= 128.0), 0.0, j < 1.0) * scale;
    let finite = select(magnitude, -magnitude, (code < MIDDLE) & !unsigned);
    let x = select(finite, scale, scale_bits >= EXPONENT);
    // </decode_q8>
    x
}

/// The scale of a block: the largest magnitude in it, by its bits, so that what is not finite is found.
#[inline(always)]
pub fn scale(values: &[f32]) -> f32 {
    f32::from_bits(values.iter().fold(0, |most, x| most.max(x.to_bits() & MAGNITUDE.0)))
}

/// A block to its codes; returns the scale.
#[inline(always)]
pub fn encode(map: Map, values: &[f32], codes: &mut [u8]) -> f32 {
    let scale = scale(values);
    codes.iter_mut().zip(values).for_each(|(code, x)| *code = map.encode(*x, scale));
    scale
}

/// The codes of a block to its numbers.
#[inline(always)]
pub fn decode(map: Map, codes: &[u8], scale: f32, values: &mut [f32]) {
    values.iter_mut().zip(codes).for_each(|(x, code)| *x = map.decode(*code, scale));
}

/// Refuses scales, of blocks from number `first` on, that no block of finite numbers has.
///
/// # Errors
/// [`Error::Scale`] with the first.
pub fn check_scales(first: u64, scales: impl IntoIterator<Item = f32>) -> Result<(), Error> {
    match (first..).zip(scales).find(|(_, scale)| !scale.is_finite() || scale.is_sign_negative()) {
        Some((block, scale)) => Err(Error::Scale { block, scale }),
        None => Ok(()),
    }
}
