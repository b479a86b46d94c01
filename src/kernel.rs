//! Pipelines: a rule's text, its lanes and its switches, compiled once for a device.

mod formats;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::Error;
use crate::chain::gate::Switches;
use crate::chain::{Chain, Norm};
use crate::format::stored::Stored;
use crate::plan::{self, Lanes, Places, WORKGROUP};
use crate::rule::{Rule, kept_slots};
use formats::Widths;

/// What a kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Steps, with nothing around the rule.
    Step,
    /// Steps, with the chain around the rule.
    Gated,
    /// Steps as `Gated` does, and takes each workgroup's part of the update.
    Watched,
    /// Adds gradients to their sums.
    Accumulate,
    /// Takes each workgroup's part of a norm.
    Measure,
    /// Makes the parts of each scope one.
    Gather,
    /// Makes the parts of an update one.
    GatherUpdates,
    /// Decides about a step.
    Control,
    /// Puts state back to where it starts.
    Reset,
    /// Moves rows to where they are to be.
    Remap(Move),
}

/// What a kernel that moves rows moves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    /// A word: an element of 32 bits, some of fewer bits, or a scale.
    Words,
    /// An element of 16 bits.
    Halves,
    /// An element of 16 bits, to one of 32.
    Widened {
        /// Whether it is f16, and not bf16.
        f16: bool,
    },
}

impl Move {
    fn files(self) -> &'static [&'static str] {
        const REMAP: &str = include_str!("../shaders/remap.wgsl");
        const LANES: &str = include_str!("../shaders/words/lanes.wgsl");
        const HALVES: &str = include_str!("../shaders/words/halves.wgsl");
        const NARROW: &str = include_str!("../shaders/format/narrow.wgsl");
        const CODES: &str = include_str!("../shaders/format/halves.wgsl");
        match self {
            Move::Words => &[REMAP, include_str!("../shaders/remap/words.wgsl")],
            Move::Halves => &[REMAP, LANES, HALVES, NARROW, CODES, include_str!("../shaders/remap/halves.wgsl")],
            Move::Widened { .. } => {
                &[REMAP, LANES, HALVES, NARROW, CODES, include_str!("../shaders/remap/widened.wgsl")]
            }
        }
    }
}

/// How a kernel that goes over tensors finds its lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Walk {
    /// Whole tensors.
    Tensors {
        /// How it finds where they lie.
        places: Places,
    },
    /// Listed rows of one tensor.
    Rows {
        /// Whether their number lies on the device.
        counted: bool,
    },
}

impl Walk {
    fn file(self) -> &'static str {
        match self {
            Walk::Tensors { .. } => include_str!("../shaders/walk.wgsl"),
            Walk::Rows { .. } => include_str!("../shaders/rows.wgsl"),
        }
    }

    fn overrides(self, stored: &Stored) -> Vec<(String, f64)> {
        let flag = |on: bool| f64::from(u8::from(on));
        match self {
            Walk::Tensors { places } => vec![
                ("HAS_PLACES".into(), flag(places == Places::Table)),
                ("HAS_START".into(), flag(places != Places::Origin)),
                ("PLACE_VECTORS".into(), Widths::of(stored).place_vectors().into()),
            ],
            Walk::Rows { counted } => vec![("HAS_COUNT".into(), flag(counted))],
        }
    }
}

impl Work {
    /// The entry point, and a part of labels.
    pub fn entry(self) -> &'static str {
        match self {
            Work::Step | Work::Gated | Work::Watched => "step",
            Work::Accumulate => "accumulate",
            Work::Measure => "measure",
            Work::Gather | Work::GatherUpdates => "gather",
            Work::Control => "control",
            Work::Reset => "reset",
            Work::Remap(_) => "remap",
        }
    }

    /// Its files, those of the walk, the rule, the lanes and of a step apart.
    fn files(self) -> &'static [&'static str] {
        const GATED: &str = include_str!("../shaders/chain/gated.wgsl");
        const NORM: &str = include_str!("../shaders/chain/norm.wgsl");
        const SUMS: &str = include_str!("../shaders/chain/sums.wgsl");
        const MOVES: &str = include_str!("../shaders/chain/moves.wgsl");
        const WEIGH: &str = include_str!("../shaders/chain/weigh.wgsl");
        const GATHER: &str = include_str!("../shaders/chain/gather.wgsl");
        match self {
            Work::Step => &[include_str!("../shaders/open.wgsl")],
            Work::Gated => &[GATED],
            Work::Watched => &[GATED, NORM, MOVES, WEIGH],
            Work::Accumulate => &[include_str!("../shaders/chain/accumulate.wgsl")],
            Work::Measure => &[NORM, SUMS, WEIGH, include_str!("../shaders/chain/measure.wgsl")],
            Work::Gather => &[NORM, SUMS, GATHER],
            Work::GatherUpdates => &[NORM, MOVES, GATHER],
            Work::Control => &[include_str!("../shaders/chain/control.wgsl")],
            Work::Reset => &[include_str!("../shaders/reset.wgsl")],
            Work::Remap(moved) => moved.files(),
        }
    }

    /// Whether it goes over tensors, lane by lane.
    fn walks(self) -> bool {
        !matches!(self, Work::Gather | Work::GatherUpdates | Work::Control | Work::Remap(_))
    }

    /// Whether it runs the rule.
    fn steps(self) -> bool {
        matches!(self, Work::Step | Work::Gated | Work::Watched)
    }

    /// Whether it reads parameters.
    fn reads_params(self) -> bool {
        self.steps() || self == Work::Reset
    }
}

