//! Pipelines: a rule's text, its lanes and its switches, compiled once for a device.

mod formats;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::Error;
use crate::chain::gate::Switches;
use crate::chain::{Chain, Norm};
use crate::format::stored::Stored;
use crate::plan::{self, Lanes, WORKGROUP};
use crate::rule::{Rule, kept_slots};
use formats::Widths;

/// What a kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Steps, with nothing around the rule.
    Step,
    /// Steps, with the chain around the rule.
    Gated,
    /// Adds gradients to their sums.
    Accumulate,
    /// Takes each workgroup's part of a norm.
    Measure,
    /// Makes the parts of each scope one.
    Gather,
    /// Decides about a step.
    Control,
}

impl Work {
    /// The entry point, and a part of labels.
    pub fn entry(self) -> &'static str {
        match self {
            Work::Step | Work::Gated => "step",
            Work::Accumulate => "accumulate",
            Work::Measure => "measure",
            Work::Gather => "gather",
            Work::Control => "control",
        }
    }

    /// Its files, those of the rule, of the lanes and of a step apart.
    fn files(self) -> &'static [&'static str] {
        const WALK: &str = include_str!("../shaders/walk.wgsl");
        const NORM: &str = include_str!("../shaders/chain/norm.wgsl");
        match self {
            Work::Step => &[WALK, include_str!("../shaders/open.wgsl")],
            Work::Gated => &[WALK, include_str!("../shaders/chain/gated.wgsl")],
            Work::Accumulate => &[WALK, include_str!("../shaders/chain/accumulate.wgsl")],
            Work::Measure => &[WALK, NORM, include_str!("../shaders/chain/measure.wgsl")],
            Work::Gather => &[NORM, include_str!("../shaders/chain/gather.wgsl")],
            Work::Control => &[include_str!("../shaders/chain/control.wgsl")],
        }
    }

    /// Whether it goes over tensors, lane by lane.
    fn walks(self) -> bool {
        !matches!(self, Work::Gather | Work::Control)
    }

    /// Whether it takes a step of what it goes over.
    fn steps(self) -> bool {
        matches!(self, Work::Step | Work::Gated)
    }
}

/// The text of a kernel where everything is `f32`: whole files laid end to end.
pub fn text<R: Rule>(work: Work, lanes: Lanes) -> String {
    text_of::<R>(work, lanes, &Stored::default())
}

/// The text of a kernel for what lies like this.
pub fn text_of<R: Rule>(work: Work, lanes: Lanes, stored: &Stored) -> String {
    let (mut files, widths) = (work.files().to_vec(), Widths::of(stored));
    if work.walks() {
        files.extend(widths.files(work, lanes));
    }
    if work.steps() {
        files.extend([widths.step(), R::WGSL]);
    }
    files.join("\n")
}

/// The values of a kernel's overrides for these settings and this chain, where everything is `f32`, and for a run that does
/// or does not read the table.
pub fn overrides<R: Rule>(work: Work, settings: &R, chain: &Chain, places: bool) -> Vec<(String, f64)> {
    let own = kept_slots(settings).into_iter().map(|slot| R::SLOTS[slot]);
    overrides_of(work, settings, chain, &Stored::plain(own.chain(chain.slots())), places)
}

