//! The step on all cores and all lanes of the CPU: one pass over parameters, gradients and state.
//!
//! A rule's update is the text of the twin, compiled once more for the lanes that the machine has (AVX2, NEON, …)
//! and chosen when it runs. It computes what the twin computes, bit for bit, however many threads there are: an
//! element depends on no other, and no multiplication is fused with an addition.

mod codes;
mod coding;
mod formatted;
mod pairs;

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::Error;
use crate::chain::Norm;
use crate::chain::control::Measure;
use crate::chain::gate::{Gate, Switches};
use crate::cpu::{ARRAYS, Listed, Next, Optimizer, Slice, as_slices};
use crate::format::blocks;
use crate::roster::SKIP;
use crate::rule::{MAX_SLOTS, Rule};
use crate::watch::{CHUNK, Moved, Update};

/// Elements of a task, at most and at least: long enough to cost nothing to hand out, and small tensors are
/// gathered until there are as many.
const LONGEST: usize = 1 << 18;
const SHORTEST: usize = 1 << 14;
/// Tasks for each thread, so that one that is held up does not hold up the step.
const TASKS: usize = 8;
/// Below this many elements waking another thread costs more than it saves.
const ALONE: usize = 1 << 15;
/// Elements between a chain and an update: few enough for all their arrays to lie in the nearest cache.
const BLOCK: usize = 1 << 10;
/// Elements that are measured as one, always the same ones, so that a norm has the same bits at every number of threads.
const MEASURED: usize = 1 << 16;

/// What is known of a tensor's gradient, by all cores.
fn measure(norm: Norm, grads: &[f32]) -> Measure {
    let measures: Vec<Measure> = grads.par_chunks(MEASURED).map(|chunk| Measure::of(chunk, norm)).collect();
    measures.into_iter().fold(Measure::default(), |all, one| all.with(one, norm))
}

/// What all tensors were moved by, by all cores.
fn update(before: &[Vec<f32>], after: &[&mut [f32]]) -> Update {
    let chunks = before.iter().zip(after).flat_map(|(before, after)| before.chunks(CHUNK).zip(after.chunks(CHUNK)));
    let chunks: Vec<(&[f32], &[f32])> = chunks.collect();
    let moved: Vec<Moved> = chunks.into_par_iter().map(|(before, after)| Moved::of(before, after)).collect();
    moved.into_iter().fold(Moved::default(), Moved::with).update()
}

impl<R: Rule> Optimizer<R, f32> {
    /// [`step`](Self::step) on the threads of the current rayon pool, to the same bits: the CPU path where speed
    /// matters. Needs the feature `parallel`.
    ///
    /// Cost: each parameter, gradient and slot is read once and each parameter and slot written once, at the speed
    /// of memory; small tensors cost what one of their total length costs. For another number of threads than the
    /// machine's, call it inside `rayon::ThreadPool::install`.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_parallel(&mut self, params: &mut [&mut [f32]], grads: &[&[f32]]) -> Result<(), Error> {
        if self.is_formatted() {
            let grads: Vec<Slice<'_>> = grads.iter().map(|grads| Slice::Full(grads)).collect();
            return self.step_slices_parallel(&mut as_slices(params), &grads);
        }
        self.check_step(params, grads)?;
        let before = self.before(params);
        let Some(Next { hypers, gates, on }) = self.next(grads, &Listed::default(), measure)? else { return Ok(()) };
        let total = params.iter().map(|p| p.len()).sum::<usize>();
        let usual: Vec<bool> = self.groups().iter().map(is_usual).collect();
        let mut tasks = Tasks::new(total);
        for (tensor, (p, slots)) in params.iter_mut().zip(self.state.slices()).enumerate() {
            let class = self.roster.class_of()[tensor];
            if class != SKIP {
                let (rule, h) = (self.roster.settings_of(tensor), &hypers[class as usize]);
                let usual = usual[self.roster.members()[tensor].group];
                let grads = grads.get(tensor).copied().unwrap_or_default();
                tasks.add(Piece { rule, usual, h, gate: gates.get(class as usize), on, params: p, grads, slots });
            }
        }
        tasks.run(total);
        self.roster.advance();
        self.update = before.map(|before| update(&before, params));
        Ok(())
    }
}

