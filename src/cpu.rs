//! The step on the CPU: the oracle in `f64` and the shader's twin in `f32`.
//!
//! Plain on purpose: one loop over slices, in the order of the formula. The feature `parallel` adds
//! `Optimizer::step_parallel`, the same step on all cores.

use std::ops::{Deref, DerefMut};

use crate::Error;
use crate::pages::Pages;
use crate::roster::{Member, Roster, SKIP};
use crate::rule::{MAX_SLOTS, Rule, cast, kept_slots};
use crate::wgsl::Real;

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
}

impl<R: Rule, T: Real> Optimizer<R, T> {
    /// One group of tensors, given as names and lengths in elements.
    ///
    /// # Errors
    /// As [`add_group`](Self::add_group).
    pub fn new<'a>(settings: R, tensors: impl IntoIterator<Item = (&'a str, usize)>) -> Result<Self, Error> {
        let mut optimizer = Self { roster: Roster::new(), state: State::default() };
        optimizer.add_group(settings, tensors)?;
        Ok(optimizer)
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
        let mut roster = self.roster.clone();
        let group = roster.add_group(settings)?;
        let members: Vec<Member> =
            tensors.into_iter().map(|(name, len)| Member::new(name.into(), len as u64, group)).collect();
        if let Some(empty) = members.iter().find(|member| member.len == 0) {
            return Err(Error::Empty { what: "tensor", name: empty.name.clone() });
        }
        roster.add_members(members)?;
        let added = &roster.members()[self.roster.members().len()..];
        self.state.add(roster.group(group)?, added.iter().map(|member| member.len as usize).collect())?;
        self.roster = roster;
        Ok(group)
    }

    /// Steps every tensor that is not frozen. `params` and `grads` hold one slice for each tensor, in the order
    /// in which they were added.
    ///
    /// # Errors
    /// [`Error::Tensors`] or [`Error::Length`], before anything has changed.
    pub fn step(&mut self, params: &mut [&mut [T]], grads: &[&[T]]) -> Result<(), Error> {
        self.check_lengths(params, grads)?;
        let hypers = self.next_hypers();
        for (tensor, (p, mut slots)) in params.iter_mut().zip(self.state.slices()).enumerate() {
            let class = self.roster.class_of()[tensor];
            if class != SKIP {
                step(self.roster.settings_of(tensor), &hypers[class as usize], p, grads[tensor], &mut slots);
            }
        }
        self.roster.advance();
        Ok(())
    }

    /// The scalars of the next step, one for each class.
    pub(crate) fn next_hypers(&self) -> Vec<R::Hyper<T>> {
        self.roster.next_hypers().iter().map(cast).collect()
    }

    pub(crate) fn check_lengths(&self, params: &[&mut [T]], grads: &[&[T]]) -> Result<(), Error> {
        let expected = self.roster.members().len() as u64;
        for (what, found) in [("parameters", params.len() as u64), ("gradients", grads.len() as u64)] {
            if found != expected {
                return Err(Error::Tensors { what, found, expected });
            }
        }
        for (tensor, member) in self.roster.members().iter().enumerate() {
            let lengths = [("slice", params[tensor].len() as u64), ("gradient", grads[tensor].len() as u64)];
            for (what, found) in lengths {
                if found != member.len && !(what == "gradient" && self.roster.is_frozen(tensor)) {
                    let name = member.name.clone();
                    return Err(Error::Length { what: what.into(), name, found, expected: member.len });
                }
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

    /// Gives a group other numbers from the next step on.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Setting`], [`Error::Structure`].
    pub fn retune(&mut self, group: usize, settings: R) -> Result<(), Error> {
        self.roster.retune(group, settings)
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

    /// The values of a state slot.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::UnknownSlot`].
    pub fn state(&self, name: &str, slot: &str) -> Result<&[T], Error> {
        let tensor = self.roster.find(name)?;
        Ok(self.state.get(tensor, self.roster.slot(tensor, slot)?))
    }

    /// Sets the values of a state slot.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::UnknownSlot`], [`Error::Length`].
    pub fn set_state(&mut self, name: &str, slot: &str, values: &[T]) -> Result<(), Error> {
        let tensor = self.roster.find(name)?;
        let index = self.roster.slot(tensor, slot)?;
        let kept = self.state.get_mut(tensor, index);
        if kept.len() != values.len() {
            return Err(Error::Length {
                what: slot.into(),
                name: name.into(),
                found: values.len() as u64,
                expected: kept.len() as u64,
            });
        }
        kept.copy_from_slice(values);
        Ok(())
    }

    /// The names of the slots that a tensor keeps.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn slots(&self, name: &str) -> Result<Vec<&'static str>, Error> {
        let settings = self.roster.settings_of(self.roster.find(name)?);
        Ok(kept_slots(settings).into_iter().map(|slot| R::SLOTS[slot]).collect())
    }

    /// The names of the tensors, in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.roster.members().iter().map(|member| member.name.as_str())
    }
}

/// The slots of all tensors: those of a group in one array for each slot, so that many small ones lie as one large.
#[derive(Clone, Debug)]
pub(crate) struct State<T: Real> {
    blocks: Vec<Block<T>>,
    /// Each tensor's block, and its place there.
    of: Vec<(usize, usize)>,
}

#[derive(Clone, Debug)]
struct Block<T: Real> {
    /// For each slot; empty where it is not kept.
    slots: [Pages<T>; MAX_SLOTS],
    /// (first element, elements) of each tensor.
    places: Vec<(usize, usize)>,
}

/// Tensors start at multiples of this many elements: a line of the cache.
const LINE: usize = 16;

/// A length in whole lines.
fn padded(len: usize) -> usize {
    len.div_ceil(LINE).saturating_mul(LINE)
}

impl<T: Real> Default for State<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), of: Vec::new() }
    }
}

