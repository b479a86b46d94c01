//! The step on the CPU: the oracle in `f64` and the shader's twin in `f32`.
//!
//! Plain on purpose: one loop over slices, in the order of the formula. The feature `parallel` adds
//! `Optimizer::step_parallel`, the same step on all cores.

mod formatted;
mod remap;
mod rows;
mod slice;
mod state;
mod stretch;

use std::ops::{Deref, DerefMut, Range};

use crate::Error;
use crate::chain::control::{Control, Measure, Verdict};
use crate::chain::gate::{Gate, Switches};
use crate::chain::{ACCUMULATED, Chain, EMA, Norm};
use crate::format::{Formats, KAHAN, MASTER};
use crate::roster::{self, Member, Roster, SKIP};
use crate::rule::{MAX_SLOTS, Rule, cast};
use crate::schedule::Schedule;
use crate::watch::{self, Update};
use crate::wgsl::Real;

pub use remap::{Remap, remap_rows};
pub(crate) use rows::Listed;
pub use rows::Rows;
#[cfg(feature = "parallel")]
pub(crate) use slice::{Chance, Coding, Plain};
pub use slice::{Slice, SliceMut};
pub(crate) use state::State;
#[cfg(feature = "parallel")]
pub(crate) use stretch::{Streams, Stretch};

/// Steps one tensor: `params` and the kept `slots` in place, from `grads`.
///
/// `slots` holds one slice for each of [`Rule::SLOTS`], as long as `params`, or empty where
/// [`Rule::keeps`] says no. `h` is [`Rule::fold`], cast to `T` by [`cast`].
///
/// # Panics
/// Where a slice is shorter than `params`.
pub fn step<R: Rule, T: Real, S>(rule: &R, h: &R::Hyper<T>, params: &mut [T], grads: &[T], slots: &mut [S])
where
    S: Deref<Target = [T]> + DerefMut,
{
    let zero = T::from_f64(0.0);
    for (i, p) in params.iter_mut().enumerate() {
        let mut state = [zero; MAX_SLOTS];
        for (value, slot) in state.iter_mut().zip(slots.iter()) {
            *value = slot.get(i).copied().unwrap_or(zero);
        }
        let (moved, state) = rule.update(h, *p, grads[i], state);
        *p = moved;
        for (value, slot) in state.into_iter().zip(slots.iter_mut()) {
            if let Some(kept) = slot.get_mut(i) {
                *kept = value;
            }
        }
    }
}

/// An optimizer on the CPU, with the groups, the names and the step counts of the one on the GPU.
///
/// ```
/// use wgpu_optim::{Adam, cpu};
///
/// let mut optimizer = cpu::Optimizer::<Adam, f32>::new(Adam::PYTORCH, [("w", 3)])?;
/// let mut w = [1.0, 2.0, 3.0];
/// optimizer.step(&mut [&mut w], &[&[0.1, -0.1, 0.0]])?;
/// assert_eq!(w[2], 3.0);
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Optimizer<R: Rule, T: Real> {
    pub(crate) roster: Roster<R>,
    pub(crate) state: State<T>,
    control: Control,
    pub(crate) watched: bool,
    /// That of the last step, where it was watched.
    pub(crate) update: Option<Update>,
}

