//! Steps over listed rows.

use std::borrow::Cow;
use std::ops::Range;

use super::{Optimizer, Slice, SliceMut, array_of, as_slices};
use crate::Error;
use crate::chain::control::Measure;
use crate::chain::{EMA, Norm};
use crate::roster::Roster;
use crate::rule::Rule;
use crate::wgsl::Real;

/// Rows of a tensor. A number that is no row is passed over.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Elements of a row: the product of all dimensions but the first.
    pub width: usize,
    /// The listed rows, the first being 0, each once: one that is listed twice is stepped twice.
    pub list: &'a [u32],
}

impl<R: Rule, T: Real> Optimizer<R, T> {
    /// [`step`](Self::step), in which each named tensor is stepped in the listed rows only, while a row that is not listed
    /// keeps its parameters and every slot, as in `torch.optim.SparseAdam`. Tensors that are not named are stepped whole. The
    /// step counts for all of them, and a clip by norm and a scaler look at listed rows alone.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::DuplicateName`], [`Error::RowWidth`], [`Error::SharedScale`] for a tensor with state of 8
    /// bits, or as [`step`](Self::step). Nothing has changed then.
    pub fn step_rows<'a>(
        &mut self,
        params: &mut [&mut [T]],
        grads: &[&[T]],
        rows: impl IntoIterator<Item = (&'a str, Rows<'a>)>,
    ) -> Result<(), Error> {
        if self.is_formatted() {
            let grads: Vec<Slice<'_, T>> = grads.iter().map(|grads| Slice::Full(grads)).collect();
            return self.step_rows_slices(&mut as_slices(params), &grads, rows);
        }
        let listed = Listed::of(&self.roster, rows)?;
        self.step_listed(params, grads, &listed)
    }

    /// [`step_rows`](Self::step_rows), over parameters and gradients in the formats of their groups.
    ///
    /// # Errors
    /// As [`step_rows`](Self::step_rows) and [`step_slices`](Self::step_slices).
    pub fn step_rows_slices<'a>(
        &mut self,
        params: &mut [SliceMut<'_, T>],
        grads: &[Slice<'_, T>],
        rows: impl IntoIterator<Item = (&'a str, Rows<'a>)>,
    ) -> Result<(), Error> {
        let listed = Listed::of(&self.roster, rows)?;
        self.step_slices_listed(params, grads, &listed)
    }

    /// [`accumulate`](Self::accumulate), in which each named tensor takes part by the listed rows only.
    ///
    /// # Errors
    /// As [`step_rows`](Self::step_rows) and [`accumulate`](Self::accumulate).
    pub fn accumulate_rows<'a>(
        &mut self,
        grads: &[&[T]],
        weight: f64,
        rows: impl IntoIterator<Item = (&'a str, Rows<'a>)>,
    ) -> Result<(), Error> {
        if self.is_formatted() {
            let grads: Vec<Slice<'_, T>> = grads.iter().map(|grads| Slice::Full(grads)).collect();
            return self.accumulate_rows_slices(&grads, weight, rows);
        }
        let listed = Listed::of(&self.roster, rows)?;
        self.accumulate_listed(grads, weight, &listed)
    }

    /// [`accumulate_rows`](Self::accumulate_rows), of gradients in the formats of their groups.
    ///
    /// # Errors
    /// As [`step_rows`](Self::step_rows) and [`accumulate_slices`](Self::accumulate_slices).
    pub fn accumulate_rows_slices<'a>(
        &mut self,
        grads: &[Slice<'_, T>],
        weight: f64,
        rows: impl IntoIterator<Item = (&'a str, Rows<'a>)>,
    ) -> Result<(), Error> {
        let listed = Listed::of(&self.roster, rows)?;
        self.accumulate_slices_listed(grads, weight, &listed)
    }

    /// Puts the listed rows' state back to where it starts: the rule's slots, `accumulated_grad`, and `ema`, which starts from
    /// the parameters. Step counts stay as they are. `params` hold one slice for each tensor, in the order in which they
    /// were added.
    ///
    /// What is kept of parameters of 16 bits besides, `master_param` or `kahan_comp`, starts again, too: the next step takes
    /// them as they then lie.
    ///
    /// # Errors
    /// As [`step_rows`](Self::step_rows).
    pub fn reset_rows<'a>(
        &mut self,
        params: &[&[T]],
        rows: impl IntoIterator<Item = (&'a str, Rows<'a>)>,
    ) -> Result<(), Error> {
        let params: Vec<Slice<'_, T>> = params.iter().map(|params| Slice::Full(params)).collect();
        self.reset_rows_slices(&params, rows)
    }

    /// [`reset_rows`](Self::reset_rows), beside parameters in the formats of their groups.
    ///
    /// # Errors
    /// As [`step_rows`](Self::step_rows); [`Error::Format`].
    pub fn reset_rows_slices<'a>(
        &mut self,
        params: &[Slice<'_, T>],
        rows: impl IntoIterator<Item = (&'a str, Rows<'a>)>,
    ) -> Result<(), Error> {
        let listed = Listed::of(&self.roster, rows)?;
        self.check_lengths("parameters", params.iter().map(Slice::len))?;
        self.check_formats("parameters", params.iter().map(Slice::format))?;
        for (tensor, ranges) in listed.0 {
            for slot in self.roster.slots(tensor) {
                let initial = T::from_f64(self.roster.initial(tensor, slot));
                let mut values = self.state.view_mut(tensor, array_of::<R>(slot));
                for range in &ranges {
                    let mut own = values.lent().within(range);
                    match slot {
                        EMA => params[tensor].within(range).decode(own.full()),
                        _ => own.encode(&vec![initial; range.len()], None),
                    }
                }
            }
        }
        Ok(())
    }
}

