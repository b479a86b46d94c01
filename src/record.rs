//! One step into the caller's encoder: cached bind groups, fresh scalars, few dispatches.

mod listed;
mod remap;

use std::collections::HashMap;

use crate::Error;
use crate::chain::gate::Gate;
use crate::format::stored::Stored;
use crate::kernel::{Kernels, Walk, Work, guarded};
use crate::memory;
use crate::plan::{self, Lanes, Launch, Place, Run};
use crate::roster::{Roster, SKIP};
use crate::rule::{Rule, Scalars, cast};
use crate::state::State;
use crate::tensor::Tensor;

use listed::aligned;
pub(crate) use listed::{Listing, listed};
pub(crate) use remap::{Moves, Remapped};

/// Rebinds after which an unused bind group is let go, and with it the gradients that it holds: enough for going
/// around a few sets of buffers, and no more, for where they are fresh at every step.
const KEPT_FOR: u64 = 4;

/// One dispatch, with all that it needs on the device.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub pipeline: wgpu::ComputePipeline,
    pub tensors: wgpu::BindGroup,
    pub class: u32,
    pub grid: (u32, u32),
    /// Workgroups that have work.
    pub groups: u64,
    /// How it walks.
    pub walk: (Lanes, Walk),
    /// How what it moves lies.
    pub stored: Stored,
}

/// What is kept of a launch.
#[derive(Clone, Debug)]
struct Kept {
    table: Slice,
    /// The bind groups of its runs, whatever their class.
    runs: HashMap<Run, wgpu::BindGroup>,
    /// The last generation in which it was planned.
    used: u64,
}

/// The dispatches of a step.
///
/// Gradients may come back to places where they were before, so bind groups are kept for some rebinds, by launch.
#[derive(Debug, Default)]
pub(crate) struct Launches {
    /// Whether they take what parameters move by.
    watched: bool,
    planned: Vec<Launch>,
    steps: Vec<Step>,
    cache: HashMap<Launch, Kept>,
    generation: u64,
}

/// What launches are made ready from.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub device: &'a wgpu::Device,
    pub kernels: &'a Kernels,
    pub limits: &'a plan::Limits,
    /// The buffers that spans count.
    pub buffers: &'a Buffers,
    pub state: &'a State,
}

impl Step {
    /// Dispatches another kernel over the same lanes.
    pub fn dispatch(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        pipeline: &wgpu::ComputePipeline,
        own: &wgpu::BindGroup,
        offset: u32,
    ) {
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &self.tensors, &[]);
        pass.set_bind_group(1, own, &[offset]);
        pass.dispatch_workgroups(self.grid.0, self.grid.1, 1);
    }
}

impl Launches {
    /// None yet, of those that take what parameters move by.
    pub fn watched() -> Self {
        Self { watched: true, ..Self::default() }
    }

    /// Plans the next steps, and makes what they dispatch. `places` are each tensor's parameters and gradient.
    pub fn prepare<R: Rule>(
        &mut self,
        parts: &Parts<'_>,
        tensors: &[Tensor],
        places: &[(Place, Place)],
        roster: &Roster<R>,
    ) -> Result<(), Error> {
        let name = |tensor: usize| tensors[tensor].name().to_string();
        let planned = plan::launches(&parts.state.placement, places, parts.limits, name)?;
        let missing: Vec<&Launch> = planned.iter().filter(|launch| !self.cache.contains_key(launch)).collect();
        let own: Vec<Vec<u32>> = missing.iter().map(|launch| launch.table()).collect();
        let tables = slices(parts, "wgpu-optim tables", wgpu::BufferUsages::STORAGE, &own)?;
        let fresh = |table| Kept { table, runs: HashMap::new(), used: 0 };
        let fresh: HashMap<Launch, Kept> = missing.into_iter().cloned().zip(tables.into_iter().map(fresh)).collect();
        let kept = |launch: &Launch| fresh.get(launch).or_else(|| self.cache.get(launch));
        let ready = ready(parts, &planned, kept, (roster, roster.class_of(), self.watched))?;
        self.cache.extend(fresh);
        self.planned = planned;
        self.generation += 1;
        self.set(ready);
        let oldest = self.generation.saturating_sub(KEPT_FOR);
        self.cache.retain(|_, kept| kept.used > oldest);
        Ok(())
    }

    /// Makes what the next steps dispatch, now that tensors have other classes or groups other switches.
    pub fn classify<R: Rule>(&mut self, parts: &Parts<'_>, roster: &Roster<R>) -> Result<(), Error> {
        let ready =
            ready(parts, &self.planned, |launch| self.cache.get(launch), (roster, roster.class_of(), self.watched))?;
        self.set(ready);
        Ok(())
    }