/// [`overrides`], for what lies like this.
pub fn overrides_of<R: Rule>(
    work: Work,
    settings: &R,
    chain: &Chain,
    stored: &Stored,
    places: bool,
) -> Vec<(String, f64)> {
    let on = |name: &str, on: bool| (name.to_string(), f64::from(u8::from(on)));
    let workgroup = ("WORKGROUP".to_string(), WORKGROUP as f64);
    let kept = kept_slots(settings).len();
    let planes = stored.planes.iter().zip(stored.places());
    let named = planes.map(|(plane, place)| (format!("PLANE_{}", plane.slot.to_uppercase()), place as f64));
    let (own, chains) = (named.clone().take(kept), named.skip(kept).take(chain.slots().len()));
    let sums = chains.clone().filter(|(name, _)| name == "PLANE_ACCUMULATED_GRAD");
    let gate = Switches::of(chain);
    let (norm, _) = chain.measured();
    let inf = on("HAS_INF", norm == Norm::Inf);
    let vectors = ("PLACE_VECTORS".to_string(), Widths::of(stored).place_vectors().into());
    let mut walk = vec![workgroup.clone(), on("HAS_PLACES", places), vectors];
    walk.extend(formats::overrides(work, stored));
    match work {
        Work::Step | Work::Gated => {
            let mut all = walk;
            all.extend(settings.switches().into_iter().map(|(name, is)| on(name, is)));
            all.extend(own);
            if work == Work::Gated {
                all.extend(gate.by_name().map(|(name, is)| on(name, is)));
                all.extend(chains);
            }
            all
        }
        Work::Accumulate => walk.into_iter().chain(sums).collect(),
        Work::Measure => {
            let accumulated = on("HAS_ACCUMULATED", gate.accumulated);
            walk.into_iter().chain([inf, accumulated]).chain(sums).collect()
        }
        Work::Gather => vec![workgroup, inf],
        Work::Control => {
            let clips = chain.limit().is_none() && chain.clip.is_some();
            vec![on("HAS_SCALER", chain.scaler.is_some()), on("HAS_CLIP", clips), inf]
        }
    }
}

/// Storage buffers that a step binds.
const STORAGE_BUFFERS: u32 = 4;
/// Storage buffers that a decision about a step binds: one less than WebGPU grants.
const CONTROL_BUFFERS: u64 = 7;

/// What the step needs of a device; every device opened at WebGPU's defaults has it.
///
/// # Errors
/// [`Error::Limits`] with the first limit that is too low.
pub(crate) fn limits_of(device: &wgpu::Device) -> Result<plan::Limits, Error> {
    let limits = device.limits();
    let require = |limit, available: u64, needed: u64| match available >= needed {
        true => Ok(()),
        false => Err(Error::Limits { limit, needed, available }),
    };
    let buffers = limits.max_storage_buffers_per_shader_stage.into();
    require("max_storage_buffers_per_shader_stage", buffers, STORAGE_BUFFERS.into())?;
    let dynamic = limits.max_dynamic_uniform_buffers_per_pipeline_layout;
    require("max_uniform_buffers_per_shader_stage", limits.max_uniform_buffers_per_shader_stage.into(), 2)?;
    require("max_dynamic_uniform_buffers_per_pipeline_layout", dynamic.into(), 1)?;
    require("max_uniform_buffer_binding_size", limits.max_uniform_buffer_binding_size, 256)?;
    require("max_bind_groups", limits.max_bind_groups.into(), 2)?;
    let invocations = limits.max_compute_invocations_per_workgroup;
    require("max_compute_invocations_per_workgroup", invocations.into(), WORKGROUP)?;
    require("max_compute_workgroup_size_x", limits.max_compute_workgroup_size_x.into(), WORKGROUP)?;
    require("max_compute_workgroups_per_dimension", limits.max_compute_workgroups_per_dimension.into(), 1)?;
    // Room for one cut piece of every slot, with the padding of an alignment.
    require("max_storage_buffer_binding_size", limits.max_storage_buffer_binding_size, 16 << 10)?;
    require("max_buffer_size", limits.max_buffer_size, 16 << 10)?;
    Ok(plan::Limits::from(&limits))
}

impl From<&wgpu::Limits> for plan::Limits {
    fn from(limits: &wgpu::Limits) -> Self {
        Self {
            binding: limits.max_storage_buffer_binding_size,
            buffer: limits.max_buffer_size,
            groups: limits.max_compute_workgroups_per_dimension.into(),
            alignment: limits.min_storage_buffer_offset_alignment.max(32).into(),
        }
    }
}

/// The limits to open a device with: WebGPU's defaults, which are enough, with the adapter's own sizes of buffer
/// and binding, which make fewer windows of large tensors.
pub fn required_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    let own = adapter.limits();
    wgpu::Limits {
        max_storage_buffer_binding_size: own.max_storage_buffer_binding_size,
        max_buffer_size: own.max_buffer_size,
        min_storage_buffer_offset_alignment: own.min_storage_buffer_offset_alignment,
        ..wgpu::Limits::default().or_worse_values_from(&own)
    }
}