impl<T: Real> State<T> {
    /// Adds tensors that have taken no step.
    fn add<R: Rule>(&mut self, settings: &R, lens: Vec<usize>) -> Result<(), Error> {
        let mut end = 0usize;
        let mut place = |len: usize| {
            let start = end;
            end = end.saturating_add(padded(len));
            (start, len)
        };
        let places: Vec<(usize, usize)> = lens.into_iter().map(&mut place).collect();
        let mut slots: [Pages<T>; MAX_SLOTS] = Default::default();
        for slot in kept_slots(settings) {
            slots[slot] = Pages::new(end, slot + 1, T::from_f64(settings.initial(slot)))?;
        }
        self.of.extend((0..places.len()).map(|place| (self.blocks.len(), place)));
        self.blocks.push(Block { slots, places });
        Ok(())
    }

    /// The slots of every tensor, empty where they are not kept.
    pub fn slices(&mut self) -> impl Iterator<Item = [&mut [T]; MAX_SLOTS]> {
        self.blocks.iter_mut().flat_map(|Block { slots, places }| {
            let mut rest = slots.each_mut().map(|slot| &mut slot[..]);
            places.iter().map(move |&(_, len)| {
                rest.each_mut().map(|rest| {
                    let own = rest.split_off_mut(..padded(len).min(rest.len())).unwrap_or_default();
                    let kept = len.min(own.len());
                    &mut own[..kept]
                })
            })
        })
    }

    pub fn get(&self, tensor: usize, slot: usize) -> &[T] {
        let (block, place) = self.of[tensor];
        let Block { slots, places } = &self.blocks[block];
        let (start, len) = places[place];
        &slots[slot][start..start + len]
    }

    pub fn get_mut(&mut self, tensor: usize, slot: usize) -> &mut [T] {
        let (block, place) = self.of[tensor];
        let Block { slots, places } = &mut self.blocks[block];
        let (start, len) = places[place];
        &mut slots[slot][start..start + len]
    }
}
