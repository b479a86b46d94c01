//! Steps of which some tensors take part by listed rows.

use super::{Launches, Parts, Slice, Step, bind, binding, ready, slices};
use crate::Error;
use crate::format::Formats;
use crate::kernel::{Walk, Work, guarded};
use crate::plan::{Listed, ListedRun, Place};
use crate::roster::{Roster, SKIP};
use crate::rows::Rows;
use crate::rule::Rule;
use crate::tensor::{BufferRange, Tensor};

/// Rows of one tensor that are to be gone over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listing<'a> {
    pub tensor: usize,
    pub rows: &'a Rows,
    pub places: (Place, Place),
    /// What is done with them.
    pub work: Work,
}

impl Launches {
    /// The dispatches of a step of every tensor but these.
    pub fn without<R: Rule>(
        &mut self,
        parts: &Parts<'_>,
        roster: &Roster<R>,
        left_out: &[usize],
    ) -> Result<Vec<Step>, Error> {
        let mut class_of = roster.class_of().to_vec();
        left_out.iter().for_each(|&tensor| class_of[tensor] = SKIP);
        let ready = ready(parts, &self.planned, |launch| self.cache.get(launch), (roster, &class_of, false))?;
        let mut steps = Vec::new();
        for (launch, runs) in self.planned.iter().zip(ready) {
            for (run, step) in runs {
                // The same tensors are likely to be left out again. What is not used goes when classes change.
                if let Some(kept) = self.cache.get_mut(launch) {
                    kept.runs.insert(run.unclassed(), step.tensors.clone());
                }
                steps.push(step);
            }
        }
        Ok(steps)
    }
}

/// The dispatches over listed rows.
pub(crate) fn listed<R: Rule>(
    parts: &Parts<'_>,
    roster: &Roster<R>,
    tensors: &[Tensor],
    listings: &[Listing<'_>],
) -> Result<Vec<Step>, Error> {
    let mut runs: Vec<(&Listing<'_>, ListedRun)> = Vec::new();
    for listing in listings {
        let formats = roster.formats(roster.members()[listing.tensor].group)?;
        let list = checked(&tensors[listing.tensor], formats, listing.rows)?;
        let own = list.runs(&parts.state.placement, listing.tensor, &listing.places, parts.limits);
        runs.extend(own.into_iter().map(|run| (listing, run)));
    }
    let words: Vec<Vec<u32>> = runs.iter().map(|(listing, run)| words(parts, listing.rows, run)).collect();
    let slices = slices(parts, "wgpu-optim rows", wgpu::BufferUsages::UNIFORM, &words)?;
    runs.iter().zip(&slices).map(|((listing, run), slice)| step(parts, roster, (listing, run), slice)).collect()
}

fn checked(tensor: &Tensor, formats: &Formats, rows: &Rows) -> Result<Listed, Error> {
    let (count, width, most) = (tensor.rows()?, tensor.row_width(formats)?, rows.list.len());
    match most.checked_mul(width) {
        Some(elements) if elements <= Listed::MOST => Ok(Listed { rows: count, width, most }),
        elements => {
            let (name, found) = (tensor.name().into(), elements.unwrap_or(u64::MAX));
            Err(Error::TooLarge { what: "listed rows", name, found, limit: Listed::MOST })
        }
    }
}

fn words(parts: &Parts<'_>, rows: &Rows, run: &ListedRun) -> Vec<u32> {
    let before = |range: &BufferRange| range.offset() % parts.limits.alignment / 4;
    let count = rows.count.as_ref().map_or(0, before);
    run.words(parts.state.placement.windows[run.window].stride, before(&rows.list), count, parts.limits).to_vec()
}

fn step<R: Rule>(
    parts: &Parts<'_>,
    roster: &Roster<R>,
    (listing, run): (&Listing<'_>, &ListedRun),
    slice: &Slice,
) -> Result<Step, Error> {
    let class = roster.class_of()[listing.tensor];
    let walk = (run.lanes, Walk::Rows { counted: listing.rows.count.is_some() });
    let (settings, stored) = (roster.settings_of(listing.tensor), roster.stored(listing.tensor));
    let pipeline = parts.kernels.pipeline(listing.work, settings, roster.chain(), &stored, walk)?;
    let tensors = bind_listed::<R>(parts, listing.rows, run, slice)?;
    Ok(Step { pipeline, tensors, class, grid: run.grid(parts.limits), groups: run.groups, walk, stored })
}

fn bind_listed<R: Rule>(
    parts: &Parts<'_>,
    rows: &Rows,
    run: &ListedRun,
    slice: &Slice,
) -> Result<wgpu::BindGroup, Error> {
    let window = &parts.state.placement.windows[run.window];
    let layout = &parts.kernels.rows()?.listed;
    let resources = [
        binding(parts.buffers.get(run.params.buffer), run.params.offset, run.params.size),
        binding(parts.buffers.get(run.grads.buffer), run.grads.offset, run.grads.size),
        binding(&parts.state.pages[window.page], window.offset, window.size()),
        aligned(parts, &rows.list),
        binding(&slice.buffer, slice.offset, slice.size),
        aligned(parts, rows.count.as_ref().unwrap_or(&rows.list)),
    ];
    guarded(parts.device, "the bind group of listed rows", || {
        bind(parts.device, &format!("wgpu-optim {} rows", R::NAME), layout, resources)
    })
}

/// A range as it can be bound: from the alignment before it on.
pub(crate) fn aligned<'a>(parts: &Parts<'_>, range: &'a BufferRange) -> wgpu::BindingResource<'a> {
    let before = range.offset() % parts.limits.alignment;
    binding(range.buffer(), range.offset() - before, range.size() + before)
}
