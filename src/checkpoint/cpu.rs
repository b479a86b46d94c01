//! The front end of the optimizer on the CPU.

use std::path::Path;

use super::native::Standing;
use super::{
    Checkpoint, Error, From, Load, Outline, Plane, Report, Request, Save, Source, Writer, fit, native, to_pytorch,
};
use crate::cpu::{Optimizer, array_of};
use crate::rule::Rule;

/// Parameters to be filled, a slice for each tensor.
type Slices<'a, 'b> = &'a mut [&'b mut [f32]];

impl<R: Rule> Optimizer<R, f32> {
    /// Writes the state to a file, with the parameters if there are slices of them: one for each tensor, in the order in
    /// which they were added. Needs the feature `checkpoint`.
    ///
    /// The file takes its name once it is on the disk whole; what a link at `path` leads to is replaced. Memory: some MiB,
    /// whatever the state.
    ///
    /// # Errors
    /// [`Error::Output`], [`Error::Unstorable`], [`Error::Optimizer`] for slices that are not the tensors', [`Error::File`]
    /// for more names than the format takes.
    pub fn save(&self, path: impl AsRef<Path>, save: &Save<Option<&[&[f32]]>>) -> Result<(), Error> {
        let path = path.as_ref();
        let params = save.params.unwrap_or_default();
        if save.params.is_some() {
            self.check_params(params.iter().map(|params| params.len()))?;
        }
        let outline = native::outline(&self.roster, &self.standing(), save.params.is_some(), &save.extras, |_| None);
        let unstorable = |what| Error::Unstorable { path: path.display().to_string(), what };
        self.write(path, &outline.map_err(unstorable)?, params)
    }

    /// Writes the state as PyTorch's `state_dict()`: see [`checkpoint`](crate::checkpoint). PyTorch knows no frozen
    /// tensors, so that is not written. Needs the feature `checkpoint`.
    ///
    /// # Errors
    /// [`Error::NoCounterpart`] for settings that PyTorch does not have, or as [`save`](Self::save).
    pub fn save_pytorch(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let no_counterpart = |message| Error::NoCounterpart { path: path.display().to_string(), message };
        self.write(
            path,
            &to_pytorch::outline(&self.roster, &self.standing().steps, |_| None).map_err(no_counterpart)?,
            &[],
        )
    }

    /// Takes the state, the step counts and what is frozen from a file that fits in everything, and the parameters and
    /// settings if asked for. Needs the feature `checkpoint`.
    ///
    /// The file is read twice: for its checksums before anything is touched, then into its places.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with everything that disagrees, [`Error::Damaged`], [`Error::Unsound`], [`Error::File`],
    /// [`Error::Optimizer`] for slices that are not the tensors'.
    pub fn load(&mut self, checkpoint: &Checkpoint, load: Load<'_, Option<Slices<'_, '_>>>) -> Result<Report, Error> {
        self.load_as(checkpoint, load, false)
    }

    /// [`load`](Self::load) for what was changed on purpose: takes what is in both the file and the optimizer, and tells
    /// what is in one of them only. Settings, and what is frozen, stay the optimizer's. State of another rule is ignored.
    ///
    /// # Errors
    /// As [`load`](Self::load); of disagreements only lengths, and in a file of PyTorch's the number of tensors.
    pub fn load_partial(
        &mut self,
        checkpoint: &Checkpoint,
        load: Load<'_, Option<Slices<'_, '_>>>,
    ) -> Result<Report, Error> {
        self.load_as(checkpoint, load, true)
    }

    fn load_as(
        &mut self,
        checkpoint: &Checkpoint,
        load: Load<'_, Option<Slices<'_, '_>>>,
        partial: bool,
    ) -> Result<Report, Error> {
        let Load { params, extras, retune } = load;
        let request = Request { params: params.is_some(), extras, retune: retune && !partial, partial, most: u64::MAX };
        let params = params.unwrap_or_default();
        if request.params {
            self.check_params(params.iter().map(|params| params.len()))?;
        }
        let fitted = fit(checkpoint, &self.roster, &request)?;
        let settled = fitted.settled(&self.roster)?;
        fitted.control.iter().try_for_each(|control| control.check(settled.chain()))?;
        for step in &fitted.moves {
            let to = match step.plane {
                Plane::Slot(plane) => {
                    let array = self.array(step.tensor, plane);
                    self.state.get_mut(step.tensor, array)
                }
                Plane::Params => &mut *params[step.tensor],
            };
            match step.from {
                From::Initial(value) => to.fill(value),
                ref entry => checkpoint.read(entry, 0, bytemuck::cast_slice_mut(to))?,
            }
        }
        self.roster = settled;
        if let Some(control) = fitted.control {
            self.set_control(control)?;
        }
        Ok(fitted.report)
    }

    fn standing(&self) -> Standing {
        let steps = (0..self.roster.members().len()).map(|tensor| self.roster.step_of(tensor)).collect();
        Standing { steps, control: *self.control() }
    }

    fn write(&self, path: &Path, outline: &Outline, params: &[&[f32]]) -> Result<(), Error> {
        let mut writer = Writer::create(path, outline)?;
        for part in &outline.parts {
            writer.tensor(match &part.source {
                Source::Slot(tensor, plane) => self.state.get(*tensor, self.array(*tensor, *plane)),
                Source::Params(tensor) => params[*tensor],
                Source::Values(values) => values,
            })?;
        }
        writer.finish()
    }

    /// Where a slot lies that is kept.
    fn array(&self, tensor: usize, plane: usize) -> usize {
        array_of::<R>(self.roster.slots(tensor)[plane])
    }

    /// Refuses parameters that are not as many or as long as the tensors.
    fn check_params(&self, lens: impl ExactSizeIterator<Item = usize>) -> Result<(), crate::Error> {
        let members = self.roster.members();
        let (found, expected) = (lens.len() as u64, members.len() as u64);
        if found != expected {
            return Err(crate::Error::Tensors { what: "parameters", found, expected });
        }
        for (member, len) in members.iter().zip(lens) {
            if member.len != len as u64 {
                let (what, name) = ("slice".into(), member.name.clone());
                return Err(crate::Error::Length { what, name, found: len as u64, expected: member.len });
            }
        }
        Ok(())
    }
}