/// Settings whose switches are those of the rule's first preset, for which there is a loop without what is off there.
fn is_usual<R: Rule>(settings: &R) -> bool {
    R::PRESETS.first().is_some_and(|(_, _, preset)| preset.switches() == settings.switches())
}

/// A stretch of one tensor that can be stepped in parts.
trait Part: Send {
    fn len(&self) -> usize;

    /// Takes the first elements, as many as there are up to `len`.
    fn split(&mut self, len: usize) -> Self;

    fn step(self);
}

/// Parts of tensors, gathered so that tasks are of like length.
struct Tasks<P> {
    task: usize,
    /// Elements of the last task.
    open: usize,
    tasks: Vec<Vec<P>>,
}

impl<P: Part> Tasks<P> {
    /// For so many elements in all.
    fn new(total: usize) -> Self {
        let task = (total / (rayon::current_num_threads() * TASKS)).clamp(SHORTEST, LONGEST);
        Self { task, open: 0, tasks: Vec::new() }
    }

    fn add(&mut self, mut rest: P) {
        while rest.len() > 0 {
            if self.tasks.is_empty() || self.open >= self.task {
                self.tasks.push(Vec::new());
                self.open = 0;
            }
            // Whole blocks: numbers of 8 bits are encoded by them.
            let part = rest.split((self.task - self.open).next_multiple_of(blocks::BLOCK as usize));
            self.open += part.len();
            if let Some(task) = self.tasks.last_mut() {
                task.push(part);
            }
        }
    }

    /// The calling thread works too, so that a short step does not wait for others to wake up.
    fn run(self, total: usize) {
        let others = if total < ALONE { 0 } else { rayon::current_num_threads() - 1 };
        let queue = Mutex::new(self.tasks.into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            while let Some(task) = next() {
                task.into_iter().for_each(P::step);
            }
        };
        rayon::in_place_scope(|scope| {
            (0..others).for_each(|_| scope.spawn(|_| work()));
            work();
        });
    }
}

/// A stretch of one tensor, and how it is stepped.
struct Piece<'a, R: Rule> {
    rule: &'a R,
    usual: bool,
    h: &'a R::Hyper<f32>,
    /// What is around the update, if anything is.
    gate: Option<&'a Gate<f32>>,
    on: Switches,
    params: &'a mut [f32],
    /// Empty where they were summed up.
    grads: &'a [f32],
    /// Empty where not kept: the rule's, the average, the sums of gradients.
    slots: [&'a mut [f32]; ARRAYS],
}

impl<'a, R: Rule> Part for Piece<'a, R> {
    fn len(&self) -> usize {
        self.params.len()
    }

    fn split(&mut self, len: usize) -> Self {
        let len = len.min(self.params.len());
        let take = |from: &mut &'a mut [f32]| from.split_off_mut(..len.min(from.len())).unwrap_or_default();
        Self {
            params: take(&mut self.params),
            grads: self.grads.split_off(..len.min(self.grads.len())).unwrap_or_default(),
            slots: self.slots.each_mut().map(take),
            ..*self
        }
    }

    fn step(mut self) {
        let Some(gate) = self.gate else { return self.step_plain() };
        let mut received = [0.0; BLOCK];
        while !self.params.is_empty() {
            self.split(BLOCK).step_gated(gate, &mut received);
        }
    }
}

