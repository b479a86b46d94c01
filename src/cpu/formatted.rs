//! Steps over numbers of any format.

use super::slice::{Plain, Slice, SliceMut};
use super::stretch::{Decoded, Streams, Stretch};
use super::{Listed, Next, Optimizer, array_of, step, step_gated};
use crate::Error;
use crate::chain::ACCUMULATED;
use crate::format::{Formats, Rounding, Storage, noise};
use crate::roster::SKIP;
use crate::rule::{MAX_SLOTS, Rule, kept_slots};
use crate::wgsl::{Real, U32};

impl<R: Rule, T: Real> Optimizer<R, T> {
    /// [`add_group`](Self::add_group), with the formats of its parameters, gradients and state. Where parameters or
    /// gradients have 16 bits, steps are taken by [`step_slices`](Self::step_slices).
    ///
    /// The oracle computes in `f64` what an optimizer of `f32` computes, and stores it in the same formats, by way of
    /// `f32`.
    ///
    /// # Errors
    /// As [`add_group`](Self::add_group); [`Error::Setting`] for formats that do not go together.
    pub fn add_group_with<'a>(
        &mut self,
        settings: R,
        formats: Formats,
        tensors: impl IntoIterator<Item = (&'a str, usize)>,
    ) -> Result<usize, Error> {
        self.add(settings, formats, tensors)
    }

    /// [`step`](Self::step), over parameters and gradients in the formats of their groups.
    ///
    /// Cost: each parameter, gradient and slot is read once and each parameter and slot written once, in its own format;
    /// 24 KiB are decoded at a time.
    ///
    /// # Errors
    /// [`Error::Tensors`], [`Error::Length`], or [`Error::Format`] for a slice in another format than its group's, before
    /// anything has changed.
    pub fn step_slices(&mut self, params: &mut [SliceMut<'_, T>], grads: &[Slice<'_, T>]) -> Result<(), Error> {
        self.step_slices_listed(params, grads, &Listed::default())
    }