/// The text of a kernel over whole tensors where everything is `f32`: whole files laid end to end.
pub fn text<R: Rule>(work: Work, lanes: Lanes) -> String {
    text_of::<R>(work, lanes, Walk::Tensors { places: Places::Table }, &Stored::default())
}

/// The text of a kernel that walks like this, for what lies like that.
pub fn text_of<R: Rule>(work: Work, lanes: Lanes, walk: Walk, stored: &Stored) -> String {
    let (mut files, widths) = (Vec::new(), Widths::of(stored));
    if work.walks() {
        files.push(walk.file());
    }
    files.extend(work.files());
    if work.walks() {
        files.extend(widths.files(work, lanes));
    }
    if work.steps() {
        files.extend(widths.step(work));
        files.push(R::WGSL);
    }
    files.join("\n")
}

/// The values of a kernel's overrides for these settings and this chain, where everything is `f32`, and for a run that finds
/// its lanes like this.
pub fn overrides<R: Rule>(work: Work, settings: &R, chain: &Chain, places: Places) -> Vec<(String, f64)> {
    let own = kept_slots(settings).into_iter().map(|slot| R::SLOTS[slot]);
    let stored = Stored::plain(own.chain(chain.slots()));
    overrides_of(work, settings, chain, Walk::Tensors { places }, &stored)
}

/// [`overrides`], for a kernel that walks like this, and what lies like that.
pub fn overrides_of<R: Rule>(
    work: Work,
    settings: &R,
    chain: &Chain,
    walk: Walk,
    stored: &Stored,
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
    let mut walks = vec![workgroup.clone()];
    walks.extend(walk.overrides(stored));
    walks.extend(formats::overrides(work, stored));
    match work {
        Work::Step | Work::Gated | Work::Watched => {
            let mut all = walks;
            all.extend(settings.switches().into_iter().map(|(name, is)| on(name, is)));
            all.extend(own);
            if work != Work::Step {
                all.extend(gate.by_name().map(|(name, is)| on(name, is)));
                all.extend(chains);
            }
            all
        }
        Work::Accumulate => walks.into_iter().chain(sums).collect(),
        Work::Measure => {
            let accumulated = on("HAS_ACCUMULATED", gate.accumulated);
            walks.into_iter().chain([inf, accumulated]).chain(sums).collect()
        }
        Work::Gather => vec![workgroup, inf],
        Work::GatherUpdates => vec![workgroup],
        Work::Control => {
            let clips = chain.limit().is_none() && chain.clip.is_some();
            vec![on("HAS_SCALER", chain.scaler.is_some()), on("HAS_CLIP", clips), inf]
        }
        Work::Reset => walks,
        Work::Remap(Move::Widened { f16 }) => vec![workgroup, on("SOURCES_F16", f16)],
        Work::Remap(_) => vec![workgroup],
    }
}

/// Storage buffers that a step binds.
const STORAGE_BUFFERS: u32 = 4;
/// Storage buffers that a decision about a step binds: one less than WebGPU grants.
const CONTROL_BUFFERS: u64 = 7;
/// Storage buffers that a step over listed rows binds: a decision binds one more to measure them, and has them.
const ROWS_BUFFERS: u64 = 5;