    /// Takes what is ready, for each planned launch.
    fn set(&mut self, ready: Vec<Vec<(Run, Step)>>) {
        self.steps.clear();
        for (launch, runs) in self.planned.iter().zip(ready) {
            if let Some(kept) = self.cache.get_mut(launch) {
                kept.used = self.generation;
                kept.runs = runs.iter().map(|(run, step)| (run.unclassed(), step.tensors.clone())).collect();
            }
            self.steps.extend(runs.into_iter().map(|(_, step)| step));
        }
    }

    /// The numbers of the buffers that a cached launch binds.
    pub fn buffers(&self) -> impl Iterator<Item = usize> {
        self.cache.keys().flat_map(|launch| [launch.params.buffer, launch.grads.buffer])
    }

    /// Dispatches of a step.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

/// Dispatches these as one step.
pub(crate) fn dispatch(steps: &[Step], pass: &mut wgpu::ComputePass<'_>, scalars: &wgpu::BindGroup) {
    let (mut pipeline, mut class) = (None, None);
    for step in steps {
        if pipeline != Some(&step.pipeline) {
            pass.set_pipeline(&step.pipeline);
            pipeline = Some(&step.pipeline);
        }
        if class != Some(step.class) {
            pass.set_bind_group(1, scalars, &[step.class * ROW as u32]);
            class = Some(step.class);
        }
        pass.set_bind_group(0, &step.tensors, &[]);
        pass.dispatch_workgroups(step.grid.0, step.grid.1, 1);
    }
}

/// The runs of each launch, with bind groups that are kept or new.
fn ready<'a, R: Rule>(
    parts: &Parts<'_>,
    planned: &[Launch],
    kept: impl Fn(&Launch) -> Option<&'a Kept>,
    (roster, class_of, watched): (&Roster<R>, &[u32], bool),
) -> Result<Vec<Vec<(Run, Step)>>, Error> {
    let runs: Vec<(&Launch, Vec<Run>)> = planned.iter().map(|launch| (launch, launch.runs(class_of, SKIP))).collect();
    let known = |launch: &Launch, run: &Run| kept(launch).and_then(|kept| kept.runs.get(&run.unclassed())).cloned();
    let missing = runs.iter().flat_map(|(launch, runs)| runs.iter().map(move |run| (*launch, run)));
    let missing = missing.filter(|(launch, run)| known(launch, run).is_none());
    let words = |(launch, run): (&Launch, &Run)| {
        run.words(&parts.state.placement.windows[launch.window], launch.lanes, parts.limits).to_vec()
    };
    let words: Vec<Vec<u32>> = missing.map(words).collect();
    let mut fresh = slices(parts, "wgpu-optim runs", wgpu::BufferUsages::UNIFORM, &words)?.into_iter();
    let mut ready = Vec::with_capacity(runs.len());
    for (launch, runs) in runs {
        let mut steps = Vec::with_capacity(runs.len());
        for run in runs {
            let (settings, walk) =
                (roster.settings(run.class), (launch.lanes, Walk::Tensors { places: run.places(parts.limits) }));
            let stored = stored(launch, &run, roster);
            let work = if watched { Work::Watched } else { stepping(roster, roster.group_of(run.class)) };
            let pipeline = parts.kernels.pipeline(work, settings, roster.chain(), &stored, walk)?;
            let tensors = match known(launch, &run) {
                Some(tensors) => tensors,
                None => {
                    // There is one of each for every run that is missing.
                    let (Some(kept), Some(slice)) = (kept(launch), fresh.next()) else { continue };
                    bind_run::<R>(parts, launch, [&kept.table, &slice])?
                }
            };
            let (class, grid, groups) = (run.class, run.grid(parts.limits), run.groups());
            steps.push((run, Step { pipeline, tensors, class, grid, groups, walk, stored }));
        }
        ready.push(steps);
    }
    Ok(ready)
}

/// The kind of kernel that steps a group.
pub(crate) fn stepping<R: Rule>(roster: &Roster<R>, group: usize) -> Work {
    if roster.is_gated(group) { Work::Gated } else { Work::Step }
}

/// How what a run moves lies: all of its tensors are of one group, and their state lies in one window.
fn stored<R: Rule>(launch: &Launch, run: &Run, roster: &Roster<R>) -> Stored {
    run.segments(launch).first().map(|segment| roster.stored(segment.tensor)).unwrap_or_default()
}

