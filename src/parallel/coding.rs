//! Decoding and encoding by lanes: a loop for each format, which pulp compiles by itself for each kind of lanes. Within a
//! larger function the compiler runs short of registers, and keeps some of them no loops of lanes.

use super::codes::{
    Divisor, chance_bf16, guarded_code, nearest_bf16, signed_code, signed_number, unsigned_code, unsigned_number,
};
use crate::cpu::{Chance, Coding, Plain, Slice, SliceMut};
use crate::format::Rounding;
use crate::format::blocks::{self, BLOCK, Map};
use crate::format::halves::Half;
use crate::format::noise::noise;
use crate::wgsl::U32;

/// Elements of a block of 8 bits.
const WHOLE: usize = BLOCK as usize;

/// All lanes that the machine has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes;

impl Coding<f32> for Lanes {
    fn decode(&self, from: Slice<'_>, values: &mut [f32]) {
        match from {
            Slice::Full(own) => values.copy_from_slice(own),
            Slice::F16(own) => each(bytemuck::cast_slice(own), values, |code| Half::F16.widen(code)),
            Slice::Bf16(own) => each(bytemuck::cast_slice(own), values, |code| Half::Bf16.widen(code)),
            Slice::Q8 { map, codes, scales } => {
                let rest = codes.len() / WHOLE * WHOLE;
                match map.unsigned {
                    false => decode(codes, scales, values, signed_number),
                    true => decode(codes, scales, values, unsigned_number),
                }
                let (codes, scales) = (&codes[rest..], &scales[rest / WHOLE..]);
                Plain.decode(Slice::Q8 { map, codes, scales }, &mut values[rest..]);
            }
        }
    }

    fn encode(&self, values: &[f32], to: &mut SliceMut<'_>, chance: Option<Chance>) {
        match to {
            SliceMut::Full(own) => own.copy_from_slice(values),
            SliceMut::F16(own) => narrow(Half::F16, values, bytemuck::cast_slice_mut(own), chance),
            SliceMut::Bf16(own) => narrow(Half::Bf16, values, bytemuck::cast_slice_mut(own), chance),
            SliceMut::Q8 { map, codes, scales } => {
                let rest = codes.len() / WHOLE * WHOLE;
                match *map {
                    Map { unsigned: false, .. } => encode(values, codes, scales, signed_code),
                    Map { guarded: false, .. } => encode(values, codes, scales, unsigned_code),
                    Map { guarded: true, .. } => encode(values, codes, scales, guarded_code),
                }
                let (codes, scales) = (&mut codes[rest..], &mut scales[rest / WHOLE..]);
                Plain.encode(&values[rest..], &mut SliceMut::Q8 { map: *map, codes, scales }, None);
            }
        }
    }
}

fn narrow(half: Half, values: &[f32], codes: &mut [u16], chance: Option<Chance>) {
    match (half, chance) {
        (Half::F16, None) => each(values, codes, |x| Half::F16.narrow(x, Rounding::Nearest, 0)),
        (Half::Bf16, None) => each(values, codes, |x| (nearest_bf16(x) >> 16) as u16),
        (Half::F16, Some(chance)) => {
            each_by_chance(values, codes, chance, |x, noise| Half::F16.narrow(x, Rounding::Stochastic, noise));
        }
        (Half::Bf16, Some(chance)) => {
            each_by_chance(values, codes, chance, |x, noise| (chance_bf16(x, noise) >> 16) as u16);
        }
    }
}

/// A loop, for pulp to compile for each kind of lanes.
struct Loop<F>(F);

impl<F: FnOnce()> pulp::NullaryFnOnce for Loop<F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        (self.0)();
    }
}

fn by_lanes(body: impl FnOnce()) {
    pulp::Arch::new().dispatch(Loop(body));
}

/// What `of` makes of each.
fn each<T: Copy, U>(from: &[T], to: &mut [U], of: impl Fn(T) -> U) {
    by_lanes(move || to.iter_mut().zip(from).for_each(|(to, from)| *to = of(*from)));
}

/// What `of` makes of each and its noise.
fn each_by_chance<U>(from: &[f32], to: &mut [U], chance: Chance, of: impl Fn(f32, u32) -> U) {
    let Chance { stream, first } = chance;
    by_lanes(move || {
        // Indexed: the form that becomes lanes.
        let n = to.len();
        let (from, first) = (&from[..n], first as u32);
        for i in 0..n {
            to[i] = of(from[i], noise(stream, U32(first.wrapping_add(i as u32))).0);
        }
    });
}

/// What `of` makes of each code and its block's scale, of whole blocks.
fn decode(codes: &[u8], scales: &[f32], values: &mut [f32], of: impl Fn(u8, f32) -> f32) {
    let ((codes, _), (values, _)) = (codes.as_chunks::<WHOLE>(), values.as_chunks_mut::<WHOLE>());
    by_lanes(move || {
        for ((codes, values), &scale) in codes.iter().zip(values).zip(scales) {
            for i in 0..WHOLE {
                values[i] = of(codes[i], scale);
            }
        }
    });
}

/// What `of` makes of each number and its block's scale, of whole blocks.
fn encode(values: &[f32], codes: &mut [u8], scales: &mut [f32], of: impl Fn(f32, Divisor) -> u8) {
    let ((values, _), (codes, _)) = (values.as_chunks::<WHOLE>(), codes.as_chunks_mut::<WHOLE>());
    by_lanes(move || {
        for ((values, codes), to) in values.iter().zip(codes).zip(scales) {
            *to = blocks::scale(values);
            let divisor = Divisor::of(*to);
            for i in 0..WHOLE {
                codes[i] = of(values[i], divisor);
            }
        }
    });
}
