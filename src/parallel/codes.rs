//! The codes of single numbers, in fewer operations of lanes than the texts of [`format`](crate::format) take, which leave
//! nothing to a device. They are the same codes, bit for bit.

use crate::format::blocks::decode_q8;
use crate::wgsl::U32;

const MAGNITUDE: u32 = 0x7fff_ffff;

/// The bits of a number rounded to the nearest bf16, which is their upper half.
#[inline(always)]
pub fn nearest_bf16(x: f32) -> u32 {
    const HALF: u32 = 0x7fff;
    nudged(x, HALF + ((x.to_bits() >> 16) & 1))
}

/// As [`nearest_bf16`], up by chance: `noise` is any 32 bits.
#[inline(always)]
pub fn chance_bf16(x: f32, noise: u32) -> u32 {
    nudged(x, noise >> 16)
}

/// What is added to an infinity does not reach its exponent; NaN alone must be kept from it.
#[inline(always)]
fn nudged(x: f32, nudge: u32) -> u32 {
    const QUIET: u32 = 0x0040_0000;
    let bits = x.to_bits();
    if x.is_nan() { bits | QUIET } else { bits.wrapping_add(nudge) }
}

/// What a block's numbers are divided by. Where the scale is no normal number, all of them count as 0.
#[derive(Clone, Copy, Debug)]
pub struct Divisor {
    by: f32,
    mask: u32,
}

impl Divisor {
    #[inline(always)]
    pub fn of(scale: f32) -> Self {
        if scale.is_normal() { Self { by: scale, mask: MAGNITUDE } } else { Self { by: 1.0, mask: 0 } }
    }

    #[inline(always)]
    fn share(self, x: f32) -> f32 {
        f32::from_bits(x.to_bits() & self.mask) / self.by
    }
}

/// Where a decade starts for signed and for unsigned maps, and what its numbers are multiplied by to be from 1 to 2 once
/// `LEAST` is added. Below the first there is 0; the last is the scale.
const DECADES: [([f32; 2], f32); 8] = [
    ([2.75e-7, 1.625e-7], 1111111.1),
    ([1.9e-6, 1.45e-6], 111111.11),
    ([1.45e-5, 1.225e-5], 11111.111),
    ([1.225e-4, 1.1125e-4], 1111.1111),
    ([1.1125e-3, 1.05625e-3], 111.111115),
    ([1.05625e-2, 1.028125e-2], 11.111111),
    ([1.028125e-1, 1.0140625e-1], 1.1111112),
    ([0.9964844, 0.9982422], 0.1125),
];

/// The number of the entry that is nearest to `r`, a share of the scale.
///
/// Once in its decade it is from 1 to 2, so that an entry's number is the leading bits of its significand: one more of
/// them in each decade.
#[inline(always)]
fn entry(r: f32, unsigned: bool) -> u32 {
    const LEAST: f32 = 0.8888889;
    const MOST: f32 = 2.0f32.next_down();
    // An exponent that leaves the leading bit where numbers from 1 to 2 have it.
    const HALF: u32 = 0x3f00_0000;
    let (mut over, mut shift) = (0.0, 0);
    for (decade, (from, of_decade)) in (0..).zip(DECADES) {
        let reached = r >= from[usize::from(unsigned)];
        over = if reached { of_decade } else { over };
        shift = if reached { decade } else { shift };
    }
    let place = r * over + LEAST;
    let place = if place < MOST { place } else { MOST };
    (place.to_bits() - HALF) >> (23 - u32::from(unsigned) - shift)
}

/// The code of a number of either sign.
#[inline(always)]
pub fn signed_code(x: f32, divisor: Divisor) -> u8 {
    const MIDDLE: i32 = 127;
    let k = entry(divisor.share(x), false) as i32;
    let sign = x.to_bits() as i32 >> 31;
    (MIDDLE + ((k ^ sign) - sign)).max(0) as u8
}