impl<R: Rule, T: Real> Optimizer<R, T> {
    /// One group of tensors, given as names and lengths in elements.
    ///
    /// # Errors
    /// As [`add_group`](Self::add_group).
    pub fn new<'a>(settings: R, tensors: impl IntoIterator<Item = (&'a str, usize)>) -> Result<Self, Error> {
        let mut optimizer = Self::with_chain(Chain::default())?;
        optimizer.add_group(settings, tensors)?;
        Ok(optimizer)
    }

    /// No tensor yet, and what happens to gradients before and to parameters after each update.
    ///
    /// # Errors
    /// [`Error::Setting`]; also for `zero_grads`, since gradients are only read here.
    pub fn with_chain(chain: Chain) -> Result<Self, Error> {
        check_chain(&chain)?;
        let control = Control::new(&chain);
        Ok(Self { roster: Roster::new(chain), state: State::default(), control, watched: false, update: None })
    }

    /// The chain.
    pub fn chain(&self) -> &Chain {
        self.roster.chain()
    }

    /// Gives the chain other numbers from the next step on.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Chain`] for what would need other state.
    pub fn retune_chain(&mut self, chain: Chain) -> Result<(), Error> {
        check_chain(&chain)?;
        self.roster.retune_chain(chain)?;
        self.control = self.control.within(self.roster.chain());
        Ok(())
    }

    /// Takes the norm of a group over another's gradients, too, where a clip is over a group: for tensors that are one
    /// group but for their formats. It is part of how an optimizer is built, so checkpoints do not hold it.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn clip_together(&mut self, group: usize, with: usize) -> Result<(), Error> {
        self.roster.clip_together(group, with)
    }

    /// The scaler's memory, and how many steps were skipped.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Puts the scaler's memory back to what [`control`](Self::control) said.
    ///
    /// # Errors
    /// As [`Control::check`]; the memory is what it was then.
    pub fn set_control(&mut self, control: Control) -> Result<(), Error> {
        control.check(self.chain())?;
        self.control = control;
        Ok(())
    }

    /// From now on, has each step measure what it moves parameters by, or no longer. Cost: a copy of the parameters, and
    /// another reading of both.
    pub fn watch_updates(&mut self, watched: bool) {
        (self.watched, self.update) = (watched, None);
    }

    /// What the last step moved parameters by, where that is watched: zeros where it was skipped, or all tensors are frozen.
    pub fn update(&self) -> Option<Update> {
        self.update
    }

    /// The parameters before a step, where they are to be compared; nothing of what is not stepped, which may be NaN.
    pub(crate) fn before(&self, params: &[&mut [T]]) -> Option<Vec<Vec<T>>> {
        let own = params.iter().zip(self.roster.class_of());
        let before = own.map(|(params, &class)| if class == SKIP { Vec::new() } else { params.to_vec() });
        self.watched.then(|| before.collect())
    }

    /// Adds a group; the number of the first is 0.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Empty`], [`Error::DuplicateName`], [`Error::OutOfMemory`].
    pub fn add_group<'a>(
        &mut self,
        settings: R,
        tensors: impl IntoIterator<Item = (&'a str, usize)>,
    ) -> Result<usize, Error> {
        self.add(settings, Formats::default(), tensors)
    }

    fn add<'a>(
        &mut self,
        settings: R,
        formats: Formats,
        tensors: impl IntoIterator<Item = (&'a str, usize)>,
    ) -> Result<usize, Error> {
        let mut roster = self.roster.clone();
        let group = roster.add_group(settings, formats)?;
        let members: Vec<Member> =
            tensors.into_iter().map(|(name, len)| Member::new(name.into(), len as u64, group)).collect();
        if let Some(empty) = members.iter().find(|member| member.len == 0) {
            return Err(Error::Empty { what: "tensor", name: empty.name.clone() });
        }
        roster.add_members(members)?;
        let added = &roster.members()[self.roster.members().len()..];
        let lens = added.iter().map(|member| member.len as usize).collect();
        self.state.add(&roster, group, lens)?;
        self.roster = roster;
        Ok(group)
    }

    /// Steps every tensor that is not frozen. `params` and `grads` hold one slice for each tensor, in the order
    /// in which they were added. Where the chain accumulates, the step takes what was summed up, and `grads` is empty.
    ///
    /// # Errors
    /// [`Error::Tensors`], [`Error::Length`], [`Error::Accumulated`] for gradients that would be left out, or [`Error::Format`]
    /// where a group has 16 bits, before anything has changed.
    pub fn step(&mut self, params: &mut [&mut [T]], grads: &[&[T]]) -> Result<(), Error> {
        if self.is_formatted() {
            let grads: Vec<Slice<'_, T>> = grads.iter().map(|grads| Slice::Full(grads)).collect();
            return self.step_slices(&mut as_slices(params), &grads);
        }
        self.step_listed(params, grads, &Listed::default())
    }

    /// A step, of some tensors in some rows only.
    fn step_listed(&mut self, params: &mut [&mut [T]], grads: &[&[T]], listed: &Listed) -> Result<(), Error> {
        self.check_step(params, grads)?;
        let before = self.before(params);
        let measure = |norm: Norm, g: &[T]| Measure::of(g, norm);
        let Some(Next { hypers, gates, on }) = self.next(grads, listed, measure)? else { return Ok(()) };
        for (tensor, (p, mut slots)) in params.iter_mut().zip(self.state.slices()).enumerate() {
            let class = self.roster.class_of()[tensor];
            if class == SKIP {
                continue;
            }
            let (rule, h) = (self.roster.settings_of(tensor), &hypers[class as usize]);
            for range in listed.ranges(tensor, p.len()) {
                let (p, mut slots) = (&mut p[range.clone()], within(&mut slots, &range));
                match gates.get(class as usize) {
                    None => step(rule, h, p, &grads[tensor][range], &mut slots[..MAX_SLOTS]),
                    Some(gate) => {
                        let grads = grads.get(tensor).map(|grads| &grads[range]).unwrap_or_default();
                        step_gated(rule, h, (gate, on), p, grads, &mut slots);
                    }
                }
            }
        }
        self.roster.advance();
        self.update = before.map(|before| watch::update(&before, params));
        Ok(())
    }

    /// Adds `weight` times these gradients to the sums that the next step takes, of every tensor that is not frozen, and
    /// advances nothing: 1 sums micro-batches up, one over their number averages them.
    ///
    /// # Errors
    /// [`Error::Tensors`], [`Error::Length`], [`Error::Format`], [`Error::UnknownSlot`] where the chain does not accumulate.
    pub fn accumulate(&mut self, grads: &[&[T]], weight: f64) -> Result<(), Error> {
        if self.is_formatted() {
            let grads: Vec<Slice<'_, T>> = grads.iter().map(|grads| Slice::Full(grads)).collect();
            return self.accumulate_slices(&grads, weight);
        }
        self.accumulate_listed(grads, weight, &Listed::default())
    }

    fn accumulate_listed(&mut self, grads: &[&[T]], weight: f64, listed: &Listed) -> Result<(), Error> {
        if let Some(first) = self.roster.members().first() {
            self.roster.plane(self.roster.find(&first.name)?, ACCUMULATED)?;
        }
        self.check_lengths("gradients", grads.iter().map(|grads| grads.len()))?;
        let weight = T::from_f64(weight);
        for (tensor, slots) in self.state.slices().enumerate() {
            if self.roster.class_of()[tensor] != SKIP {
                let [.., sums] = slots;
                for range in listed.ranges(tensor, sums.len()) {
                    let own = sums[range.clone()].iter_mut().zip(&grads[tensor][range]);
                    own.for_each(|(sum, g)| *sum = *sum + weight * *g);
                }
            }
        }
        Ok(())
    }

    /// What the next step is taken with, or nothing where every tensor is frozen, or where it is skipped, which is then
    /// done.
    pub(crate) fn next(
        &mut self,
        grads: &[&[T]],
        listed: &Listed,
        measure: impl Fn(Norm, &[T]) -> Measure,
    ) -> Result<Option<Next<R, T>>, Error> {
        self.decide(listed, |own, norm| {
            own.measures(norm, |tensor, sums| {
                let own = if sums.is_empty() { grads[tensor] } else { sums };
                measure(norm, &listed.gathered(tensor, own))
            })
        })
    }

    /// The same, from measures of gradients of whatever format.
    pub(crate) fn decide(
        &mut self,
        listed: &Listed,
        measures: impl FnOnce(&mut Self, Norm) -> Vec<Measure>,
    ) -> Result<Option<Next<R, T>>, Error> {
        self.roster.tune()?;
        self.update = self.watched.then(Update::default);
        if self.roster.classes().next().is_none() {
            return Ok(None);
        }
        let chain = self.roster.chain().clone();
        let on = Switches::of(&chain);
        let hypers: Vec<R::Hyper<T>> = self.roster.next_hypers().iter().map(cast).collect();
        if chain.is_empty() {
            return Ok(Some(Next { hypers, gates: Vec::new(), on }));
        }
        let verdict = match chain.measures() {
            true => {
                let measures = measures(self, chain.measured().0);
                self.control.decide(&chain, &measures)
            }
            false => Verdict { skip: false, factors: vec![1.0; self.roster.scopes()] },
        };
        if verdict.skip {
            self.consume(listed);
            self.roster.skip();
            return Ok(None);
        }
        let gate = |class: roster::Next| Gate::of(&chain, class.step, verdict.factors[class.scope]).cast();
        Ok(Some(Next { hypers, gates: self.roster.classes().map(gate).collect(), on }))
    }

    /// What is known of the gradients, by scope: `measure` is given a tensor, and its sums if there are any.
    pub(crate) fn measures(&mut self, norm: Norm, measure: impl Fn(usize, &[T]) -> Measure) -> Vec<Measure> {
        let scopes: Vec<usize> = self.roster.classes().map(|class| class.scope).collect();
        let mut measures = vec![Measure::default(); self.roster.scopes()];
        for (tensor, slots) in self.state.slices().enumerate() {
            let class = self.roster.class_of()[tensor];
            if class != SKIP {
                let [.., sums] = slots;
                let scope = &mut measures[scopes[class as usize]];
                *scope = scope.with(measure(tensor, sums), norm);
            }
        }
        measures
    }

    /// Empties the sums of gradients, as a step does.
    fn consume(&mut self, listed: &Listed) {
        for (tensor, [.., sums]) in self.state.slices().enumerate() {
            if self.roster.class_of()[tensor] != SKIP && !sums.is_empty() {
                listed.ranges(tensor, sums.len()).for_each(|range| sums[range].fill(T::from_f64(0.0)));
            }
        }
    }

    pub(crate) fn check_step(&self, params: &[&mut [T]], grads: &[&[T]]) -> Result<(), Error> {
        self.check_lengths("parameters", params.iter().map(|params| params.len()))?;
        if self.chain().accumulate {
            let found = grads.len() as u64;
            return if found > 0 { Err(Error::Accumulated { found }) } else { Ok(()) };
        }
        self.check_lengths("gradients", grads.iter().map(|grads| grads.len()))
    }

    fn check_lengths(&self, what: &'static str, lens: impl ExactSizeIterator<Item = usize>) -> Result<(), Error> {
        let (found, expected) = (lens.len() as u64, self.roster.members().len() as u64);
        if found != expected {
            return Err(Error::Tensors { what, found, expected });
        }
        for ((tensor, member), found) in self.roster.members().iter().enumerate().zip(lens) {
            let found = found as u64;
            if found != member.len && !(what == "gradients" && self.roster.is_frozen(tensor)) {
                let what = if what == "gradients" { "gradient" } else { "slice" };
                return Err(Error::Length {
                    what: what.into(),
                    name: member.name.clone(),
                    found,
                    expected: member.len,
                });
            }
        }
        Ok(())
    }

    /// The settings of each group.
    pub fn groups(&self) -> &[R] {
        self.roster.groups()
    }

    /// The settings of a group.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn settings(&self, group: usize) -> Result<&R, Error> {
        self.roster.group(group)
    }

    /// How the tensors of a group lie in memory.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn formats(&self, group: usize) -> Result<&Formats, Error> {
        self.roster.formats(group)
    }

    /// Gives a group other numbers from the next step on.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Setting`], [`Error::Structure`].
    pub fn retune(&mut self, group: usize, settings: R) -> Result<(), Error> {
        self.roster.retune(group, settings)
    }

    /// Has a group's lr, and what the schedule cycles besides, follow a schedule from the next step on; nothing ends it. It
    /// is evaluated at [`recorded`](Self::recorded), so steps that a scaler leaves out count, as they do for
    /// PyTorch's `scheduler.step()`.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Schedule`], [`Error::Structure`] where it cycles a momentum that the group has not.
    pub fn set_schedule(&mut self, group: usize, schedule: Option<Schedule>) -> Result<(), Error> {
        self.roster.set_schedule(group, schedule)
    }

    /// A group's schedule.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn schedule(&self, group: usize) -> Result<Option<&Schedule>, Error> {
        self.roster.schedule(group)
    }

    /// How many steps there were, skipped ones included: where schedules are.
    pub fn recorded(&self) -> u64 {
        self.roster.recorded()
    }

    /// Goes on as if there had been so many steps: what a resumed schedule needs.
    pub fn set_recorded(&mut self, steps: u64) {
        self.roster.set_recorded(steps);
    }

    /// Leaves the named tensors, their state and their step counts alone until they are thawed.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn freeze<S: AsRef<str>>(&mut self, names: impl IntoIterator<Item = S>) -> Result<(), Error> {
        let tensors = self.roster.find_all(names)?;
        self.roster.set_frozen(&tensors, true);
        Ok(())
    }

    /// Steps the named tensors again.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn thaw<S: AsRef<str>>(&mut self, names: impl IntoIterator<Item = S>) -> Result<(), Error> {
        let tensors = self.roster.find_all(names)?;
        self.roster.set_frozen(&tensors, false);
        Ok(())
    }

    /// How many steps the tensor has taken.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn step_of(&self, name: &str) -> Result<u64, Error> {
        Ok(self.roster.step_of(self.roster.find(name)?))
    }

    /// Sets how many steps the tensor has taken.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn set_step(&mut self, name: &str, step: u64) -> Result<(), Error> {
        let tensor = self.roster.find(name)?;
        self.roster.set_step([tensor], step);
        Ok(())
    }

    /// The values of a state slot, where they lie as they are computed with.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::UnknownSlot`], [`Error::Stored`] where they have fewer bits:
    /// [`read_state`](Self::read_state) decodes them.
    pub fn state(&self, name: &str, slot: &str) -> Result<&[T], Error> {
        match self.stored(name, slot)? {
            Slice::Full(values) => Ok(values),
            other => Err(Error::Stored { slot: slot.into(), name: name.into(), format: other.format() }),
        }
    }

    /// Sets the values of a state slot; where they have fewer bits, to the nearest. Blocks of 8 bits take scales of their own:
    /// [`stored_mut`](Self::stored_mut) writes the very codes of another optimizer.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::UnknownSlot`], [`Error::Length`].
    pub fn set_state(&mut self, name: &str, slot: &str, values: &[T]) -> Result<(), Error> {
        let mut kept = self.stored_mut(name, slot)?;
        let expected = kept.as_slice().len();
        if expected != values.len() {
            return Err(Error::Length {
                what: slot.into(),
                name: name.into(),
                found: values.len() as u64,
                expected: expected as u64,
            });
        }
        kept.encode(values, None);
        Ok(())
    }

    /// The names of the slots that a tensor keeps.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn slots(&self, name: &str) -> Result<Vec<&'static str>, Error> {
        Ok(self.roster.slots(self.roster.find(name)?))
    }

    /// The names of the tensors, in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.roster.members().iter().map(|member| member.name.as_str())
    }
}