fn bind_run<R: Rule>(parts: &Parts<'_>, launch: &Launch, [table, run]: [&Slice; 2]) -> Result<wgpu::BindGroup, Error> {
    let window = &parts.state.placement.windows[launch.window];
    let caller = |span: &plan::Span| binding(parts.buffers.get(span.buffer), span.offset, span.size);
    let resources = [
        caller(&launch.params),
        caller(&launch.grads),
        binding(&parts.state.pages[window.page], window.offset, window.size()),
        binding(&table.buffer, table.offset, table.size),
        binding(&run.buffer, run.offset, run.size),
    ];
    guarded(parts.device, "the bind group of a launch", || {
        bind(parts.device, &format!("wgpu-optim {} tensors", R::NAME), parts.kernels.tensors_layout(), resources)
    })
}

pub(crate) fn binding(buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BindingResource<'_> {
    let size = std::num::NonZeroU64::new(size);
    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
}

/// A bind group of `resources` at bindings 0, 1, …
pub(crate) fn bind<const N: usize>(
    device: &wgpu::Device,
    label: &str,
    layout: &wgpu::BindGroupLayout,
    resources: [wgpu::BindingResource<'_>; N],
) -> wgpu::BindGroup {
    let mut binding = 0..;
    let entries =
        resources.map(|resource| wgpu::BindGroupEntry { binding: binding.next().unwrap_or_default(), resource });
    device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some(label), layout, entries: &entries })
}

/// Part of a buffer that is written once.
#[derive(Clone, Debug)]
struct Slice {
    buffer: wgpu::Buffer,
    offset: u64,
    size: u64,
}

/// Bytes of slices that share a buffer: few buffers for many slices, none near any device's limit.
const SHARED: usize = 1 << 20;
/// As the memory plan has it.
pub(crate) const ROW: usize = memory::ROW as usize;

/// Each of these lists of words in a slice, in as few buffers as they fit.
fn slices(parts: &Parts<'_>, label: &str, usage: wgpu::BufferUsages, lists: &[Vec<u32>]) -> Result<Vec<Slice>, Error> {
    let most = (parts.limits.binding.min(parts.limits.buffer) as usize).min(SHARED) / 4;
    let alignment = (parts.limits.alignment as usize).max(ROW) / 4;
    let mut slices: Vec<Slice> = Vec::with_capacity(lists.len());
    let mut words: Vec<u32> = Vec::new();
    let mut waiting = Vec::new();
    let mut write = |words: &mut Vec<u32>, waiting: &mut Vec<(u64, u64)>| -> Result<(), Error> {
        let buffer = constant(parts, label, usage, words)?;
        words.clear();
        let slice = |(offset, size)| Slice { buffer: buffer.clone(), offset, size };
        slices.extend(waiting.drain(..).map(slice));
        Ok(())
    };
    for own in lists {
        let start = words.len().next_multiple_of(alignment);
        if !words.is_empty() && start + own.len() > most {
            write(&mut words, &mut waiting)?;
        }
        words.resize(words.len().next_multiple_of(alignment), 0);
        waiting.push((words.len() as u64 * 4, own.len() as u64 * 4));
        words.extend(own);
    }
    if !waiting.is_empty() {
        write(&mut words, &mut waiting)?;
    }
    Ok(slices)
}

/// A buffer that is written once, now.
pub(crate) fn constant(
    parts: &Parts<'_>,
    label: &str,
    usage: wgpu::BufferUsages,
    words: &[u32],
) -> Result<wgpu::Buffer, Error> {
    check_size(parts.limits, words)?;
    let (buffer, mapped) = guarded(parts.device, label, || filled(parts.device, label, usage, words))?;
    mapped.map_err(|error| unmapped(label, &error))?;
    Ok(buffer)
}

/// Refuses words that no buffer of the device can hold. What is bound of it is a table, which the plan has fitted, or
/// a row.
pub(crate) fn check_size(limits: &plan::Limits, words: &[u32]) -> Result<(), Error> {
    let (needed, available) = (size_of_val(words) as u64, limits.buffer);
    if needed > available {
        return Err(Error::Limits { limit: "max_buffer_size", needed, available });
    }
    Ok(())
}

/// A new buffer with these words in it, if wgpu had the memory; the caller guards it.
pub(crate) fn filled(
    device: &wgpu::Device,
    label: &str,
    usage: wgpu::BufferUsages,
    words: &[u32],
) -> (wgpu::Buffer, Result<(), wgpu::MapRangeError>) {
    let bytes: &[u8] = bytemuck::cast_slice(words);
    let size = (bytes.len() as u64).max(4);
    let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: true };
    let buffer = device.create_buffer(&descriptor);
    let mapped = buffer.get_mapped_range_mut(..).map(|mut view| view.slice(..bytes.len()).copy_from_slice(bytes));
    buffer.unmap();
    (buffer, mapped)
}

