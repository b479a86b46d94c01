//! One step into the caller's encoder: cached bind groups, fresh scalars, few dispatches.

use std::collections::HashMap;

use crate::Error;
use crate::kernel::{Kernels, guarded};
use crate::plan::{self, Launch, Place};
use crate::rule::{Rule, Scalars, cast};
use crate::state::State;
use crate::tensor::Tensor;

/// Rebinds after which an unused bind group is let go, and with it the gradients that it holds: enough for going
/// around a few sets of buffers, and no more, for where they are fresh at every step.
const KEPT_FOR: u64 = 4;

/// A launch with all that it needs on the device.
#[derive(Clone, Debug)]
struct Ready {
    pipeline: wgpu::ComputePipeline,
    tensors: wgpu::BindGroup,
    grid: (u32, u32),
}

/// The launches of a step.
///
/// Gradients may come back to places where they were before, so bind groups are kept for some rebinds, by launch.
#[derive(Debug, Default)]
pub(crate) struct Launches {
    current: Vec<Ready>,
    cache: HashMap<Launch, (Ready, u64)>,
    generation: u64,
}

/// What launches are made ready from.
pub(crate) struct Parts<'a> {
    pub device: &'a wgpu::Device,
    pub kernels: &'a Kernels,
    pub limits: &'a plan::Limits,
    /// The buffers that spans count.
    pub buffers: &'a Buffers,
    pub state: &'a State,
    pub tensors: &'a [Tensor],
    /// Each tensor's parameters and gradient.
    pub places: &'a [(Place, Place)],
}

impl Launches {
    /// Plans the next steps, and makes what they dispatch.
    pub fn prepare<R: Rule>(&mut self, parts: &Parts<'_>, groups: &[R]) -> Result<(), Error> {
        let name = |tensor: usize| parts.tensors[tensor].name().to_string();
        let planned = plan::launches(&parts.state.placement, parts.places, parts.limits, name)?;
        let missing: Vec<&Launch> = planned.iter().filter(|launch| !self.cache.contains_key(launch)).collect();
        let tables = tables(parts, &missing)?;
        let mut fresh = Vec::with_capacity(missing.len());
        for (launch, tables) in missing.iter().zip(&tables) {
            let settings = &groups[parts.state.placement.windows[launch.window].variant];
            let pipeline = parts.kernels.pipeline(settings, launch.lanes)?;
            let tensors =
                guarded(parts.device, "the bind group of a launch", || bind_tensors(parts, launch, tables, R::NAME))?;
            fresh.push(((*launch).clone(), Ready { pipeline, tensors, grid: launch.grid(parts.limits) }));
        }
        self.generation += 1;
        self.cache.extend(fresh.into_iter().map(|(launch, ready)| (launch, (ready, 0))));
        self.current.clear();
        for launch in planned {
            if let Some((ready, used)) = self.cache.get_mut(&launch) {
                *used = self.generation;
                self.current.push(ready.clone());
            }
        }
        let oldest = self.generation.saturating_sub(KEPT_FOR);
        self.cache.retain(|_, (_, used)| *used > oldest);
        Ok(())
    }

    /// The numbers of the buffers that a cached launch binds.
    pub fn buffers(&self) -> impl Iterator<Item = usize> {
        self.cache.keys().flat_map(|launch| [launch.params.buffer, launch.grads.buffer])
    }

    /// Dispatches of a step.
    pub fn len(&self) -> usize {
        self.current.len()
    }

    /// Dispatches one step.
    pub fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, scalars: &wgpu::BindGroup) {
        let mut set: Option<&wgpu::ComputePipeline> = None;
        for ready in &self.current {
            if set != Some(&ready.pipeline) {
                pass.set_pipeline(&ready.pipeline);
                pass.set_bind_group(1, scalars, &[]);
                set = Some(&ready.pipeline);
            }
            pass.set_bind_group(0, &ready.tensors, &[]);
            pass.dispatch_workgroups(ready.grid.0, ready.grid.1, 1);
        }
    }
}

fn bind_tensors(parts: &Parts<'_>, launch: &Launch, tables: &Tables, rule: &str) -> wgpu::BindGroup {
    let window = &parts.state.placement.windows[launch.window];
    let caller = |span: &plan::Span| binding(parts.buffers.get(span.buffer), span.offset, span.size);
    let resources = [
        caller(&launch.params),
        caller(&launch.grads),
        binding(&parts.state.pages[window.page], window.offset, window.size()),
        binding(&tables.buffer, tables.offset, tables.size),
    ];
    bind(parts.device, &format!("wgpu-optim {rule} tensors"), parts.kernels.tensors_layout(), resources)
}

fn binding(buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BindingResource<'_> {
    let size = std::num::NonZeroU64::new(size);
    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
}