/// A stretch of each array that is kept.
fn within<'a, T>(slots: &'a mut [&mut [T]; ARRAYS], range: &Range<usize>) -> [&'a mut [T]; ARRAYS] {
    slots.each_mut().map(|slot| slot.get_mut(range.clone()).unwrap_or_default())
}

/// What a step is taken with.
pub(crate) struct Next<R: Rule, T: Real> {
    /// For each class.
    pub hypers: Vec<R::Hyper<T>>,
    /// For each class; none where there is no chain.
    pub gates: Vec<Gate<T>>,
    pub on: Switches,
}

/// [`step`], with the chain around each element; the last two slots are the chain's.
pub(crate) fn step_gated<R: Rule, T: Real>(
    rule: &R,
    h: &R::Hyper<T>,
    (gate, on): (&Gate<T>, Switches),
    params: &mut [T],
    grads: &[T],
    [slots @ .., ema, sums]: &mut [&mut [T]; ARRAYS],
) {
    let zero = T::from_f64(0.0);
    for (i, p) in params.iter_mut().enumerate() {
        let mut own = [gate.receive(on, if on.accumulated { std::mem::replace(&mut sums[i], zero) } else { grads[i] })];
        let mut moved = [*p];
        let mut state = slots.each_mut().map(|slot| slot.get_mut(i..=i).unwrap_or_default());
        step(rule, h, &mut moved, &own, &mut state);
        let average = ema.get(i).copied().unwrap_or(zero);
        (*p, own[0]) = gate.settle(on, moved[0], average);
        if let Some(kept) = ema.get_mut(i) {
            *kept = own[0];
        }
    }
}

fn check_chain(chain: &Chain) -> Result<(), Error> {
    chain.check()?;
    if chain.zero_grads {
        let (found, expected) = ("true".into(), "false on the CPU, where gradients are only read".into());
        return Err(Error::Setting { rule: "chain", setting: "zero_grads", found, expected });
    }
    Ok(())
}

/// Arrays of state: the rule's slots, the average, the sums of gradients.
pub(crate) const ARRAYS: usize = MAX_SLOTS + 2;

/// The array of a slot that is kept; that of what formats keep comes after those that an update sees.
pub(crate) fn array_of<R: Rule>(slot: &str) -> usize {
    let own = R::SLOTS.iter().position(|known| *known == slot);
    own.unwrap_or(match slot {
        EMA => MAX_SLOTS,
        MASTER | KAHAN => ARRAYS,
        _ => MAX_SLOTS + 1,
    })
}

/// Slices of parameters, as those of groups with formats are.
pub(crate) fn as_slices<'a, T: Real>(params: &'a mut [&mut [T]]) -> Vec<SliceMut<'a, T>> {
    params.iter_mut().map(|params| SliceMut::Full(params)).collect()
}
