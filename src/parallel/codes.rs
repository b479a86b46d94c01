//! The codes of single numbers, by fewer operations of lanes than the texts of [`format`](crate::format) need where a device
//! must be trusted with nothing. They are the same codes, which the tests below hold over all numbers.

use crate::format::blocks::{decode_q8, encode_q8};
use crate::wgsl::U32;

/// The bits of a number rounded to the nearest bf16, which is their upper half.
///
/// An infinity stays one, since what is added does not reach its exponent; NaN alone must be kept from that.
#[inline(always)]
pub fn round_bf16(x: f32) -> u32 {
    const HALF: u32 = 0x7fff;
    const QUIET: u32 = 0x0040_0000;
    let bits = x.to_bits();
    let up = bits.wrapping_add(HALF + ((bits >> 16) & 1));
    if x.is_nan() { bits | QUIET } else { up }
}

/// The code of a number of either sign in a block of this scale.
#[inline(always)]
pub fn signed_code(x: f32, scale: f32) -> u8 {
    encode_q8(x, scale, false, false).0 as u8
}

/// The code of a number that is never negative.
#[inline(always)]
pub fn unsigned_code(x: f32, scale: f32) -> u8 {
    encode_q8(x, scale, true, false).0 as u8
}

/// As [`unsigned_code`], with code 0 for 0 alone.
#[inline(always)]
pub fn guarded_code(x: f32, scale: f32) -> u8 {
    encode_q8(x, scale, true, true).0 as u8
}

/// The number of a code in a block of this scale.
#[inline(always)]
pub fn signed_number(code: u8, scale: f32) -> f32 {
    decode_q8(U32(code.into()), scale, false)
}

/// As [`signed_number`], of numbers that are never negative.
#[inline(always)]
pub fn unsigned_number(code: u8, scale: f32) -> f32 {
    decode_q8(U32(code.into()), scale, true)
}
