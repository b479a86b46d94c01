//! The step over numbers of any format, on all cores and lanes.

use rayon::prelude::*;

use super::coding::Lanes;
use super::pairs::Pairs;
use super::{MEASURED, Part, Piece, Tasks, is_usual};
use crate::Error;
use crate::chain::Norm;
use crate::chain::control::Measure;
use crate::chain::gate::{Gate, Switches};
use crate::cpu::{Listed, Next, Optimizer, Slice, SliceMut, Streams, Stretch};
use crate::roster::SKIP;
use crate::rule::Rule;

impl<R: Rule> Optimizer<R, f32> {
    /// [`step_slices`](Self::step_slices) on the threads of the current rayon pool, to the same bits. Needs the feature
    /// `parallel`.
    ///
    /// Cost: as [`step_parallel`](Self::step_parallel), in the bytes of each format.
    ///
    /// # Errors
    /// As [`step_slices`](Self::step_slices).
    pub fn step_slices_parallel(&mut self, params: &mut [SliceMut<'_>], grads: &[Slice<'_>]) -> Result<(), Error> {
        self.check_slices(params, grads)?;
        let decided = self.decide(&Listed::default(), |own, norm| {
            own.measures(norm, |tensor, sums| {
                measure(norm, if sums.is_empty() { grads[tensor] } else { Slice::Full(sums) })
            })
        });
        self.update = None;
        let Some(Next { hypers, gates, on }) = decided? else { return Ok(()) };
        let (streams, total) = (self.streams(), params.iter().map(|params| params.as_slice().len()).sum());
        let usual: Vec<bool> = self.groups().iter().map(is_usual).collect();
        let mut tasks = Tasks::new(total);
        for (tensor, (params, arrays)) in params.iter_mut().zip(self.state.arrays()).enumerate() {
            let class = self.roster.class_of()[tensor];
            if class != SKIP {
                tasks.add(Formatted {
                    rule: self.roster.settings_of(tensor),
                    usual: usual[self.roster.members()[tensor].group],
                    h: &hypers[class as usize],
                    gate: gates.get(class as usize),
                    on,
                    streams: streams.get(tensor).copied().unwrap_or_default(),
                    stretch: Stretch::new(params.lent(), grads.get(tensor).copied().unwrap_or_default(), arrays),
                });
            }
        }
        tasks.run(total);
        self.roster.advance();
        Ok(())
    }
}

/// What is known of a tensor's gradient, by all cores.
fn measure(norm: Norm, mut grads: Slice<'_>) -> Measure {
    let mut chunks = Vec::new();
    while !grads.is_empty() {
        chunks.push(grads.split_off(MEASURED));
    }
    let measures: Vec<Measure> = chunks.into_par_iter().map(|chunk| chunk.measure(norm)).collect();
    measures.into_iter().fold(Measure::default(), |all, one| all.with(one, norm))
}

/// A stretch of one tensor, and how it is stepped.
struct Formatted<'a, R: Rule> {
    rule: &'a R,
    usual: bool,
    h: &'a R::Hyper<f32>,
    gate: Option<&'a Gate<f32>>,
    on: Switches,
    streams: Streams,
    stretch: Stretch<'a, f32>,
}

impl<R: Rule> Part for Formatted<'_, R> {
    fn len(&self) -> usize {
        self.stretch.len()
    }

    fn split(&mut self, len: usize) -> Self {
        Self { stretch: self.stretch.split(len), ..*self }
    }

    fn step(mut self) {
        let Self { rule, usual, h, gate, streams, .. } = self;
        let is_plain = gate.is_none() && !streams.any();
        if is_plain && let Some((params, grads, slots)) = self.stretch.bf16s() {
            return Pairs { rule, usual, h, params, grads, slots }.step();
        }
        pulp::Arch::new().dispatch(Stepped(self));
    }
}

/// What is beside the parameters, for pulp to compile for each kind of lanes, as the rest is.
struct Stepped<'a, R: Rule>(Formatted<'a, R>);

impl<R: Rule> pulp::NullaryFnOnce for Stepped<'_, R> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Formatted { rule, usual, h, gate, on, streams, stretch } = self.0;
        stretch.step(&Lanes, &streams, |params, grads, slots| {
            Piece { rule, usual, h, gate, on, params, grads, slots }.step();
        });
    }
}
