//! Rows that come, go, or change places, between steps.

use std::collections::HashSet;

use super::rows::rows_of;
use super::{Optimizer, Slice, SliceMut, State, array_of};
use crate::Error;
use crate::chain::EMA;
use crate::format::blocks::BLOCK;
use crate::map::{FRESH, Map};
use crate::roster::Member;
use crate::rule::Rule;
use crate::wgsl::Real;

/// The rows that a tensor is to have.
#[derive(Debug)]
pub struct Remap<'a, T> {
    /// Elements of a row: the product of all dimensions but the first.
    pub width: usize,
    /// Where each new row comes from.
    pub map: &'a Map,
    /// The parameters as they are, in the format of their group.
    pub from: Slice<'a, T>,
    /// The parameters as they are to be, with those of fresh rows in them.
    pub to: SliceMut<'a, T>,
}

/// Moves rows of `width` elements; those that come from none stay as they are.
///
/// # Panics
/// Where `to` is shorter than the map has rows, or `from` lacks a row of it.
pub fn remap_rows<T: Copy>(map: &Map, width: usize, from: &[T], to: &mut [T]) {
    for (row, &old) in map.as_slice().iter().enumerate().filter(|(_, old)| **old != FRESH) {
        let old = old as usize * width;
        to[row * width..(row + 1) * width].copy_from_slice(&from[old..old + width]);
    }
}

impl<R: Rule, T: Real> Optimizer<R, T> {
    /// Gives tensors other rows: appends, drops and permutes them, in the parameters and in every slot. Slots of a fresh row are
    /// where the rule starts, its average (`ema`) is the parameter; the step count stays the tensor's. Rows are moved as they
    /// are stored, code by code; those of state in 8 bits where they are whole blocks of 256 elements, with their scales.
    ///
    /// Cost: all state is placed anew and copied once, that of other tensors too.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::DuplicateName`], [`Error::Length`] and [`Error::RowWidth`] for slices that do not fit,
    /// [`Error::Format`], [`Error::Empty`], [`Error::Map`], [`Error::MapRow`], [`Error::RowBlocks`] for state of 8 bits whose blocks
    /// belong to several rows, [`Error::RowFormat`] where `q8_min` would have it kept in another format at the new length,
    /// [`Error::OutOfMemory`]. Nothing has changed then.
    pub fn remap_rows<'a>(&mut self, remaps: impl IntoIterator<Item = (&'a str, Remap<'a, T>)>) -> Result<(), Error>
    where
        T: 'a,
    {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut roster = self.roster.clone();
        for (name, remap) in remaps {
            let tensor = roster.find(name)?;
            if !seen.insert(tensor) {
                return Err(Error::DuplicateName { name: name.into() });
            }
            self.check_remap(tensor, &remap)?;
            roster.set_len(tensor, remap.to.as_slice().len() as u64);
            found.push((tensor, remap));
        }
        let mut state = State::default();
        for group in 0..roster.groups().len() {
            let members = roster.members().iter().filter(|member| member.group == group);
            state.add(&roster, group, members.map(|member| member.len as usize).collect())?;
        }
        self.move_state(&mut state, found);
        (self.roster, self.state) = (roster, state);
        Ok(())
    }

    /// Moves parameters, and every slot into a state that is new.
    fn move_state(&self, state: &mut State<T>, remaps: Vec<(usize, Remap<'_, T>)>) {
        for tensor in (0..self.roster.members().len()).filter(|tensor| remaps.iter().all(|(own, _)| own != tensor)) {
            for array in self.roster.slots(tensor).into_iter().map(array_of::<R>) {
                copy(self.state.view(tensor, array), state.view_mut(tensor, array));
            }
        }
        for (tensor, Remap { width, map, from, mut to }) in remaps {
            move_rows(map, width, from, to.lent());
            for array in self.roster.slots(tensor).into_iter().map(array_of::<R>) {
                let mut values = state.view_mut(tensor, array);
                if array == array_of::<R>(EMA) {
                    to.as_slice().decode(values.lent().full());
                }
                move_rows(map, width, self.state.view(tensor, array), values);
            }
        }
    }

    /// Refuses what does not fit in the tensor, or in itself.
    fn check_remap(&self, tensor: usize, remap: &Remap<'_, T>) -> Result<(), Error> {
        let Remap { width, map, from, to } = remap;
        let (Member { name, len, group, .. }, to) = (&self.roster.members()[tensor], to.as_slice());
        let (found, expected) = (from.len() as u64, *len);
        if found != expected {
            return Err(Error::Length { what: "slice".into(), name: name.clone(), found, expected });
        }
        if to.is_empty() {
            return Err(Error::Empty { what: "tensor", name: name.clone() });
        }
        let expected = self.roster.formats(*group)?.params.storage().word();
        if let Some(found) = [from.format(), to.format()].into_iter().find(|found| *found != expected) {
            return Err(Error::Format { what: "parameters", name: name.clone(), found, expected });
        }
        let (rows, next) = (rows_of(name, from.len(), *width)?, rows_of(name, to.len(), *width)?);
        self.roster.check_moved(tensor, to.len() as u64, *width as u64)?;
        map.check(name, rows as u64, next as u64)
    }
}

/// [`remap_rows`], of numbers of one format, as they are stored; of 8 bits, rows are whole blocks.
fn move_rows<T: Real>(map: &Map, width: usize, from: Slice<'_, T>, to: SliceMut<'_, T>) {
    match (from, to) {
        (Slice::Full(from), SliceMut::Full(to)) => remap_rows(map, width, from, to),
        (Slice::F16(from), SliceMut::F16(to)) => remap_rows(map, width, from, to),
        (Slice::Bf16(from), SliceMut::Bf16(to)) => remap_rows(map, width, from, to),
        (Slice::Q8 { codes, scales, .. }, SliceMut::Q8 { codes: new, scales: new_scales, .. }) => {
            remap_rows(map, width, codes, new);
            remap_rows(map, width / BLOCK as usize, scales, new_scales);
        }
        _ => unreachable!("a slot and parameters have the formats that they had"),
    }
}

/// All of them.
fn copy<T: Real>(from: Slice<'_, T>, to: SliceMut<'_, T>) {
    match (from, to) {
        (Slice::Full(from), SliceMut::Full(to)) => to.copy_from_slice(from),
        (Slice::F16(from), SliceMut::F16(to)) => to.copy_from_slice(from),
        (Slice::Bf16(from), SliceMut::Bf16(to)) => to.copy_from_slice(from),
        (Slice::Q8 { codes, scales, .. }, SliceMut::Q8 { codes: new, scales: new_scales, .. }) => {
            new.copy_from_slice(codes);
            new_scales.copy_from_slice(scales);
        }
        _ => unreachable!("a slot and parameters have the formats that they had"),
    }
}