impl<R: Rule> Piece<'_, R> {
    /// Steps a block, with the chain before and after it while it lies in the nearest cache.
    fn step_gated(self, gate: &Gate<f32>, received: &mut [f32; BLOCK]) {
        let Self { rule, usual, h, gate: _, on, params, grads, slots: [a, b, c, ema, sums] } = self;
        let received = &mut received[..params.len()];
        let from = if on.accumulated { &*sums } else { grads };
        received.iter_mut().zip(from).for_each(|(g, g0)| *g = gate.receive(on, *g0));
        sums.fill(0.0);
        let slots = [a, b, c, &mut [], &mut []];
        Piece { rule, usual, h, gate: None, on, params: &mut *params, grads: received, slots }.step_plain();
        if on.ema {
            params.iter_mut().zip(ema).for_each(|(p, e)| (*p, *e) = gate.settle(on, *p, *e));
        } else if on.clamp {
            params.iter_mut().for_each(|p| (*p, _) = gate.settle(on, *p, 0.0));
        }
    }

    fn step_plain(self) {
        let [a, b, c, ..] = &self.slots;
        by_kept([a, b, c].map(|slot| !slot.is_empty()), self);
    }
}

/// A stretch whose loop is compiled for just the slots that are kept.
trait Walk: Sized {
    type Rule: Rule;

    /// The settings, and whether their switches are the usual ones.
    fn settings(&self) -> (&Self::Rule, bool);

    /// Steps it. Of `rule` an update reads the switches alone.
    fn walk<const A: bool, const B: bool, const C: bool>(self, rule: &Self::Rule);
}

fn by_kept(kept: [bool; MAX_SLOTS], stretch: impl Walk) {
    match kept {
        [false, false, false] => Walked::<_, false, false, false>(stretch).by_lanes(),
        [false, false, true] => Walked::<_, false, false, true>(stretch).by_lanes(),
        [false, true, false] => Walked::<_, false, true, false>(stretch).by_lanes(),
        [false, true, true] => Walked::<_, false, true, true>(stretch).by_lanes(),
        [true, false, false] => Walked::<_, true, false, false>(stretch).by_lanes(),
        [true, false, true] => Walked::<_, true, false, true>(stretch).by_lanes(),
        [true, true, false] => Walked::<_, true, true, false>(stretch).by_lanes(),
        [true, true, true] => Walked::<_, true, true, true>(stretch).by_lanes(),
    }
}

/// The loop, for pulp to compile for each kind of lanes.
struct Walked<W, const A: bool, const B: bool, const C: bool>(W);

impl<W: Walk, const A: bool, const B: bool, const C: bool> Walked<W, A, B, C> {
    fn by_lanes(self) {
        pulp::Arch::new().dispatch(self);
    }
}

impl<W: Walk, const A: bool, const B: bool, const C: bool> pulp::NullaryFnOnce for Walked<W, A, B, C> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (settings, usual) = self.0.settings();
        // By value: what lies behind a reference might change under a store, as far as the compiler knows.
        let settings = settings.clone();
        match W::Rule::PRESETS.first() {
            Some((_, _, preset)) if usual => self.0.walk::<A, B, C>(preset),
            _ => self.0.walk::<A, B, C>(&settings),
        }
    }
}

impl<R: Rule> Walk for Piece<'_, R> {
    type Rule = R;

    #[inline(always)]
    fn settings(&self) -> (&R, bool) {
        (self.rule, self.usual)
    }

    /// Indexed, over slices of one length known to be so: the form that becomes lanes.
    #[inline(always)]
    fn walk<const A: bool, const B: bool, const C: bool>(self, rule: &R) {
        let Self { h, params: p, grads, slots: [a, b, c, ..], .. } = self;
        let (h, n) = (*h, p.len());
        let g = &grads[..n];
        let a = if A { &mut a[..n] } else { a };
        let b = if B { &mut b[..n] } else { b };
        let c = if C { &mut c[..n] } else { c };
        for i in 0..n {
            let before = [if A { a[i] } else { 0.0 }, if B { b[i] } else { 0.0 }, if C { c[i] } else { 0.0 }];
            let (moved, after) = rule.update(&h, p[i], g[i], before);
            p[i] = moved;
            if A {
                a[i] = after[0];
            }
            if B {
                b[i] = after[1];
            }
            if C {
                c[i] = after[2];
            }
        }
    }
}
