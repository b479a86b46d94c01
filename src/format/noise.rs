//! Chance that can be repeated: a word for each element of each slot of each tensor at each step, from a counter.
//!
//! It depends on the seed, the number of the recorded step, the tensor's name and the element, and on nothing of how
//! the work is divided, so that CPU and GPU, and a run that was resumed, round alike. The texts between marks stand in
//! `shaders/format/noise.wgsl`, too.

use crate::wgsl::U32;

/// 32 bits, each of which depends on each of `x`: a bijection of two multiplications. Source of the constants: C.
/// Wellons, "Prospecting for hash functions", 2018 (`lowbias32`).
#[inline(always)]
pub fn mixed(x: U32) -> U32 {
    const FIFTEEN: U32 = U32(15);
    const SIXTEEN: U32 = U32(16);
    const FIRST: U32 = U32(0x7feb_352d);
    const SECOND: U32 = U32(0x846c_a68b);
    // <mixed>
    let a = (x ^ (x >> SIXTEEN)) * FIRST;
    let b = (a ^ (a >> FIFTEEN)) * SECOND;
    let y = b ^ (b >> SIXTEEN);
    // </mixed>
    y
}

/// The word of one step of an optimizer: the host folds it.
pub fn step_key(seed: u64, recorded: u64) -> u32 {
    let words = [seed as u32, (seed >> 32) as u32, recorded as u32, (recorded >> 32) as u32];
    words.into_iter().fold(0, |key, word| mixed(U32(key ^ word) + U32(1)).0)
}

/// The word of a tensor, by its name.
pub fn tensor_key(name: &str) -> u32 {
    name.bytes().fold(name.len() as u32, |key, byte| mixed(U32(key ^ u32::from(byte)) + U32(1)).0)
}

/// The word of what is rounded of a tensor in a step: `what` is 0 for parameters, and one more than its plane for a
/// slot.
#[inline(always)]
pub fn stream(step: U32, tensor: U32, what: U32) -> U32 {
    // <stream>
    let stream = mixed(mixed(step ^ mixed(tensor)) + what);
    // </stream>
    stream
}

/// The noise of an element.
#[inline(always)]
pub fn noise(stream: U32, element: U32) -> U32 {
    // <noise>
    let noise = mixed(mixed(element) ^ stream);
    // </noise>
    noise
}
