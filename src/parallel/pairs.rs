//! The step over numbers that all are bf16, two to a word: read, stepped and written with no place in between, so that
//! decoding and encoding are done while the update waits for its root and its quotient.
//!
//! The number of a word's upper half is that half, and that of its lower half is shifted up: nothing moves between lanes.

use half::bf16;

use super::codes::nearest_bf16;
use super::{Walk, by_kept};
use crate::rule::{MAX_SLOTS, Rule};

/// A stretch of one tensor that is bf16 throughout, and how it is stepped.
pub(super) struct Pairs<'a, R: Rule> {
    pub rule: &'a R,
    pub usual: bool,
    pub h: &'a R::Hyper<f32>,
    pub params: &'a mut [bf16],
    pub grads: &'a [bf16],
    /// Empty where not kept.
    pub slots: [&'a mut [bf16]; MAX_SLOTS],
}

/// As [`Pairs`], by words.
struct Words<'a, R: Rule> {
    rule: &'a R,
    usual: bool,
    h: &'a R::Hyper<f32>,
    params: &'a mut [[u16; 2]],
    grads: &'a [[u16; 2]],
    slots: [&'a mut [[u16; 2]]; MAX_SLOTS],
}

impl<R: Rule> Pairs<'_, R> {
    pub fn step(self) {
        let Self { rule, usual, h, params, grads, slots } = self;
        let kept = slots.each_ref().map(|slot| !slot.is_empty());
        let (params, last) = bytemuck::cast_slice_mut(params).as_chunks_mut();
        let (grads, last_grad) = bytemuck::cast_slice(grads).as_chunks();
        let [a, b, c] = slots.map(|slot| bytemuck::cast_slice_mut(slot).as_chunks_mut());
        by_kept(kept, Words { rule, usual, h, params, grads, slots: [a.0, b.0, c.0] });
        if let ([last], [grad]) = (last, last_grad) {
            // It is stepped as both halves of a word.
            let (mut params, grads) = ([[*last; 2]], [[*grad; 2]]);
            let mut lasts = [a.1, b.1, c.1];
            let [mut a, mut b, mut c] = lasts.each_ref().map(|last| [[last.first().copied().unwrap_or_default(); 2]]);
            let slots: [&mut [_]; MAX_SLOTS] = [&mut a, &mut b, &mut c];
            by_kept(kept, Words { rule, usual, h, params: &mut params, grads: &grads, slots });
            *last = params[0][0];
            lasts.iter_mut().zip([a, b, c]).for_each(|(last, word)| last.fill(word[0][0]));
        }
    }
}

impl<R: Rule> Walk for Words<'_, R> {
    type Rule = R;

    #[inline(always)]
    fn settings(&self) -> (&R, bool) {
        (self.rule, self.usual)
    }

    #[inline(always)]
    fn walk<const A: bool, const B: bool, const C: bool>(self, rule: &R) {
        let Self { h, params: p, grads, slots: [a, b, c], .. } = self;
        let (h, n) = (*h, p.len());
        let g = &grads[..n];
        let a = if A { &mut a[..n] } else { a };
        let b = if B { &mut b[..n] } else { b };
        let c = if C { &mut c[..n] } else { c };
        for i in 0..n {
            let (p0, g0) = (widen(p[i]), widen(g[i]));
            let a0 = if A { widen(a[i]) } else { [0.0; 2] };
            let b0 = if B { widen(b[i]) } else { [0.0; 2] };
            let c0 = if C { widen(c[i]) } else { [0.0; 2] };
            let (p1, [a1, b1, c1]) = rule.update(&h, p0[0], g0[0], [a0[0], b0[0], c0[0]]);
            let (p2, [a2, b2, c2]) = rule.update(&h, p0[1], g0[1], [a0[1], b0[1], c0[1]]);
            p[i] = narrow(p1, p2);
            if A {
                a[i] = narrow(a1, a2);
            }
            if B {
                b[i] = narrow(b1, b2);
            }
            if C {
                c[i] = narrow(c1, c2);
            }
        }
    }
}

const UPPER: u32 = 0xffff_0000;

#[inline(always)]
fn widen(pair: [u16; 2]) -> [f32; 2] {
    let word: u32 = bytemuck::cast(pair);
    [f32::from_bits(word << 16), f32::from_bits(word & UPPER)]
}

#[inline(always)]
fn narrow(low: f32, high: f32) -> [u16; 2] {
    bytemuck::cast(nearest_bf16(low) >> 16 | nearest_bf16(high) & UPPER)
}
