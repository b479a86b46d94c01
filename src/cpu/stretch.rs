//! A format around an update: what is stored becomes numbers, is stepped, and is stored again, a block at a time, while it
//! lies in the nearest cache.

use std::ops::Range;

#[cfg(feature = "parallel")]
use half::bf16;

use super::slice::{Chance, Coding};
use super::state::ALL;
use super::{ARRAYS, Slice, SliceMut};
use crate::rule::MAX_SLOTS;
use crate::wgsl::{Real, U32, select};

/// Elements that are decoded, stepped and encoded at once: few enough for all of them to lie in the nearest cache, and
/// whole blocks of 8 bits.
pub(crate) const BLOCK: usize = 1 << 10;

/// A stretch of one tensor: what a step of it reads and writes.
#[derive(Debug)]
pub(crate) struct Stretch<'a, T> {
    params: SliceMut<'a, T>,
    /// Empty where they were summed up.
    grads: Slice<'a, T>,
    /// Empty where not kept: the rule's, the average, the sums of gradients.
    slots: [SliceMut<'a, T>; ARRAYS],
    /// The master of the parameters, or what their rounding has lost.
    beside: SliceMut<'a, T>,
    /// The number of its first element in the tensor.
    first: usize,
}

/// The streams of a tensor's noise in one step; none where what is written goes to the nearest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Streams {
    pub params: Option<U32>,
    pub slots: [Option<U32>; MAX_SLOTS],
}

/// Parameters, gradients and slots that all are bf16; slots are empty where they are not kept.
#[cfg(feature = "parallel")]
pub(crate) type Bf16s<'a> = (&'a mut [bf16], &'a [bf16], [&'a mut [bf16]; MAX_SLOTS]);

/// Where a block is decoded.
pub(crate) struct Decoded<T> {
    params: [T; BLOCK],
    grads: [T; BLOCK],
    slots: [[T; BLOCK]; MAX_SLOTS],
}

impl Streams {
    /// Whether anything is rounded by chance.
    #[cfg(feature = "parallel")]
    pub fn any(&self) -> bool {
        self.params.is_some() || self.slots.iter().any(Option::is_some)
    }
}

impl<'a, T: Real> Stretch<'a, T> {
    /// A whole tensor.
    pub fn new(params: SliceMut<'a, T>, grads: Slice<'a, T>, arrays: [SliceMut<'a, T>; ALL]) -> Self {
        let [a, b, c, ema, sums, beside] = arrays;
        Self { params, grads, slots: [a, b, c, ema, sums], beside, first: 0 }
    }

    /// What it reads and writes, where all of that is bf16.
    #[cfg(feature = "parallel")]
    pub fn bf16s(&mut self) -> Option<Bf16s<'_>> {
        match self {
            Self {
                params: SliceMut::Bf16(params),
                grads: Slice::Bf16(grads),
                slots: [a, b, c, SliceMut::Full([]), SliceMut::Full([])],
                beside: SliceMut::Full([]),
                ..
            } => Some((params, grads, [a.bf16()?, b.bf16()?, c.bf16()?])),
            _ => None,
        }
    }

    #[inline(always)]
    pub fn len(&self) -> usize {
        self.params.as_slice().len()
    }

    /// Takes the first elements, as many as there are up to `len`, which is of whole blocks of 8 bits.
    #[inline(always)]
    pub fn split(&mut self, len: usize) -> Self {
        let first = self.first;
        self.first += len.min(self.len());
        Self {
            params: self.params.split_off(len),
            grads: self.grads.split_off(len),
            slots: self.slots.each_mut().map(|slot| slot.split_off(len)),
            beside: self.beside.split_off(len),
            first,
        }
    }