/// The compiled kernels of one device, shared by its optimizers: clones are one.
#[derive(Clone, Debug)]
pub struct Kernels {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    tensors: wgpu::BindGroupLayout,
    scalars: wgpu::BindGroupLayout,
    /// Made when a chain needs them: a device may grant less than they bind.
    decision: OnceLock<Decision>,
    pipelines: Mutex<HashMap<Key, wgpu::ComputePipeline>>,
}

/// The layouts of what decides about a step.
#[derive(Debug)]
pub(crate) struct Decision {
    pub parts: wgpu::BindGroupLayout,
    pub gather: wgpu::BindGroupLayout,
    pub control: wgpu::BindGroupLayout,
}

/// A binding: its type, and whether its offset is dynamic.
type Bound = (wgpu::BufferBindingType, bool);
const WRITTEN: Bound = (wgpu::BufferBindingType::Storage { read_only: false }, false);
const READ: Bound = (wgpu::BufferBindingType::Storage { read_only: true }, false);
const UNIFORM: Bound = (wgpu::BufferBindingType::Uniform, false);
const DYNAMIC: Bound = (wgpu::BufferBindingType::Uniform, true);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    rule: &'static str,
    work: Work,
    lanes: Lanes,
    widths: Widths,
    overrides: Vec<(String, u64)>,
}

impl Kernels {
    /// No kernel yet: they are compiled when an optimizer needs them.
    ///
    /// # Errors
    /// [`Error::Limits`], [`Error::Refused`].
    pub fn new(device: &wgpu::Device) -> Result<Self, Error> {
        limits_of(device)?;
        guarded(device, "the layouts of the step", || {
            let buffers = [WRITTEN, WRITTEN, WRITTEN, READ, UNIFORM];
            let tensors = layout(device, "wgpu-optim tensors layout", &buffers);
            let scalars = layout(device, "wgpu-optim scalars layout", &[DYNAMIC]);
            let (device, decision, pipelines) = (device.clone(), OnceLock::new(), Mutex::default());
            Self { inner: Arc::new(Inner { device, tensors, scalars, decision, pipelines }) }
        })
    }

    /// Refuses a device that is not the one these kernels were compiled for.
    pub(crate) fn check_device(&self, device: &wgpu::Device) -> Result<(), Error> {
        if self.inner.device == *device {
            return Ok(());
        }
        Err(Error::Refused {
            doing: "the kernels".into(),
            message: "they were compiled for another device; make Kernels::new for this one".into(),
        })
    }

    pub(crate) fn tensors_layout(&self) -> &wgpu::BindGroupLayout {
        &self.inner.tensors
    }

    pub(crate) fn scalars_layout(&self) -> &wgpu::BindGroupLayout {
        &self.inner.scalars
    }

    /// What a decision about a step binds.
    ///
    /// # Errors
    /// [`Error::Limits`] where the device grants too few storage buffers.
    pub(crate) fn decision(&self) -> Result<&Decision, Error> {
        let Inner { device, decision, .. } = &*self.inner;
        if let Some(decision) = decision.get() {
            return Ok(decision);
        }
        let available = device.limits().max_storage_buffers_per_shader_stage.into();
        if available < CONTROL_BUFFERS {
            let (limit, needed) = ("max_storage_buffers_per_shader_stage", CONTROL_BUFFERS);
            return Err(Error::Limits { limit, needed, available });
        }
        let made = guarded(device, "the layouts of a decision", || Decision {
            parts: layout(device, "wgpu-optim parts layout", &[WRITTEN, DYNAMIC]),
            gather: layout(device, "wgpu-optim gather layout", &[READ, READ, WRITTEN]),
            control: layout(
                device,
                "wgpu-optim control layout",
                &[READ, READ, WRITTEN, WRITTEN, READ, WRITTEN, WRITTEN],
            ),
        })?;
        Ok(decision.get_or_init(|| made))
    }

    /// What a kind of kernel binds.
    fn groups(&self, work: Work) -> Result<Vec<Option<&wgpu::BindGroupLayout>>, Error> {
        let Inner { tensors, scalars, .. } = &*self.inner;
        Ok(match work {
            Work::Step | Work::Gated | Work::Accumulate => vec![Some(tensors), Some(scalars)],
            Work::Measure => vec![Some(tensors), Some(&self.decision()?.parts)],
            Work::Gather => vec![Some(&self.decision()?.gather)],
            Work::Control => vec![Some(&self.decision()?.control)],
        })
    }

