//! Rows on their way to other places, in parameters and state.

use super::{Buffers, Parts, aligned, bind, binding, constant, slices};
use crate::Error;
use crate::chain::EMA;
use crate::format::Format;
use crate::format::stored::Stored;
use crate::kernel::{Move, Walk, Work, guarded};
use crate::plan::{ELEMENT, Lanes, Limits, Place, Places, Span, Stretch, stretches};
use crate::roster::Roster;
use crate::rows::RowMap;
use crate::rule::Rule;
use crate::state::State;
use crate::tensor::BufferRange;

/// The numbers that `remap.wgsl` has for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Mapped = 0,
    Settled = 1,
    Fresh = 2,
}

/// One tensor whose rows are moved.
#[derive(Debug)]
pub(crate) struct Remapped {
    pub tensor: usize,
    pub map: RowMap,
    /// Rows that there were, and elements of each.
    pub rows: (u64, u64),
    /// Of its parameters.
    pub format: Format,
    /// Where its parameters were, and where they will be.
    pub places: [Place; 2],
}

/// All that is recorded.
#[derive(Debug)]
pub(crate) struct Moves {
    jobs: Vec<(wgpu::ComputePipeline, wgpu::BindGroup, (u32, u32))>,
    copies: Vec<Copied>,
}

/// Bytes of a page that go to another page as they are.
#[derive(Debug)]
struct Copied {
    from: (wgpu::Buffer, u64),
    to: (wgpu::Buffer, u64),
    size: u64,
}

/// One dispatch.
#[derive(Debug)]
struct Job<'a> {
    remapped: &'a Remapped,
    map: &'a BufferRange,
    from: (Stretch, wgpu::Buffer),
    to: (Stretch, wgpu::Buffer),
    which: Which,
    moved: Move,
}

impl Moves {
    /// Makes ready what moves rows from the old state to the one in `parts`, and all else from one to the other as it is.
    pub fn prepare<R: Rule>(
        parts: &Parts<'_>,
        old: &State,
        roster: &Roster<R>,
        remapped: &[Remapped],
    ) -> Result<Self, Error> {
        let maps = remapped.iter().map(|one| uploaded(parts, &one.map)).collect::<Result<Vec<_>, Error>>()?;
        let mut jobs = Vec::new();
        let mut settled = Vec::new();
        let mut fresh = Vec::new();
        for (one, map) in remapped.iter().zip(&maps) {
            let own = Paths::of(parts, old, roster, one, stages(remapped, one))?;
            jobs.extend(own.mapped.into_iter().map(|path| Job::new((one, map), Which::Mapped, path)));
            settled.extend(own.settled.into_iter().map(|path| Job::new((one, map), Which::Settled, path)));
            fresh.extend(own.fresh.into_iter().map(|path| Job::new((one, map), Which::Fresh, path)));
        }
        // Nothing is written to where rows were before all of them have been read.
        jobs.extend(settled.into_iter().chain(fresh));
        let words: Vec<Vec<u32>> = jobs.iter().map(|job| job.words(parts.limits)).collect();
        let uniforms = slices(parts, "wgpu-optim remap jobs", wgpu::BufferUsages::UNIFORM, &words)?;
        let ready = |(job, uniform): (&Job<'_>, &super::Slice)| {
            Ok((pipeline(parts, roster, job.moved)?, job.bind(parts, uniform)?, job.to.0.grid(parts.limits)))
        };
        let jobs = jobs.iter().zip(&uniforms).map(ready).collect::<Result<Vec<_>, Error>>()?;
        let left = (0..roster.members().len()).filter(|tensor| remapped.iter().all(|one| one.tensor != *tensor));
        let copies = left.flat_map(|tensor| copied(old, parts.state, tensor)).collect();
        Ok(Self { jobs, copies })
    }

    /// Records it.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        for Copied { from, to, size } in &self.copies {
            encoder.copy_buffer_to_buffer(&from.0, from.1, &to.0, to.1, *size);
        }
        let label = Some("wgpu-optim remap");
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label, timestamp_writes: None });
        for (pipeline, bound, grid) in &self.jobs {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, bound, &[]);
            pass.dispatch_workgroups(grid.0, grid.1, 1);
        }
    }
}

fn pipeline<R: Rule>(parts: &Parts<'_>, roster: &Roster<R>, moved: Move) -> Result<wgpu::ComputePipeline, Error> {
    let walk = (Lanes::Quads, Walk::Tensors { places: Places::Uniform });
    parts.kernels.pipeline(Work::Remap(moved), &roster.groups()[0], roster.chain(), &Stored::default(), walk)
}

/// Whether rows must be gathered apart first, since they go to a buffer from which others come.
fn stages(remapped: &[Remapped], one: &Remapped) -> bool {
    remapped.iter().any(|other| other.places[0].span.buffer == one.places[1].span.buffer)
}

fn uploaded(parts: &Parts<'_>, map: &RowMap) -> Result<BufferRange, Error> {
    match map {
        RowMap::Device(range) => Ok(range.clone()),
        RowMap::Host(map) => {
            let buffer = constant(parts, "wgpu-optim map", wgpu::BufferUsages::STORAGE, map.as_slice())?;
            Ok(BufferRange::from(&buffer))
        }
    }
}

/// A stretch with its buffer.
type End = (Stretch, wgpu::Buffer);

/// From where to where one tensor's rows go, by what of them goes.
#[derive(Default)]
struct Paths {
    mapped: Vec<(End, End)>,
    settled: Vec<(End, End)>,
    fresh: Vec<(End, End)>,
}