pub(crate) fn unmapped(doing: &str, error: &wgpu::MapRangeError) -> Error {
    Error::OutOfMemory { doing: doing.into(), message: error.to_string() }
}

/// The bind group of one step: a row of scalars for each class, behind its gate where something is around its update, or the step is `watched`.
///
/// Buffer and bind group are guarded together, since error scopes are a good part of what a step costs the host.
pub(crate) fn bind_scalars<R: Rule>(
    device: &wgpu::Device,
    kernels: &Kernels,
    limits: &plan::Limits,
    (roster, watched): (&Roster<R>, bool),
) -> Result<wgpu::BindGroup, Error> {
    let label = "wgpu-optim scalars";
    let (hypers, chain) = (roster.next_hypers(), roster.chain());
    let mut words: Vec<u32> = Vec::with_capacity(hypers.len() * ROW / 4);
    for (hyper, class) in hypers.iter().zip(roster.classes()) {
        if watched || roster.is_gated(class.group) {
            words.extend(Gate::of(chain, class.step, 1.0).words(roster.step_key(class.group)));
        }
        let hyper: R::Hyper<f32> = cast(hyper);
        words.extend(hyper.fields().into_iter().map(f32::to_bits));
        words.resize(words.len().next_multiple_of(ROW / 4), 0);
    }
    check_size(limits, &words)?;
    let size = scalars_size::<R>(watched || roster.classes().any(|class| roster.is_gated(class.group)));
    let (scalars, mapped) = guarded(device, label, || {
        let (scalars, mapped) = filled(device, label, wgpu::BufferUsages::UNIFORM, &words);
        (bind(device, label, kernels.scalars_layout(), [binding(&scalars, 0, size)]), mapped)
    })?;
    mapped.map_err(|error| unmapped(label, &error))?;
    Ok(scalars)
}

/// A row of words, as a uniform.
pub(crate) fn bind_words(
    device: &wgpu::Device,
    label: &str,
    kernels: &Kernels,
    limits: &plan::Limits,
    words: &[u32],
) -> Result<wgpu::BindGroup, Error> {
    let mut row = vec![0; ROW / 4];
    row[..words.len()].copy_from_slice(words);
    let size = (size_of_val(words) as u64).next_multiple_of(16);
    check_size(limits, &row)?;
    let (bound, mapped) = guarded(device, label, || {
        let (buffer, mapped) = filled(device, label, wgpu::BufferUsages::UNIFORM, &row);
        (bind(device, label, kernels.scalars_layout(), [binding(&buffer, 0, size)]), mapped)
    })?;
    mapped.map_err(|error| unmapped(label, &error))?;
    Ok(bound)
}

/// Bytes of a class's scalars, as a uniform, with the gate before them or without.
pub(crate) fn scalars_size<R: Rule>(gated: bool) -> u64 {
    let words = <R::Hyper<f32> as Scalars<f32>>::FIELDS.len() as u64 + if gated { GATE } else { 0 };
    (words * plan::ELEMENT).next_multiple_of(16)
}

/// Words of a gate.
const GATE: u64 = 12;

/// The caller's buffers under the numbers that plans use. A number is never given twice.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    numbers: HashMap<wgpu::Buffer, usize>,
    by_number: HashMap<usize, wgpu::Buffer>,
    next: usize,
}

impl Buffers {
    /// The number of a buffer, new or not.
    pub fn number(&mut self, buffer: &wgpu::Buffer) -> usize {
        if let Some(&number) = self.numbers.get(buffer) {
            return number;
        }
        let number = self.next;
        self.next += 1;
        self.numbers.insert(buffer.clone(), number);
        self.by_number.insert(number, buffer.clone());
        number
    }

    /// The number of a buffer that has one.
    pub fn known(&self, buffer: &wgpu::Buffer) -> Option<usize> {
        self.numbers.get(buffer).copied()
    }

    fn get(&self, number: usize) -> &wgpu::Buffer {
        &self.by_number[&number]
    }

    /// Lets go of all but these.
    pub fn retain(&mut self, used: &std::collections::HashSet<usize>) {
        self.numbers.retain(|_, number| used.contains(number));
        self.by_number.retain(|number, _| used.contains(number));
    }
}