    /// The pipeline that does this work with these settings and this chain, compiled the first time it is asked for.
    pub(crate) fn pipeline<R: Rule>(
        &self,
        work: Work,
        settings: &R,
        chain: &Chain,
        stored: &Stored,
        (lanes, places): (Lanes, bool),
    ) -> Result<wgpu::ComputePipeline, Error> {
        let overrides = overrides_of(work, settings, chain, stored, places);
        let bits = overrides.iter().map(|(name, value)| (name.clone(), value.to_bits())).collect();
        let key = Key { rule: R::NAME, work, lanes, widths: Widths::of(stored), overrides: bits };
        let mut pipelines = self.inner.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        let pipeline = self.compile::<R>(work, lanes, stored, &overrides)?;
        pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn compile<R: Rule>(
        &self,
        work: Work,
        lanes: Lanes,
        stored: &Stored,
        overrides: &[(String, f64)],
    ) -> Result<wgpu::ComputePipeline, Error> {
        let device = &self.inner.device;
        let (entry, groups) = (work.entry(), self.groups(work)?);
        let constants: Vec<(&str, f64)> = overrides.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        guarded(device, &format!("the kernel of {}", R::NAME), || {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(&format!("wgpu-optim {} {entry} shader", R::NAME)),
                source: wgpu::ShaderSource::Wgsl(text_of::<R>(work, lanes, stored).into()),
            });
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(&format!("wgpu-optim {entry} layout")),
                bind_group_layouts: &groups,
                immediate_size: 0,
            });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&format!("wgpu-optim {} {entry} pipeline", R::NAME)),
                layout: Some(&layout),
                module: &module,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
        })
    }
}

/// Bindings from 0 on.
fn layout(device: &wgpu::Device, label: &str, buffers: &[Bound]) -> wgpu::BindGroupLayout {
    let entry = |(binding, &(ty, has_dynamic_offset)): (usize, &_)| wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
        count: None,
    };
    let entries: Vec<_> = buffers.iter().enumerate().map(entry).collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries: &entries })
}

/// Runs `make` and returns wgpu's objection to it, if it has one.
///
/// Native devices answer at once. A browser's answer comes later and cannot be waited for here: there it goes to
/// the device's handler for uncaptured errors.
pub(crate) fn guarded<T>(device: &wgpu::Device, doing: &str, make: impl FnOnce() -> T) -> Result<T, Error> {
    let (made, objection) = attempt(device, make);
    match objection {
        None => Ok(made),
        Some(wgpu::Error::OutOfMemory { source }) => {
            Err(Error::OutOfMemory { doing: doing.into(), message: source.to_string() })
        }
        Some(_) if is_lost(device) => Err(lost(doing)),
        Some(refusal) => Err(Error::Refused { doing: doing.into(), message: refusal.to_string() }),
    }
}

fn attempt<T>(device: &wgpu::Device, make: impl FnOnce() -> T) -> (T, Option<wgpu::Error>) {
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let made = make();
    let (internal, validation, memory) = (now(internal.pop()), now(validation.pop()), now(memory.pop()));
    // What had no memory is invalid, and so is what was then made of it: the cause is told, not what followed.
    (made, [memory, internal, validation].into_iter().flatten().flatten().next())
}

/// Whether the device is gone. wgpu makes buffers on a lost device without a word, but minds when they are used.
pub(crate) fn is_lost(device: &wgpu::Device) -> bool {
    let probe = || {
        let (label, usage) = (Some("wgpu-optim probe"), wgpu::BufferUsages::COPY_SRC);
        let descriptor = wgpu::BufferDescriptor { label, size: 4, usage, mapped_at_creation: true };
        device.create_buffer(&descriptor).unmap();
    };
    attempt(device, probe).1.is_some()
}

pub(crate) fn lost(doing: &str) -> Error {
    Error::DeviceLost { doing: doing.into(), message: "its buffers are gone with it".into() }
}

/// What a future yields without being waited for.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
