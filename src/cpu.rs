//! The step on the CPU: the oracle in `f64` and the shader's twin in `f32`.
//!
//! Plain on purpose: one loop over slices, in the order of the formula. The feature `parallel` adds
//! `Optimizer::step_parallel`, the same step on all cores.

use std::ops::{Deref, DerefMut};

use crate::Error;
use crate::pages::Pages;
use crate::roster::{Member, Roster, SKIP};
use crate::rule::{MAX_SLOTS, Rule, cast};
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
    /// For each tensor, for each of `R::SLOTS`, its values; empty where the slot is not kept.
    pub(crate) slots: Vec<Vec<Pages<T>>>,
}

impl<R: Rule, T: Real> Optimizer<R, T> {
    /// One group of tensors, given as names and lengths in elements.
    ///
    /// # Errors
    /// As [`add_group`](Self::add_group).
    pub fn new<'a>(settings: R, tensors: impl IntoIterator<Item = (&'a str, usize)>) -> Result<Self, Error> {
        let mut optimizer = Self { roster: Roster::new(), slots: Vec::new() };
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
        let added = self.slots.len()..roster.members().len();
        let slots = added.map(|tensor| fresh(&roster, tensor)).collect::<Result<Vec<_>, Error>>()?;
        self.roster = roster;
        self.slots.extend(slots);
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
        for (tensor, p) in params.iter_mut().enumerate() {
            let class = self.roster.class_of()[tensor];
            if class != SKIP {
                let settings = self.roster.settings_of(tensor);
                let mut slots: Vec<&mut [T]> = self.slots[tensor].iter_mut().map(|slot| &mut slot[..]).collect();
                step(settings, &hypers[class as usize], p, grads[tensor], &mut slots);
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
        Ok(&self.slots[tensor][self.roster.slot(tensor, slot)?])
    }

    /// Sets the values of a state slot.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::UnknownSlot`], [`Error::Length`].
    pub fn set_state(&mut self, name: &str, slot: &str, values: &[T]) -> Result<(), Error> {
        let tensor = self.roster.find(name)?;
        let index = self.roster.slot(tensor, slot)?;
        let kept = &mut self.slots[tensor][index];
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
        Ok(crate::rule::kept_slots(settings).into_iter().map(|slot| R::SLOTS[slot]).collect())
    }

    /// The names of the tensors, in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.roster.members().iter().map(|member| member.name.as_str())
    }
}

/// The slots of a tensor that has taken no step.
fn fresh<R: Rule, T: Real>(roster: &Roster<R>, tensor: usize) -> Result<Vec<Pages<T>>, Error> {
    let settings = roster.settings_of(tensor);
    let len = roster.members()[tensor].len as usize;
    let slot = |slot| match settings.keeps(slot) {
        true => Pages::new(len, slot + 1, T::from_f64(settings.initial(slot))),
        false => Ok(Pages::default()),
    };
    (0..R::SLOTS.len()).map(slot).collect()
}