    /// Some elements of it.
    pub fn within(&mut self, range: &Range<usize>) -> Stretch<'_, T> {
        Stretch {
            params: self.params.lent().within(range),
            grads: self.grads.within(range),
            slots: self.slots.each_mut().map(|slot| slot.lent().within(range)),
            beside: self.beside.lent().within(range),
            first: self.first + range.start,
        }
    }

    /// Steps it by `step`, which is given parameters, gradients and slots, and knows of no format.
    #[cfg(feature = "parallel")]
    #[inline(always)]
    pub fn step(
        self,
        coding: &impl Coding<T>,
        streams: &Streams,
        mut step: impl FnMut(&mut [T], &[T], [&mut [T]; ARRAYS]),
    ) {
        match self {
            Self { params: SliceMut::Full(params), grads: Slice::Full(grads), slots, .. }
                if slots.iter().all(SliceMut::is_full) =>
            {
                step(params, grads, slots.map(SliceMut::full));
            }
            _ => self.step_in(coding, &mut Decoded::new(), streams, step),
        }
    }

    /// The same, decoded in a place that is lent: many short stretches share one.
    #[inline(always)]
    pub fn step_in(
        mut self,
        coding: &impl Coding<T>,
        decoded: &mut Decoded<T>,
        streams: &Streams,
        mut step: impl FnMut(&mut [T], &[T], [&mut [T]; ARRAYS]),
    ) {
        while self.len() > 0 {
            self.split(BLOCK).step_block(coding, streams, decoded, &mut step);
        }
    }

    #[inline(always)]
    fn step_block(
        mut self,
        coding: &impl Coding<T>,
        streams: &Streams,
        decoded: &mut Decoded<T>,
        step: &mut impl FnMut(&mut [T], &[T], [&mut [T]; ARRAYS]),
    ) {
        let Decoded { params, grads, slots: [a, b, c] } = decoded;
        let [own_a, own_b, own_c, ema, sums] = &mut self.slots;
        let [ema, sums] = [ema, sums].map(|slot| slot.open(coding, &mut []));
        let slots = [own_a.open(coding, a), own_b.open(coding, b), own_c.open(coding, c), ema, sums];
        let params = open(coding, &mut self.params, &mut self.beside, params);
        step(params, self.grads.open(coding, grads), slots);
        self.close(coding, streams, decoded);
    }

    /// Stores what was stepped.
    #[inline(always)]
    fn close(&mut self, coding: &impl Coding<T>, streams: &Streams, decoded: &mut Decoded<T>) {
        let (n, first) = (self.len(), self.first);
        let chance = |stream: Option<U32>| stream.map(|stream| Chance { stream, first });
        for ((slot, values), stream) in self.slots.iter_mut().zip(&decoded.slots).zip(streams.slots) {
            if !slot.is_full() {
                coding.encode(&values[..n], slot, chance(stream));
            }
        }
        let moved = &mut decoded.params[..n];
        match (&mut self.params, &mut self.beside) {
            (SliceMut::Full(_), _) => {}
            (params, SliceMut::Full([])) => coding.encode(moved, params, chance(streams.params)),
            (params, SliceMut::Full(master)) => coding.encode(master, params, chance(streams.params)),
            (params, lost) => {
                coding.encode(moved, params, None);
                // What has become infinite has lost nothing: a difference would be NaN in the next step.
                params.as_slice().meet(moved, |x, kept| {
                    *x = select(T::from_f64(0.0), *x - kept, kept.to_f64().is_finite());
                });
                coding.encode(moved, lost, None);
            }
        }
    }
}

/// The parameters as a rule sees them.
#[inline(always)]
fn open<'b, T: Real>(
    coding: &impl Coding<T>,
    params: &'b mut SliceMut<'_, T>,
    beside: &'b mut SliceMut<'_, T>,
    values: &'b mut [T],
) -> &'b mut [T] {
    match beside {
        SliceMut::Full([]) => params.open(coding, values),
        SliceMut::Full(master) => {
            // A master of +0 was not taken yet; where it was, its copy is +0, too.
            params.as_slice().meet(master, |x, copy| *x = select(*x, copy, x.is_plus_zero()));
            master
        }
        lost => {
            let values = params.open(coding, values);
            lost.as_slice().meet(values, |x, lost| *x = *x + lost);
            values
        }
    }
}

impl<T: Real> Decoded<T> {
    pub fn new() -> Self {
        let zeros = [T::from_f64(0.0); BLOCK];
        Self { params: zeros, grads: zeros, slots: [zeros; MAX_SLOTS] }
    }
}
