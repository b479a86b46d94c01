//! Rows that come, go, or change places, between steps.

use std::collections::HashSet;

use super::rows::rows_of;
use super::{Optimizer, State, array_of};
use crate::Error;
use crate::chain::EMA;
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
    /// The parameters as they are.
    pub from: &'a [T],
    /// The parameters as they are to be, with those of fresh rows in them.
    pub to: &'a mut [T],
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
    /// where the rule starts, its average (`ema`) is the parameter; the step count stays the tensor's.
    ///
    /// Cost: all state is placed anew and copied once, that of other tensors too.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::DuplicateName`], [`Error::Length`] and [`Error::RowWidth`] for slices that do not fit,
    /// [`Error::Empty`], [`Error::Map`], [`Error::MapRow`], [`Error::RowFormat`], [`Error::OutOfMemory`]. Nothing has changed then.
    pub fn remap_rows<'a>(&mut self, remaps: impl IntoIterator<Item = (&'a str, Remap<'a, T>)>) -> Result<(), Error>
    where
        T: 'a,
    {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut roster = self.roster.clone();
        roster.check_rows()?;
        for (name, remap) in remaps {
            let tensor = roster.find(name)?;
            if !seen.insert(tensor) {
                return Err(Error::DuplicateName { name: name.into() });
            }
            check(&self.roster.members()[tensor], &remap)?;
            roster.set_len(tensor, remap.to.len() as u64);
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
                state.get_mut(tensor, array).copy_from_slice(self.state.get(tensor, array));
            }
        }
        for (tensor, Remap { width, map, from, to }) in remaps {
            remap_rows(map, width, from, to);
            for slot in self.roster.slots(tensor) {
                let values = state.get_mut(tensor, array_of::<R>(slot));
                if slot == EMA {
                    values.copy_from_slice(to);
                }
                remap_rows(map, width, self.state.get(tensor, array_of::<R>(slot)), values);
            }
        }
    }
}

/// Refuses what does not fit in the tensor, or in itself.
fn check<T>(member: &Member, remap: &Remap<'_, T>) -> Result<(), Error> {
    let (name, len) = (member.name.as_str(), remap.from.len() as u64);
    if len != member.len {
        return Err(Error::Length { what: "slice".into(), name: name.into(), found: len, expected: member.len });
    }
    if remap.to.is_empty() {
        return Err(Error::Empty { what: "tensor", name: name.into() });
    }
    let rows = rows_of(name, remap.from.len(), remap.width)?;
    remap.map.check(name, rows as u64, rows_of(name, remap.to.len(), remap.width)? as u64)
}