    /// A step, of some tensors in some rows only.
    pub(super) fn step_slices_listed(
        &mut self,
        params: &mut [SliceMut<'_, T>],
        grads: &[Slice<'_, T>],
        listed: &Listed,
    ) -> Result<(), Error> {
        self.check_slices(params, grads)?;
        let decided = self.decide(listed, |own, norm| {
            own.measures(norm, |tensor, sums| {
                listed.measure(tensor, if sums.is_empty() { grads[tensor] } else { Slice::Full(sums) }, norm)
            })
        });
        self.update = None;
        let Some(Next { hypers, gates, on }) = decided? else { return Ok(()) };
        let (streams, mut decoded) = (self.streams(), Decoded::new());
        for (tensor, (params, arrays)) in params.iter_mut().zip(self.state.arrays()).enumerate() {
            let class = self.roster.class_of()[tensor];
            if class == SKIP {
                continue;
            }
            let (rule, h, gate) = (self.roster.settings_of(tensor), &hypers[class as usize], gates.get(class as usize));
            let grads = grads.get(tensor).copied().unwrap_or_default();
            let streams = streams.get(tensor).copied().unwrap_or_default();
            let mut stretch = Stretch::new(params.lent(), grads, arrays);
            for range in listed.ranges(tensor, stretch.len()) {
                stretch.within(&range).step_in(&Plain, &mut decoded, &streams, |p, g, mut slots| match gate {
                    None => step(rule, h, p, g, &mut slots[..MAX_SLOTS]),
                    Some(gate) => step_gated(rule, h, (gate, on), p, g, &mut slots),
                });
            }
        }
        self.roster.advance();
        Ok(())
    }

    /// [`accumulate`](Self::accumulate), of gradients in the formats of their groups; sums are `f32`.
    ///
    /// # Errors
    /// [`Error::Tensors`], [`Error::Length`], [`Error::Format`], [`Error::UnknownSlot`] where the chain does not accumulate.
    pub fn accumulate_slices(&mut self, grads: &[Slice<'_, T>], weight: f64) -> Result<(), Error> {
        self.accumulate_slices_listed(grads, weight, &Listed::default())
    }

    pub(super) fn accumulate_slices_listed(
        &mut self,
        grads: &[Slice<'_, T>],
        weight: f64,
        listed: &Listed,
    ) -> Result<(), Error> {
        if let Some(first) = self.roster.members().first() {
            self.roster.plane(self.roster.find(&first.name)?, ACCUMULATED)?;
        }
        self.check_grads(grads)?;
        let weight = T::from_f64(weight);
        for (tensor, [.., sums]) in self.state.slices().enumerate() {
            if self.roster.class_of()[tensor] != SKIP {
                for range in listed.ranges(tensor, sums.len()) {
                    let own = grads[tensor].within(&range);
                    own.meet(&mut sums[range], |sum, g| *sum = *sum + weight * g);
                }
            }
        }
        Ok(())
    }

    /// How a slot of a tensor lies.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::UnknownSlot`].
    pub fn storage(&self, name: &str, slot: &str) -> Result<Storage, Error> {
        let tensor = self.roster.find(name)?;
        let plane = self.roster.plane(tensor, slot)?;
        Ok(self.roster.planes(tensor)[plane].storage)
    }

    /// The values of a state slot of any format, decoded.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::UnknownSlot`].
    pub fn read_state(&self, name: &str, slot: &str) -> Result<Vec<T>, Error> {
        Ok(self.stored(name, slot)?.to_vec())
    }

    /// A state slot as it is stored.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::UnknownSlot`].
    pub fn stored(&self, name: &str, slot: &str) -> Result<Slice<'_, T>, Error> {
        let tensor = self.roster.find(name)?;
        self.roster.plane(tensor, slot)?;
        Ok(self.state.view(tensor, array_of::<R>(slot)))
    }

    /// A state slot as it is stored, to be written: codes and scales as they are.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::UnknownSlot`].
    pub fn stored_mut(&mut self, name: &str, slot: &str) -> Result<SliceMut<'_, T>, Error> {
        let tensor = self.roster.find(name)?;
        self.roster.plane(tensor, slot)?;
        Ok(self.state.view_mut(tensor, array_of::<R>(slot)))
    }

    /// Bytes that the state takes, scales included, and what is between tensors left out.
    pub fn state_size(&self) -> u64 {
        self.state.size() as u64
    }

    /// Whether some group has a format of its own, so that slices of `T` may not be all there is.
    pub(crate) fn is_formatted(&self) -> bool {
        (0..self.groups().len()).any(|group| self.formats(group).is_ok_and(|formats| !formats.is_plain()))
    }

    pub(crate) fn check_slices(&self, params: &[SliceMut<'_, T>], grads: &[Slice<'_, T>]) -> Result<(), Error> {
        self.check_lengths("parameters", params.iter().map(|params| params.as_slice().len()))?;
        self.check_formats("parameters", params.iter().map(|params| params.as_slice().format()))?;
        match (self.chain().accumulate, grads.len() as u64) {
            (false, _) => self.check_grads(grads),
            (true, 0) => Ok(()),
            (true, found) => Err(Error::Accumulated { found }),
        }
    }

    fn check_grads(&self, grads: &[Slice<'_, T>]) -> Result<(), Error> {
        self.check_lengths("gradients", grads.iter().map(Slice::len))?;
        self.check_formats("gradient", grads.iter().map(Slice::format))
    }

    /// Refuses what lies otherwise than its group says; gradients of frozen tensors are not looked at.
    pub(super) fn check_formats(
        &self,
        what: &'static str,
        found: impl Iterator<Item = &'static str>,
    ) -> Result<(), Error> {
        for ((tensor, member), found) in self.roster.members().iter().enumerate().zip(found) {
            let formats = self.roster.formats(member.group)?;
            let is_grad = what == "gradient";
            let expected = if is_grad { formats.grads } else { formats.params }.storage().word();
            if found != expected && !(is_grad && self.roster.is_frozen(tensor)) {
                return Err(Error::Format { what, name: member.name.clone(), found, expected });
            }
        }
        Ok(())
    }

    /// The noise of each tensor in the next step; nothing where no group rounds by chance.
    pub(crate) fn streams(&self) -> Vec<Streams> {
        let by_chance = |group| self.formats(group).is_ok_and(|formats| formats.rounding == Rounding::Stochastic);
        if !(0..self.groups().len()).any(by_chance) {
            return Vec::new();
        }
        (0..self.roster.members().len()).map(|tensor| self.streams_of(tensor).unwrap_or_default()).collect()
    }

    fn streams_of(&self, tensor: usize) -> Option<Streams> {
        let member = &self.roster.members()[tensor];
        let formats = self.roster.formats(member.group).ok()?;
        if formats.rounding != Rounding::Stochastic {
            return None;
        }
        let step = U32(noise::step_key(formats.seed, self.recorded()));
        let name = U32(noise::tensor_key(&member.name));
        let mut slots = [None; MAX_SLOTS];
        for (plane, slot) in (0..).zip(kept_slots(self.roster.settings_of(tensor))) {
            slots[slot] = Some(noise::stream(step, name, U32(1 + plane)));
        }
        Some(Streams { params: Some(noise::stream(step, name, U32(0))), slots })
    }
}
