//! Pipelines: a rule's text, its lanes and its switches, compiled once for a device.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::Error;
use crate::plan::{self, Lanes, WORKGROUP};
use crate::rule::{Rule, kept_slots};

/// The text of a kernel: whole files laid end to end.
pub fn text<R: Rule>(lanes: Lanes) -> String {
    let lanes = match lanes {
        Lanes::Quads => include_str!("../shaders/quads.wgsl"),
        Lanes::Words => include_str!("../shaders/words.wgsl"),
    };
    [include_str!("../shaders/step.wgsl"), lanes, R::WGSL].join("\n")
}

/// The values of a kernel's overrides for these settings, and for a run that does or does not read the table.
pub fn overrides<R: Rule>(settings: &R, places: bool) -> Vec<(String, f64)> {
    let mut overrides = vec![("WORKGROUP".to_string(), WORKGROUP as f64)];
    let switches = settings.switches().into_iter().chain([("HAS_PLACES", places)]);
    overrides.extend(switches.map(|(name, on)| (name.to_string(), f64::from(u8::from(on)))));
    for (plane, slot) in kept_slots(settings).into_iter().enumerate() {
        overrides.push((format!("PLANE_{}", R::SLOTS[slot].to_uppercase()), plane as f64));
    }
    overrides
}

/// Storage buffers that a step binds.
const STORAGE_BUFFERS: u32 = 4;

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
    layout: wgpu::PipelineLayout,
    pipelines: Mutex<HashMap<Key, wgpu::ComputePipeline>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    rule: &'static str,
    lanes: Lanes,
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
            let uniform = |has_dynamic_offset| (wgpu::BufferBindingType::Uniform, has_dynamic_offset);
            let storage = |read_only| (wgpu::BufferBindingType::Storage { read_only }, false);
            let (written, read) = (storage(false), storage(true));
            let buffers = [written, written, written, read, uniform(false)];
            let tensors = layout(device, "wgpu-optim tensors layout", &buffers);
            let scalars = layout(device, "wgpu-optim scalars layout", &[uniform(true)]);
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some("wgpu-optim step layout"),
                bind_group_layouts: &[Some(&tensors), Some(&scalars)],
                immediate_size: 0,
            });
            let (device, pipelines) = (device.clone(), Mutex::default());
            Self { inner: Arc::new(Inner { device, tensors, scalars, layout, pipelines }) }
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

    /// The pipeline that steps with these settings, compiled the first time it is asked for.
    pub(crate) fn pipeline<R: Rule>(
        &self,
        settings: &R,
        lanes: Lanes,
        places: bool,
    ) -> Result<wgpu::ComputePipeline, Error> {
        let overrides = overrides(settings, places);
        let bits = overrides.iter().map(|(name, value)| (name.clone(), value.to_bits())).collect();
        let key = Key { rule: R::NAME, lanes, overrides: bits };
        let mut pipelines = self.inner.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        let pipeline = self.compile::<R>(lanes, &overrides)?;
        pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn compile<R: Rule>(&self, lanes: Lanes, overrides: &[(String, f64)]) -> Result<wgpu::ComputePipeline, Error> {
        let device = &self.inner.device;
        let constants: Vec<(&str, f64)> = overrides.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        guarded(device, &format!("the kernel of {}", R::NAME), || {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(&format!("wgpu-optim {} shader", R::NAME)),
                source: wgpu::ShaderSource::Wgsl(text::<R>(lanes).into()),
            });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&format!("wgpu-optim {} pipeline", R::NAME)),
                layout: Some(&self.inner.layout),
                module: &module,
                entry_point: Some("step"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
        })
    }
}

/// Bindings from 0 on, each with whether its offset is dynamic.
fn layout(device: &wgpu::Device, label: &str, buffers: &[(wgpu::BufferBindingType, bool)]) -> wgpu::BindGroupLayout {
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
