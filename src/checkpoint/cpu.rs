//! The front end of the optimizer on the CPU.

use std::path::Path;

use super::native::Standing;
use super::{
    Checkpoint, Error, Extras, Load, Outline, Plane, Report, Request, Save, Source, Writer, fit, native, to_pytorch,
};
use crate::cpu::{Optimizer, Slice, SliceMut, array_of};
use crate::rule::Rule;

/// Parameters to be filled, a slice for each tensor.
type Slices<'a, 'b> = &'a mut [&'b mut [f32]];
/// The same, in the formats of their groups.
type FormattedSlices<'a, 'b> = &'a mut [SliceMut<'b>];

impl<R: Rule> Optimizer<R, f32> {
    /// Writes the state to a file, with the parameters if there are slices of them: one for each tensor, in the order
    /// in which they were added. Needs the feature `checkpoint`.
    ///
    /// The file takes its name once it is on the disk whole; what a link at `path` leads to is replaced. Memory: some
    /// MiB, whatever the state.
    ///
    /// # Errors
    /// [`Error::Output`], [`Error::Unstorable`], [`Error::Optimizer`] for slices that are not the tensors',
    /// [`Error::File`] for more names than the format takes.
    pub fn save(&self, path: impl AsRef<Path>, save: &Save<Option<&[&[f32]]>>) -> Result<(), Error> {
        let params = save.params.map(|params| params.iter().map(|params| Slice::Full(params)).collect::<Vec<_>>());
        self.save_as(path.as_ref(), params.as_deref(), &save.extras)
    }

