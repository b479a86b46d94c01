//! Bits of numbers that between them meet every exponent, every tie and every edge.

use wgpu_optim::format::noise::mixed;
use wgpu_optim::wgsl::U32;

/// Each sign and exponent (NaN and infinity too) with each single bit, all bits, and a few of chance; and one more and less.
pub fn words() -> Vec<u32> {
    let mantissas = |high: u32| {
        let single = (0..23).map(|bit| 1 << bit);
        let below = (0..24).map(|bit| (1 << bit) - 1);
        let chance = (0..40).map(move |i| mixed(U32(high ^ i)).0 >> 9);
        single.chain(below).chain(chance)
    };
    let with = |high: u32| mantissas(high).map(move |mantissa| (high << 23) | mantissa);
    (0..512).flat_map(with).flat_map(|word| [word.wrapping_sub(1), word, word.wrapping_add(1)]).collect()
}