/// The elements of listed rows, of the tensors that have a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listed(Vec<(usize, Vec<Range<usize>>)>);

impl Listed {
    /// Finds the tensors, and the rows that there are.
    fn of<'a, R: Rule>(roster: &Roster<R>, rows: impl IntoIterator<Item = (&'a str, Rows<'a>)>) -> Result<Self, Error> {
        let mut listed = Self::default();
        for (name, Rows { width, list }) in rows {
            let tensor = roster.find(name)?;
            if listed.list(tensor).is_some() {
                return Err(Error::DuplicateName { name: name.into() });
            }
            roster.check_listed(tensor)?;
            let len = roster.members()[tensor].len as usize;
            let count = rows_of(name, len, width)?;
            let there = list.iter().map(|&row| row as usize).filter(|&row| row < count);
            listed.0.push((tensor, there.map(|row| row * width..(row + 1) * width).collect()));
        }
        Ok(listed)
    }

    fn list(&self, tensor: usize) -> Option<&[Range<usize>]> {
        self.0.iter().find(|(listed, _)| *listed == tensor).map(|(_, ranges)| ranges.as_slice())
    }

    /// The stretches of a tensor of `len` elements that are gone over: all of it, where it has no list.
    pub fn ranges(&self, tensor: usize, len: usize) -> impl Iterator<Item = Range<usize>> {
        let list = self.list(tensor);
        let whole = list.is_none().then_some(0..len);
        list.into_iter().flatten().cloned().chain(whole)
    }

    /// What is known of these elements of a gradient.
    pub fn measure<T: Real>(&self, tensor: usize, grads: Slice<'_, T>, norm: Norm) -> Measure {
        match self.list(tensor) {
            None => grads.measure(norm),
            Some(ranges) => {
                let own: Vec<T> = ranges.iter().flat_map(|range| grads.within(range).to_vec()).collect();
                Measure::of(&own, norm)
            }
        }
    }

    /// These elements of a tensor's values.
    pub fn gathered<'a, T: Real>(&self, tensor: usize, values: &'a [T]) -> Cow<'a, [T]> {
        match self.list(tensor) {
            None => Cow::Borrowed(values),
            Some(ranges) => ranges.iter().flat_map(|range| &values[range.clone()]).copied().collect(),
        }
    }
}

/// How many rows of this width a tensor has.
pub(super) fn rows_of(name: &str, len: usize, width: usize) -> Result<usize, Error> {
    match len.checked_rem(width) {
        Some(0) => Ok(len / width),
        _ => Err(Error::RowWidth { name: name.into(), width: width as u64, len: len as u64 }),
    }
}