/// A bind group of `resources` at bindings 0, 1, …
fn bind<const N: usize>(
    device: &wgpu::Device,
    label: &str,
    layout: &wgpu::BindGroupLayout,
    resources: [wgpu::BindingResource<'_>; N],
) -> wgpu::BindGroup {
    let mut binding = 0..;
    let entries = resources
        .map(|resource| wgpu::BindGroupEntry { binding: binding.next().unwrap_or_default(), resource });
    device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some(label), layout, entries: &entries })
}

/// Where one launch's tables lie.
struct Tables {
    buffer: wgpu::Buffer,
    offset: u64,
    size: u64,
}

/// Bytes of tables that share a buffer: few buffers for many launches, none near any device's limit.
const TABLES: usize = 1 << 20;

/// The tables of each launch, in as few buffers as they fit.
fn tables(parts: &Parts<'_>, launches: &[&Launch]) -> Result<Vec<Tables>, Error> {
    let most = (parts.limits.binding.min(parts.limits.buffer) as usize).min(TABLES) / 4;
    let alignment = (parts.limits.alignment / 4) as usize;
    let mut tables: Vec<Tables> = Vec::with_capacity(launches.len());
    let mut words: Vec<u32> = Vec::new();
    let mut waiting = Vec::new();
    for launch in launches {
        let own = launch.tables(&parts.state.placement.windows[launch.window], parts.limits);
        let start = words.len().next_multiple_of(alignment);
        if !words.is_empty() && start + own.len() > most {
            tables.extend(written(parts, &mut words, &mut waiting)?);
        }
        words.resize(words.len().next_multiple_of(alignment), 0);
        waiting.push((words.len() as u64 * 4, own.len() as u64 * 4));
        words.extend(own);
    }
    tables.extend(written(parts, &mut words, &mut waiting)?);
    Ok(tables)
}

/// Empties what waits into one buffer.
fn written(parts: &Parts<'_>, words: &mut Vec<u32>, waiting: &mut Vec<(u64, u64)>) -> Result<Vec<Tables>, Error> {
    let buffer = constant(parts.device, parts.limits, "wgpu-optim tables", words)?;
    words.clear();
    Ok(waiting.drain(..).map(|(offset, size)| Tables { buffer: buffer.clone(), offset, size }).collect())
}

/// A storage buffer that is written once, now.
pub(crate) fn constant(
    device: &wgpu::Device,
    limits: &plan::Limits,
    label: &str,
    words: &[u32],
) -> Result<wgpu::Buffer, Error> {
    check_size(limits, words)?;
    let (buffer, mapped) = guarded(device, label, || filled(device, label, words))?;
    mapped.map_err(|error| unmapped(label, &error))?;
    Ok(buffer)
}

/// Refuses words that no storage buffer of the device can hold.
fn check_size(limits: &plan::Limits, words: &[u32]) -> Result<(), Error> {
    let needed = size_of_val(words) as u64;
    let sizes = [("max_storage_buffer_binding_size", limits.binding), ("max_buffer_size", limits.buffer)];
    match sizes.into_iter().find(|(_, available)| *available < needed) {
        Some((limit, available)) => Err(Error::Limits { limit, needed, available }),
        None => Ok(()),
    }
}

/// A new storage buffer with these words in it, if wgpu had the memory; the caller guards it.
fn filled(device: &wgpu::Device, label: &str, words: &[u32]) -> (wgpu::Buffer, Result<(), wgpu::MapRangeError>) {
    let bytes: &[u8] = bytemuck::cast_slice(words);
    let (size, usage) = ((bytes.len() as u64).max(4), wgpu::BufferUsages::STORAGE);
    let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: true };
    let buffer = device.create_buffer(&descriptor);
    let mapped = buffer.get_mapped_range_mut(..).map(|mut view| view.slice(..bytes.len()).copy_from_slice(bytes));
    buffer.unmap();
    (buffer, mapped)
}

fn unmapped(doing: &str, error: &wgpu::MapRangeError) -> Error {
    Error::OutOfMemory { doing: doing.into(), message: error.to_string() }
}

/// The bind group of one step: its scalars, and each tensor's class.
///
/// Buffer and bind group are guarded together, since error scopes are a good part of what a step costs the host.
pub(crate) fn bind_scalars<R: Rule>(
    device: &wgpu::Device,
    kernels: &Kernels,
    limits: &plan::Limits,
    hypers: &[R::Hyper<f64>],
    classes: &wgpu::Buffer,
) -> Result<wgpu::BindGroup, Error> {
    let label = "wgpu-optim scalars";
    let mut words: Vec<u32> = Vec::new();
    for hyper in hypers {
        let hyper: R::Hyper<f32> = cast(hyper);
        words.extend(hyper.fields().into_iter().map(f32::to_bits));
    }
    check_size(limits, &words)?;
    let (scalars, mapped) = guarded(device, label, || {
        let (scalars, mapped) = filled(device, label, &words);
        let resources = [scalars.as_entire_binding(), classes.as_entire_binding()];
        (bind(device, label, kernels.scalars_layout(), resources), mapped)
    })?;
    mapped.map_err(|error| unmapped(label, &error))?;
    Ok(scalars)
}

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
