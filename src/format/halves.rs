//! Numbers of 16 bits, by integer arithmetic: nothing is left to what a device makes of rounding, of subnormals or of
//! NaN, and there is nothing that a compiler could take out.
//!
//! The texts between marks stand in `shaders/format/halves.wgsl`, too. A number of 16 bits is the low half of a word.
//! What is finite and beyond the largest number goes to that number or to infinity, as to two neighbours; in IEEE's
//! rounding to the nearest, and so by chance.

use super::Rounding;
use crate::wgsl::{U32, f32, min, select};

const ZERO: U32 = U32(0);
const ONE: U32 = U32(1);
const SIXTEEN: U32 = U32(16);
const SIGN: U32 = U32(0x8000_0000);
const MAGNITUDE: U32 = U32(0x7fff_ffff);
const INFINITY: U32 = U32(0x7f80_0000);

/// The bits of an `f32` as bf16, rounded to the nearest, or, where `chance` is set, up by chance: `noise` is any 32
/// bits.
#[inline(always)]
pub fn to_bf16(x: U32, noise: U32, chance: bool) -> U32 {
    const LOW_HALF: U32 = U32(0x7fff);
    const QUIET: U32 = U32(0x40);
    // <to_bf16>
    let high = x >> SIXTEEN;
    let nudge = select(LOW_HALF + (high & ONE), noise >> SIXTEEN, chance);
    let wrong = (x & MAGNITUDE) >= INFINITY;
    let stays = high | select(ZERO, QUIET, (x & MAGNITUDE) > INFINITY);
    let code = select((x + nudge) >> SIXTEEN, stays, wrong);
    // </to_bf16>
    code
}

/// The bits of a bf16 as those of an `f32`: exact.
#[inline(always)]
pub fn from_bf16(code: U32) -> U32 {
    // <from_bf16>
    let x = code << SIXTEEN;
    // </from_bf16>
    x
}

/// The bits of an `f32` as f16: as [`to_bf16`]. What is too large becomes infinite.
#[inline(always)]
pub fn to_f16(x: U32, noise: U32, chance: bool) -> U32 {
    const TWENTY_THREE: U32 = U32(23);
    const THIRTEEN: U32 = U32(13);
    const THIRTY_ONE: U32 = U32(31);
    const THIRTY_TWO: U32 = U32(32);
    // The exponent of the least normal f16, and from where those below count: a subnormal has a fixed unit.
    const NORMAL: U32 = U32(113);
    const SUBNORMAL: U32 = U32(126);
    const FRACTION: U32 = U32(0x007f_ffff);
    const LEADING: U32 = U32(0x0080_0000);
    const REBIAS: U32 = U32(0x3800_0000);
    const LARGE: U32 = U32(0x4780_0000);
    const INFINITE: U32 = U32(0x7c00);
    const QUIET: U32 = U32(0x0200);
    const TEN_BITS: U32 = U32(0x03ff);
    // <to_f16>
    let a = x & MAGNITUDE;
    let e = a >> TWENTY_THREE;
    let normal = e >= NORMAL;
    let far = SUBNORMAL - e;
    let near = min(far, THIRTY_ONE);
    let tiny = ((a & FRACTION) | LEADING) >> min(far - near, THIRTY_ONE);
    let shift = select(near, THIRTEEN, normal);
    let m = select(tiny, a - REBIAS, normal);
    let half = (ONE << (shift - ONE)) - ONE;
    let nudge = select(half + ((m >> shift) & ONE), noise >> (THIRTY_TWO - shift), chance);
    let finite = (m + nudge) >> shift;
    let payload = select(ZERO, QUIET | ((a >> THIRTEEN) & TEN_BITS), a > INFINITY);
    let code = select(finite, INFINITE | payload, a >= LARGE) | ((x & SIGN) >> SIXTEEN);
    // </to_f16>
    code
}

/// The bits of an f16 as those of an `f32`: exact, subnormals too.
#[inline(always)]
pub fn from_f16(code: U32) -> U32 {
    const THIRTEEN: U32 = U32(13);
    const REST: U32 = U32(0x7fff);
    const NORMAL: U32 = U32(0x0400);
    const INFINITE: U32 = U32(0x7c00);
    const REBIAS: U32 = U32(0x3800_0000);
    const SIGN_16: U32 = U32(0x8000);
    const LEAST: f32 = 1.0 / 16_777_216.0;
    let tiny = U32((f32(code & REST) * LEAST).to_bits());
    // <from_f16>
    let a = code & REST;
    let normal = (a << THIRTEEN) + REBIAS;
    let finite = select(normal, tiny, a < NORMAL);
    let x = select(finite, normal + REBIAS, a >= INFINITE) | ((code & SIGN_16) << SIXTEEN);
    // </from_f16>
    x
}

/// How a number of 16 bits is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// IEEE's.
    F16,
    /// The high half of an `f32`.
    Bf16,
}

impl Half {
    /// The number of a code.
    #[inline(always)]
    pub fn widen(self, code: u16) -> f32 {
        let code = U32(code.into());
        f32::from_bits(match self {
            Half::F16 => from_f16(code).0,
            Half::Bf16 => from_bf16(code).0,
        })
    }

    /// The code of a number; `noise` is used by [`Rounding::Stochastic`] alone.
    #[inline(always)]
    pub fn narrow(self, x: f32, rounding: Rounding, noise: u32) -> u16 {
        let (x, noise, chance) = (U32(x.to_bits()), U32(noise), rounding == Rounding::Stochastic);
        match self {
            Half::F16 => to_f16(x, noise, chance).0 as u16,
            Half::Bf16 => to_bf16(x, noise, chance).0 as u16,
        }
    }
}