/// What the step needs of a device; every device opened at WebGPU's defaults has it.
///
/// # Errors
/// [`Error::Limits`] with the first limit that is too low.
pub(crate) fn limits_of(device: &wgpu::Device) -> Result<plan::Limits, Error> {
    let limits = device.limits();
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

fn require(limit: &'static str, available: u64, needed: u64) -> Result<(), Error> {
    if available < needed { Err(Error::Limits { limit, needed, available }) } else { Ok(()) }
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
    rows: OnceLock<RowLayouts>,
    pipelines: Mutex<HashMap<Key, wgpu::ComputePipeline>>,
}

/// The layouts of what decides about a step.
#[derive(Debug)]
pub(crate) struct Decision {
    pub parts: wgpu::BindGroupLayout,
    pub gather: wgpu::BindGroupLayout,
    pub control: wgpu::BindGroupLayout,
}

/// The layouts of what goes over rows.
#[derive(Debug)]
pub(crate) struct RowLayouts {
    /// A tensor, a list of its rows, and how many are listed.
    pub listed: wgpu::BindGroupLayout,
    pub remap: wgpu::BindGroupLayout,
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
    walk: Walk,
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
            Self { inner: Arc::new(Inner { device, tensors, scalars, decision, rows: OnceLock::new(), pipelines }) }
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
        require_buffers(device, CONTROL_BUFFERS)?;
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

    /// What goes over rows binds.
    ///
    /// # Errors
    /// [`Error::Limits`] where the device grants too few storage buffers.
    pub(crate) fn rows(&self) -> Result<&RowLayouts, Error> {
        let Inner { device, rows, .. } = &*self.inner;
        if let Some(rows) = rows.get() {
            return Ok(rows);
        }
        require_buffers(device, ROWS_BUFFERS)?;
        let made = guarded(device, "the layouts of rows", || RowLayouts {
            listed: layout(device, "wgpu-optim rows layout", &[WRITTEN, WRITTEN, WRITTEN, READ, UNIFORM, READ]),
            remap: layout(device, "wgpu-optim remap layout", &[READ, WRITTEN, READ, UNIFORM]),
        })?;
        Ok(rows.get_or_init(|| made))
    }

    /// What watching updates binds.
    ///
    /// # Errors
    /// [`Error::Limits`] where the device grants fewer buffers or groups than that.
    pub(crate) fn watching(&self) -> Result<&Decision, Error> {
        let limits = self.inner.device.limits();
        let dynamic = limits.max_dynamic_uniform_buffers_per_pipeline_layout;
        require("max_uniform_buffers_per_shader_stage", limits.max_uniform_buffers_per_shader_stage.into(), 3)?;
        require("max_dynamic_uniform_buffers_per_pipeline_layout", dynamic.into(), 2)?;
        require("max_bind_groups", limits.max_bind_groups.into(), 3)?;
        self.decision()
    }

    /// What a kind of kernel binds.
    fn groups(&self, work: Work, walk: Walk) -> Result<Vec<Option<&wgpu::BindGroupLayout>>, Error> {
        let Inner { tensors, scalars, .. } = &*self.inner;
        let tensors = match walk {
            Walk::Tensors { .. } => tensors,
            Walk::Rows { .. } => &self.rows()?.listed,
        };
        Ok(match work {
            Work::Step | Work::Gated | Work::Accumulate | Work::Reset => vec![Some(tensors), Some(scalars)],
            Work::Watched => vec![Some(tensors), Some(scalars), Some(&self.watching()?.parts)],
            Work::Measure => vec![Some(tensors), Some(&self.decision()?.parts)],
            Work::Gather | Work::GatherUpdates => vec![Some(&self.decision()?.gather)],
            Work::Control => vec![Some(&self.decision()?.control)],
            Work::Remap(_) => vec![Some(&self.rows()?.remap)],
        })
    }

    /// The pipeline that does this work with these settings and this chain, compiled the first time it is asked for.
    pub(crate) fn pipeline<R: Rule>(
        &self,
        work: Work,
        settings: &R,
        chain: &Chain,
        stored: &Stored,
        (lanes, walk): (Lanes, Walk),
    ) -> Result<wgpu::ComputePipeline, Error> {
        let overrides = overrides_of(work, settings, chain, walk, stored);
        let bits = overrides.iter().map(|(name, value)| (name.clone(), value.to_bits())).collect();
        let key = Key { rule: R::NAME, work, lanes, walk, widths: Widths::of(stored), overrides: bits };
        let mut pipelines = self.inner.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        let pipeline = self.compile::<R>(work, (lanes, walk), stored, &overrides)?;
        pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn compile<R: Rule>(
        &self,
        work: Work,
        (lanes, walk): (Lanes, Walk),
        stored: &Stored,
        overrides: &[(String, f64)],
    ) -> Result<wgpu::ComputePipeline, Error> {
        let device = &self.inner.device;
        let (entry, groups) = (work.entry(), self.groups(work, walk)?);
        let constants: Vec<(&str, f64)> = overrides.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        guarded(device, &format!("the kernel of {}", R::NAME), || {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(&format!("wgpu-optim {} {entry} shader", R::NAME)),
                source: wgpu::ShaderSource::Wgsl(text_of::<R>(work, lanes, walk, stored).into()),
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

fn require_buffers(device: &wgpu::Device, needed: u64) -> Result<(), Error> {
    let available = device.limits().max_storage_buffers_per_shader_stage.into();
    let limit = "max_storage_buffers_per_shader_stage";
    if available < needed { Err(Error::Limits { limit, needed, available }) } else { Ok(()) }
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