/// The code of a number that is never negative.
#[inline(always)]
pub fn unsigned_code(x: f32, divisor: Divisor) -> u8 {
    (entry(divisor.share(x), true) - 1) as u8
}

/// As [`unsigned_code`], with code 0 for 0 alone.
#[inline(always)]
pub fn guarded_code(x: f32, divisor: Divisor) -> u8 {
    let least = if x.to_bits() & MAGNITUDE > 0 { 2 } else { 1 };
    (entry(divisor.share(x), true).max(least) - 1) as u8
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::blocks::encode_q8;
    use crate::format::halves::to_bf16;

    /// The codes of shares of a block: ours, and those of the texts.
    fn codes(r: f32) -> [[u32; 2]; 4] {
        let divisor = Divisor::of(1.0);
        let text = |x, unsigned, guarded| encode_q8(x, 1.0, unsigned, guarded).0;
        [
            [signed_code(r, divisor).into(), text(r, false, false)],
            [signed_code(-r, divisor).into(), text(-r, false, false)],
            [unsigned_code(r, divisor).into(), text(r, true, false)],
            [guarded_code(r, divisor).into(), text(r, true, true)],
        ]
    }

    fn are_the_texts(bits: u32) {
        let r = f32::from_bits(bits);
        codes(r).into_iter().for_each(|[ours, text]| assert_eq!(ours, text, "{r:e}"));
    }

    #[test]
    fn codes_of_8_bits_are_the_texts_around_every_edge_and_between() {
        let one = 1.0f32.to_bits();
        let kinds: [fn(f32) -> u32; 2] = [|r| encode_q8(r, 1.0, false, false).0, |r| encode_q8(r, 1.0, true, false).0];
        let mut edges = 0;
        for code in kinds {
            let mut bits = 0;
            while code(f32::from_bits(bits)) < code(1.0) {
                let now = code(f32::from_bits(bits));
                let (mut below, mut above) = (bits, one);
                while above - below > 1 {
                    let middle = below.midpoint(above);
                    *(if code(f32::from_bits(middle)) > now { &mut above } else { &mut below }) = middle;
                }
                (above.saturating_sub(40)..(above + 40).min(one + 1)).for_each(are_the_texts);
                (bits, edges) = (above, edges + 1);
            }
        }
        assert_eq!(edges, 128 + 255);
        (0..=one).step_by(9973).chain([one]).for_each(are_the_texts);
    }

    #[test]
    fn blocks_of_any_scale_have_the_texts_codes() {
        let edges = [0.0, f32::MIN_POSITIVE, f32::MIN_POSITIVE.next_down(), 1e-45, 3e-39, 0.3, 7e37, f32::MAX];
        for scale in edges.into_iter().chain([f32::INFINITY, f32::NAN]) {
            let divisor = Divisor::of(scale);
            for x in edges.into_iter().chain([f32::INFINITY, f32::NAN]).flat_map(|x| [x, -x, x * 0.37]) {
                if x.abs() <= scale || !scale.is_finite() {
                    assert_eq!(
                        u32::from(signed_code(x, divisor)),
                        encode_q8(x, scale, false, false).0,
                        "{x:e} {scale:e}"
                    );
                    assert_eq!(
                        u32::from(unsigned_code(x, divisor)),
                        encode_q8(x, scale, true, false).0,
                        "{x:e} {scale:e}"
                    );
                    assert_eq!(
                        u32::from(guarded_code(x, divisor)),
                        encode_q8(x, scale, true, true).0,
                        "{x:e} {scale:e}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_bf16_and_what_lies_between_two_is_rounded_as_by_the_text() {
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x40, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let bits = u32::from(high) << 16 | low;
                let x = f32::from_bits(bits);
                assert_eq!(nearest_bf16(x) >> 16, to_bf16(U32(bits), U32(0), false).0, "{bits:x}");
                for noise in [0, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
                    assert_eq!(
                        chance_bf16(x, noise) >> 16,
                        to_bf16(U32(bits), U32(noise), true).0,
                        "{bits:x} {noise:x}"
                    );
                }
            }
        }
    }
}
