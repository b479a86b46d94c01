//! Rows that come, go, or change places, between steps.

use std::collections::HashSet;

use super::{Optimizer, item};
use crate::Error;
use crate::plan::{Kinds, Place};
use crate::record::{Launches, Moves, Parts, Remapped};
use crate::roster::{Member, Roster};
use crate::rows::RowMap;
use crate::rule::Rule;
use crate::state::State;
use crate::tensor::Tensor;

/// What takes the place of what there is, once it is sure.
struct Successor<R> {
    roster: Roster<R>,
    tensors: Vec<Tensor>,
    state: State,
    launches: Launches,
}

impl<R: Rule> Optimizer<R> {
    /// Gives tensors other rows: appends, drops and permutes them, in the parameters and in every slot, on the device and
    /// with nothing read back. Each tensor names one that there is and says where it lies from now on: its ranges, as long as
    /// they are to be, and its shape, `[rows, …]`, with rows as long as before. The map says for each new row the row that it
    /// comes from, or that it is [`FRESH`](crate::map::FRESH).
    ///
    /// Recorded are the moves; the next step steps the new ranges. Parameters go from the old range to the new one, which
    /// may lie in the same buffer, and overlap it: a fresh row is left as the caller wrote it there. Slots of a fresh row
    /// are where the rule starts, its average (`ema`) is the parameter. Gradients are not moved. The step count stays the
    /// tensor's, so that a fresh row is corrected for a bias that it does not have: as in the reference code of Gaussian
    /// splatting.
    ///
    /// Rows are moved as they are stored, in every format of 16 bits wherever they begin and end. State of 8 bits is moved
    /// with its scales where rows are whole blocks of 256 elements, and refused otherwise. A master, or what Kahan's
    /// compensation keeps, goes with its row; a fresh row has none yet, and is taken as it was written.
    ///
    /// ```no_run
    /// # use wgpu_optim::{Adam, Error, Map, Optimizer, Tensor, wgpu};
    /// # fn grow(optimizer: &mut Optimizer<Adam>, device: &wgpu::Device, encoder: &mut wgpu::CommandEncoder,
    /// #     params: &wgpu::Buffer, grads: &wgpu::Buffer) -> Result<(), Error> {
    /// let longer = Tensor::new("splats", params, grads).with_shape([1500, 48]);
    /// optimizer.remap_rows(device, encoder, [(longer, Map::append(1000, 500))])
    /// # }
    /// ```
    ///
    /// **Order.** Submit the encoder before anything that is recorded after this call. The state that there was goes with the
    /// steps that are already recorded, and is let go of when they are done. If the encoder is thrown away, the state that
    /// it would have moved is lost: what there is then starts from where the rule starts, while parameters lie where they
    /// lay; load a checkpoint.
    ///
    /// Cost: all state is placed anew and copied once, that of other tensors too; until the submitted moves are done, both
    /// the old and the new state are there. Where rows go to a buffer that others come from, so are the new parameters once
    /// more. On the host as building the optimizer, without the kernels.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::DuplicateName`], [`Error::NoRows`] for a tensor without a shape, before or now,
    /// [`Error::RowLength`], [`Error::Map`], [`Error::MapRow`], [`Error::RowBlocks`] for state of 8 bits whose blocks belong to
    /// several rows, [`Error::RowFormat`] where `q8_min` would have it kept in another format at the new length, or as
    /// [`new`](Self::new) and [`record`](Self::record). Nothing is recorded or changed then.
    pub fn remap_rows<M: Into<RowMap>>(
        &mut self,
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
        remaps: impl IntoIterator<Item = (Tensor, M)>,
    ) -> Result<(), Error> {
        let remaps = remaps.into_iter().map(|(tensor, map)| (tensor, map.into())).collect();
        let remapped = self.try_remap(device, remaps);
        if let Ok((_, moves)) = &remapped {
            moves.record(encoder);
        }
        let outcome = remapped.map(|(successor, _)| self.succeed(successor));
        self.release();
        outcome
    }