impl Paths {
    fn of<R: Rule>(
        parts: &Parts<'_>,
        old: &State,
        roster: &Roster<R>,
        one: &Remapped,
        staged: bool,
    ) -> Result<Self, Error> {
        let [from, to] = one.places.map(|place| ends(stretches(&place, parts.limits), parts.buffers));
        let mut paths = Self::default();
        if staged {
            let apart = apart(parts, &one.places[1])?;
            paths.mapped.extend(each(&from, &apart));
            paths.settled.extend(each(&apart, &to).filter(meet));
        } else {
            paths.mapped.extend(each(&from, &to));
        }
        for (before, after) in old.stretches(one.tensor).iter().zip(&parts.state.stretches(one.tensor)) {
            paths.mapped.extend(each(before, after));
        }
        let slots = roster.slots(one.tensor);
        if let Some(plane) = slots.iter().position(|&slot| slot == EMA) {
            let average = parts.state.ends(parts.state.placement.stretches_of(one.tensor, plane..plane + 1));
            paths.fresh.extend(each(&to, &average).filter(meet));
        }
        Ok(paths)
    }
}

fn ends(stretches: Vec<Stretch>, buffers: &Buffers) -> Vec<End> {
    stretches.into_iter().map(|stretch| (stretch, buffers.get(stretch.span.buffer).clone())).collect()
}

/// Room for a tensor's parameters.
fn apart(parts: &Parts<'_>, place: &Place) -> Result<Vec<End>, Error> {
    let size = place.span.size.next_multiple_of(ELEMENT);
    let buffer = guarded(parts.device, "rows apart", || {
        let (label, usage) = (Some("wgpu-optim rows apart"), wgpu::BufferUsages::STORAGE);
        parts.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
    })?;
    let place = Place { span: Span { buffer: 0, offset: 0, size: place.span.size }, ..*place };
    Ok(stretches(&place, parts.limits).into_iter().map(|stretch| (stretch, buffer.clone())).collect())
}

/// Every pair.
fn each<'a>(from: &'a [End], to: &'a [End]) -> impl Iterator<Item = (End, End)> + 'a {
    to.iter().flat_map(move |to| from.iter().map(move |from| (from.clone(), to.clone())))
}

/// Whether both have elements that are the same in the tensor.
fn meet(((from, _), (to, _)): &(End, End)) -> bool {
    from.start < to.start + to.len && to.start < from.start + from.len
}

/// A tensor's state, from page to page.
fn copied(old: &State, new: &State, tensor: usize) -> Vec<Copied> {
    let mut copies = Vec::new();
    let runs = old.stretches(tensor).into_iter().zip(new.stretches(tensor));
    for ((from, page), (to, new_page)) in runs.flat_map(|(from, to)| each(&from, &to).filter(meet).collect::<Vec<_>>())
    {
        let (first, end) = (from.start.max(to.start), (from.start + from.len).min(to.start + to.len));
        for plane in 0..to.planes {
            let (source, target) = (from.bytes(plane, first, end), to.bytes(plane, first, end));
            let (from, to) = ((page.clone(), source.offset), (new_page.clone(), target.offset));
            copies.push(Copied { from, to, size: source.size });
        }
    }
    copies
}

impl State {
    /// A tensor's state, with the pages that it lies in.
    fn stretches(&self, tensor: usize) -> Vec<Vec<End>> {
        self.placement.stretches(tensor).into_iter().map(|run| self.ends(run)).collect()
    }

    fn ends(&self, stretches: Vec<Stretch>) -> Vec<End> {
        stretches.into_iter().map(|stretch| (stretch, self.pages[stretch.span.buffer].clone())).collect()
    }
}

impl<'a> Job<'a> {
    /// By words, where rows begin and end with them at both ends.
    fn new((remapped, map): (&'a Remapped, &'a BufferRange), which: Which, (from, to): (End, End)) -> Self {
        let width = remapped.rows.1;
        let (moved, from, to) = match (from.0.in_words(width), to.0.in_words(width)) {
            _ if from.0.unit != to.0.unit => (Move::Widened { f16: remapped.format == Format::F16 }, from, to),
            (Some(source), Some(target)) => (Move::Words, (source, from.1), (target, to.1)),
            _ => (Move::Halves, from, to),
        };
        Self { remapped, map, from, to, which, moved }
    }

    /// `struct Job` of `remap.wgsl`.
    fn words(&self, limits: &Limits) -> Vec<u32> {
        let ((from, _), (to, _)) = (&self.from, &self.to);
        let (rows, width) = self.remapped.rows;
        let map = self.map.offset() % limits.alignment / ELEMENT;
        let width = width / to.elements;
        let own = [to.groups(), to.grid(limits).0.into(), to.planes, width, rows, map, self.which as u64, 0];
        [from.words(), to.words()].concat().into_iter().chain(own.map(|word| word as u32)).collect()
    }

    fn bind(&self, parts: &Parts<'_>, uniform: &super::Slice) -> Result<wgpu::BindGroup, Error> {
        let layout = &parts.kernels.rows()?.remap;
        let end = |(stretch, buffer): &End| (buffer.clone(), stretch.span);
        let (from, to) = (end(&self.from), end(&self.to));
        let resources = [
            binding(&from.0, from.1.offset, from.1.size),
            binding(&to.0, to.1.offset, to.1.size),
            aligned(parts, self.map),
            binding(&uniform.buffer, uniform.offset, uniform.size),
        ];
        guarded(parts.device, "the bind group of moved rows", || {
            bind(parts.device, "wgpu-optim remap", layout, resources)
        })
    }
}