    /// [`save`](Self::save), of parameters in the formats of their groups. Needs the feature `checkpoint`.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_slices(&self, path: impl AsRef<Path>, save: &Save<Option<&[Slice<'_>]>>) -> Result<(), Error> {
        self.save_as(path.as_ref(), save.params, &save.extras)
    }

    /// Writes the state as PyTorch's `state_dict()`: see [`checkpoint`](crate::checkpoint). PyTorch knows no frozen
    /// tensors, so that is not written. Needs the feature `checkpoint`.
    ///
    /// # Errors
    /// [`Error::NoCounterpart`] for settings and formats that PyTorch does not have, or as [`save`](Self::save).
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
        self.load_full(checkpoint, load, false)
    }

    /// [`load`](Self::load), of parameters in the formats of their groups. Needs the feature `checkpoint`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_slices(
        &mut self,
        checkpoint: &Checkpoint,
        load: Load<'_, Option<FormattedSlices<'_, '_>>>,
    ) -> Result<Report, Error> {
        self.load_as(checkpoint, load, false)
    }

    /// [`load`](Self::load) for what was changed on purpose: takes what is in both the file and the optimizer, and
    /// tells what is in one of them only. Settings, and what is frozen, stay the optimizer's. State of another rule is
    /// ignored.
    ///
    /// What is in another format is cast where [`Load::cast`] names it. Where parameters are loaded and `master_param`
    /// or `kahan_comp` is not in the file, that starts afresh from them; a master from what they were before they were
    /// cast.
    ///
    /// # Errors
    /// As [`load`](Self::load); of disagreements only lengths, formats that may not be cast, and in a file of PyTorch's
    /// the number of tensors.
    pub fn load_partial(
        &mut self,
        checkpoint: &Checkpoint,
        load: Load<'_, Option<Slices<'_, '_>>>,
    ) -> Result<Report, Error> {
        self.load_full(checkpoint, load, true)
    }

    /// [`load_partial`](Self::load_partial), of parameters in the formats of their groups. Needs the feature
    /// `checkpoint`.
    ///
    /// # Errors
    /// As [`load_partial`](Self::load_partial).
    pub fn load_partial_slices(
        &mut self,
        checkpoint: &Checkpoint,
        load: Load<'_, Option<FormattedSlices<'_, '_>>>,
    ) -> Result<Report, Error> {
        self.load_as(checkpoint, load, true)
    }

    fn save_as(&self, path: &Path, params: Option<&[Slice<'_>]>, extras: &Extras) -> Result<(), Error> {
        if let Some(params) = params {
            self.check_params(params.iter().copied())?;
        }
        let outline = native::outline(&self.roster, &self.standing(), params.is_some(), extras, |_| None);
        let unstorable = |what| Error::Unstorable { path: path.display().to_string(), what };
        self.write(path, &outline.map_err(unstorable)?, params.unwrap_or_default())
    }

    fn load_full(
        &mut self,
        checkpoint: &Checkpoint,
        load: Load<'_, Option<Slices<'_, '_>>>,
        partial: bool,
    ) -> Result<Report, Error> {
        let Load { params, extras, retune, cast } = load;
        let mut params: Option<Vec<SliceMut<'_>>> =
            params.map(|params| params.iter_mut().map(|params| SliceMut::Full(params)).collect());
        self.load_as(checkpoint, Load { params: params.as_deref_mut(), extras, retune, cast }, partial)
    }

    fn load_as(
        &mut self,
        checkpoint: &Checkpoint,
        load: Load<'_, Option<FormattedSlices<'_, '_>>>,
        partial: bool,
    ) -> Result<Report, Error> {
        let Load { params, extras, retune, cast } = load;
        let (retune, most) = (retune && !partial, u64::MAX);
        let request = Request { params: params.is_some(), extras, retune, cast, partial, most };
        let params = params.unwrap_or_default();
        if request.params {
            self.check_params(params.iter().map(SliceMut::as_slice))?;
        }
        let fitted = fit(checkpoint, &self.roster, &request)?;
        let settled = fitted.settled(&self.roster)?;
        fitted.control.iter().try_for_each(|control| control.check(settled.chain()))?;
        for step in &fitted.moves {
            let (to, scales) = match step.plane {
                Plane::Slot(plane) | Plane::Scales(plane) => {
                    let array = self.array(step.tensor, plane);
                    (self.state.view_mut(step.tensor, array), matches!(step.plane, Plane::Scales(_)))
                }
                Plane::Params => (params[step.tensor].lent(), false),
            };
            checkpoint.read(&step.from, 0, bytes_mut(to, scales))?;
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

    fn write(&self, path: &Path, outline: &Outline, params: &[Slice<'_>]) -> Result<(), Error> {
        let mut writer = Writer::create(path, outline)?;
        let slot = |tensor, plane| self.state.view(tensor, self.array(tensor, plane));
        for part in &outline.parts {
            writer.tensor(match &part.source {
                Source::Slot(tensor, plane) => bytes(slot(*tensor, *plane), false),
                Source::Scales(tensor, plane) => bytes(slot(*tensor, *plane), true),
                Source::Params(tensor) => bytes(params[*tensor], false),
                Source::Values(values) => bytemuck::cast_slice(values),
            })?;
        }
        writer.finish()
    }

    /// Where a slot lies that is kept.
    fn array(&self, tensor: usize, plane: usize) -> usize {
        array_of::<R>(self.roster.slots(tensor)[plane])
    }

    /// Refuses parameters that are not as many, as long, or in the formats of the tensors.
    fn check_params<'a>(&self, params: impl ExactSizeIterator<Item = Slice<'a>>) -> Result<(), crate::Error> {
        let members = self.roster.members();
        let (found, expected) = (params.len() as u64, members.len() as u64);
        if found != expected {
            return Err(crate::Error::Tensors { what: "parameters", found, expected });
        }
        for (member, params) in members.iter().zip(params) {
            let (name, found) = (member.name.clone(), params.len() as u64);
            if member.len != found {
                return Err(crate::Error::Length { what: "slice".into(), name, found, expected: member.len });
            }
            let (found, expected) = (params.format(), self.roster.formats(member.group)?.params.storage().word());
            if found != expected {
                return Err(crate::Error::Format { what: "parameters", name, found, expected });
            }
        }
        Ok(())
    }
}

/// The numbers as they are stored, or the scales of their blocks.
fn bytes(slice: Slice<'_>, of_scales: bool) -> &[u8] {
    match slice {
        Slice::Full(values) => bytemuck::cast_slice(values),
        Slice::F16(values) => bytemuck::cast_slice(values),
        Slice::Bf16(values) => bytemuck::cast_slice(values),
        Slice::Q8 { codes, scales, .. } => {
            if of_scales {
                bytemuck::cast_slice(scales)
            } else {
                codes
            }
        }
    }
}

/// [`bytes`], to be written.
fn bytes_mut(slice: SliceMut<'_>, of_scales: bool) -> &mut [u8] {
    match slice {
        SliceMut::Full(values) => bytemuck::cast_slice_mut(values),
        SliceMut::F16(values) => bytemuck::cast_slice_mut(values),
        SliceMut::Bf16(values) => bytemuck::cast_slice_mut(values),
        SliceMut::Q8 { codes, scales, .. } => {
            if of_scales {
                bytemuck::cast_slice_mut(scales)
            } else {
                codes
            }
        }
    }
}