    fn succeed(&mut self, successor: Successor<R>) {
        let Successor { roster, tensors, state, launches } = successor;
        (self.roster, self.tensors, self.state, self.launches) = (roster, tensors, state, launches);
        self.classified = true;
        if let Some(decided) = &mut self.decided {
            decided.control = None;
        }
        if let Some(updates) = &mut self.updates {
            updates.moved();
        }
    }

    /// Checks, places and launches; changes nothing.
    fn try_remap(
        &mut self,
        device: &wgpu::Device,
        remaps: Vec<(Tensor, RowMap)>,
    ) -> Result<(Successor<R>, Moves), Error> {
        self.kernels.check_device(device)?;
        let mut tensors = self.tensors.clone();
        let mut maps = Vec::with_capacity(remaps.len());
        let mut seen = HashSet::new();
        for (tensor, map) in remaps {
            if !seen.insert(tensor.name().to_string()) {
                return Err(Error::DuplicateName { name: tensor.name().into() });
            }
            let index = self.roster.find(tensor.name())?;
            let rows = self.check_remap(index, &tensor, &map)?;
            maps.push((index, map, rows));
            tensors[index] = tensor;
        }
        let mut roster = self.roster.clone();
        for &(tensor, ..) in &maps {
            let len = tensors[tensor].len(roster.formats(roster.members()[tensor].group)?);
            roster.set_len(tensor, len);
        }
        let before = self.places(&self.tensors.clone(), &self.roster.clone(), false)?;
        let places = self.places(&tensors, &roster, roster.chain().zero_grads)?;
        let remapped = |(tensor, map, rows): (usize, RowMap, (u64, u64))| {
            let places = [before[tensor].0, places[tensor].0];
            let format = roster.formats(roster.members()[tensor].group)?.params;
            Ok(Remapped { tensor, map, rows, format, places })
        };
        let remapped = maps.into_iter().map(remapped).collect::<Result<Vec<Remapped>, Error>>()?;
        let state = self.placed(device, &tensors, &places, &roster)?;
        let Self { kernels, limits, buffers, .. } = self;
        let parts = Parts { device, kernels, limits, buffers, state: &state };
        // What is bound to the old pages is of no use.
        let mut launches = Launches::default();
        launches.prepare(&parts, &tensors, &places, &roster)?;
        let moves = Moves::prepare(&parts, &self.state, &roster, &remapped)?;
        Ok((Successor { roster, tensors, state, launches }, moves))
    }

    /// The rows that there were, and the elements of each, if the tensor can take the place of the old one.
    fn check_remap(&self, index: usize, tensor: &Tensor, map: &RowMap) -> Result<(u64, u64), Error> {
        let (old, formats) = (&self.tensors[index], self.roster.formats(self.roster.members()[index].group)?);
        tensor.check(formats)?;
        let (rows, expected, found) = (old.rows()?, old.row_width(formats)?, tensor.row_width(formats)?);
        if found != expected {
            return Err(Error::RowLength { name: tensor.name().into(), found, expected });
        }
        self.roster.check_moved(index, tensor.len(formats), expected)?;
        map.check(tensor, rows, self.limits.binding, self.limits.alignment)?;
        Ok((rows, expected))
    }

    /// State for these tensors, where the rule starts.
    fn placed(
        &self,
        device: &wgpu::Device,
        tensors: &[Tensor],
        places: &[(Place, Place)],
        roster: &Roster<R>,
    ) -> Result<State, Error> {
        let mut kinds = Kinds::default();
        let placed = |(tensor, member): (&Tensor, &Member)| item(&mut kinds, roster, member.group, tensor);
        let items = tensors.iter().zip(roster.members()).map(placed).collect::<Result<Vec<_>, Error>>()?;
        let order = |tensor: usize| (places[tensor].0.span.buffer, places[tensor].0.span.offset);
        State::default().extended(device, &items, &self.limits, order, roster)
    }
}
