//! Decisions on the device: the norm of the gradients, and what it makes of a step, with nothing read back.
//!
//! Two passes over the gradients' norm (`measure`, `gather`), then one workgroup (`control`) that writes each class's
//! row of scalars, from which the step reads them as it would from the host's.

use crate::Error;
use crate::format::stored::Stored;
use crate::kernel::{Walk, Work, guarded};
use crate::memory::FEWEST;
use crate::plan::{Lanes, Places};
use crate::record::{Parts, ROW, Step, bind, binding, check_size, constant, filled, scalars_size, unmapped};
use crate::roster::{Roster, SKIP};
use crate::rule::{Correction, Rule, Scalars, cast, corrections_by_field, log_beta};
use crate::tensor::BufferRange;
use crate::watch::REPORT;

/// What outlives steps, plans and classes.
#[derive(Debug)]
pub(crate) struct Memory {
    /// `scale`, `growth_tracker`, `skipped`, `recorded`.
    pub scaler: wgpu::Buffer,
    /// Steps that each tensor has taken.
    pub steps: wgpu::Buffer,
    /// Larger counts, to be copied from these before the next step.
    outgrown: Option<wgpu::Buffer>,
    pub report: wgpu::Buffer,
}

/// One dispatch of `measure`.
#[derive(Debug)]
struct Measured {
    pipeline: wgpu::ComputePipeline,
    step: Step,
    job: u32,
}

/// The decision as it is dispatched, for the classes as they are.
#[derive(Debug)]
pub(crate) struct Control {
    measured: Vec<Measured>,
    parts: wgpu::BindGroup,
    gather: (wgpu::ComputePipeline, wgpu::BindGroup, (u32, u32)),
    control: wgpu::ComputePipeline,
    sums: wgpu::Buffer,
    roll: wgpu::Buffer,
    rows: wgpu::Buffer,
    /// What the step reads.
    pub scalars: wgpu::BindGroup,
}

/// A tensor, and how many steps it is to have taken before the next one.
pub(crate) type Set = (u32, u32);

impl Memory {
    /// For so many tensors, with the scale that the chain starts from.
    pub fn new<R: Rule>(device: &wgpu::Device, roster: &Roster<R>) -> Result<Self, Error> {
        let scale = roster.chain().scaler.as_ref().map_or(1.0, |scaler| scaler.init_scale as f32);
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::UNIFORM
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        let label = "wgpu-optim scaler";
        let (scaler, mapped) = guarded(device, label, || filled(device, label, usage, &[scale.to_bits(), 0, 0, 0]))?;
        mapped.map_err(|error| unmapped(label, &error))?;
        let steps = counts(device, roster.members().len())?;
        let report = guarded(device, "the report of a step", || storage(device, "wgpu-optim report", REPORT))?;
        Ok(Self { scaler, steps, outgrown: None, report })
    }

    /// Makes room for more tensors, when so many steps have been recorded.
    pub fn grow(&mut self, device: &wgpu::Device, tensors: usize, recorded: u64) -> Result<(), Error> {
        if self.steps.size() >= tensors as u64 * 4 {
            return Ok(());
        }
        let larger = counts(device, tensors)?;
        let outgrown = std::mem::replace(&mut self.steps, larger);
        if recorded > 0 {
            // Where it has not been copied yet, what it was to be copied from has all there is.
            self.outgrown.get_or_insert(outgrown);
        }
        Ok(())
    }

    /// Where the step counts are now.
    pub fn counted(&self) -> BufferRange {
        BufferRange::from(self.outgrown.as_ref().unwrap_or(&self.steps))
    }

    /// Whether the next step must be recorded into an encoder.
    pub fn must_copy(&self) -> bool {
        self.outgrown.is_some()
    }

    pub fn copy(&self, encoder: &mut wgpu::CommandEncoder) {
        if let Some(outgrown) = &self.outgrown {
            encoder.copy_buffer_to_buffer(outgrown, 0, &self.steps, 0, outgrown.size());
        }
    }

    /// Lets go of what was copied, once the step that copied it counts.
    pub fn copied(&mut self) {
        self.outgrown = None;
    }
}

fn counts(device: &wgpu::Device, tensors: usize) -> Result<wgpu::Buffer, Error> {
    let size = tensors.max(FEWEST).next_power_of_two() as u64 * 4;
    guarded(device, "the step counts", || storage(device, "wgpu-optim steps", size))
}

/// A buffer of zeros.
pub(crate) fn storage(device: &wgpu::Device, label: &str, size: u64) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
}

impl Control {
    /// Makes ready what decides about these dispatches.
    pub fn prepare<R: Rule>(parts: &Parts<'_>, steps: &[Step], roster: &Roster<R>) -> Result<Self, Error> {
        let device = parts.device;
        let Shares { firsts, scopes, total } = Shares::of(steps, roster);
        // Where no row is listed there is no dispatch, and still something to bind.
        let partials_size = u64::from(total.max(1)) * 16;
        check_binding(parts, partials_size)?;
        let jobs: Vec<u32> = firsts.iter().chain([&0]).flat_map(|&first| row([first])).collect();
        let jobs = constant(parts, "wgpu-optim jobs", wgpu::BufferUsages::UNIFORM, &jobs)?;
        let flat: Vec<u32> = scopes.concat();
        let table = constant(parts, "wgpu-optim scopes", wgpu::BufferUsages::STORAGE, &flat)?;
        let roll: Vec<u32> =
            roster.class_of().iter().map(|&class| if class == SKIP { u32::MAX } else { class }).collect();
        let roll = constant(parts, "wgpu-optim roll", wgpu::BufferUsages::STORAGE, &roll)?;
        let (partials, sums, rows) = guarded(device, "the parts of a norm", || {
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::UNIFORM;
            let (label, size) = (Some("wgpu-optim rows"), (roster.classes().count() * ROW) as u64);
            let rows = device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false });
            let partials = storage(device, "wgpu-optim partials", partials_size);
            (partials, storage(device, "wgpu-optim sums", scopes.len() as u64 * 16), rows)
        })?;
        let (kernels, layouts) = (parts.kernels, parts.kernels.decision()?);
        let measured = measured(parts, steps, roster)?;
        let label = "wgpu-optim decision";
        let (own, gather, scalars) = guarded(device, label, || {
            let own = bind(device, label, &layouts.parts, [partials.as_entire_binding(), binding(&jobs, 0, 16)]);
            let all = [&partials, &table, &sums].map(|buffer| buffer.as_entire_binding());
            let gather = bind(device, label, &layouts.gather, all);
            let size = scalars_size::<R>(true);
            (own, gather, bind(device, label, kernels.scalars_layout(), [binding(&rows, 0, size)]))
        })?;
        let (plain, walk) = (Stored::default(), (Lanes::Quads, Walk::Tensors { places: Places::Uniform }));
        let pipeline = |work| kernels.pipeline(work, &roster.groups()[0], roster.chain(), &plain, walk);
        let width = (scopes.len() as u64).min(parts.limits.groups).max(1);
        let grid = (width as u32, (scopes.len() as u64).div_ceil(width) as u32);
        let gather = (pipeline(Work::Gather)?, gather, grid);
        let control = pipeline(Work::Control)?;
        Ok(Self { measured, parts: own, gather, control, sums, roll, rows, scalars })
    }

    /// What this step is decided from, bound.
    pub fn orders<R: Rule>(
        &self,
        parts: &Parts<'_>,
        memory: &Memory,
        roster: &Roster<R>,
        sets: &[Set],
    ) -> Result<wgpu::BindGroup, Error> {
        let words = orders(roster, sets);
        check_size(parts.limits, &words)?;
        check_binding(parts, words.len() as u64 * 4)?;
        let label = "wgpu-optim orders";
        let (device, layouts) = (parts.device, parts.kernels.decision()?);
        let (group, mapped) = guarded(device, label, || {
            let (orders, mapped) = filled(device, label, wgpu::BufferUsages::STORAGE, &words);
            let buffers = [&orders, &self.sums, &memory.scaler, &memory.steps, &self.roll, &self.rows, &memory.report];
            let all = buffers.map(|buffer| buffer.as_entire_binding());
            (bind(device, label, &layouts.control, all), mapped)
        })?;
        mapped.map_err(|error| unmapped(label, &error))?;
        Ok(group)
    }

    /// Dispatches the decision.
    pub fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, orders: &wgpu::BindGroup) {
        for Measured { pipeline, step, job } in &self.measured {
            step.dispatch(pass, pipeline, &self.parts, *job);
        }
        let (pipeline, bound, grid) = &self.gather;
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, bound, &[]);
        pass.dispatch_workgroups(grid.0, grid.1, 1);
        pass.set_pipeline(&self.control);
        pass.set_bind_group(0, orders, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }
}

/// Where the parts of a norm go, so that those of a scope lie side by side.
struct Shares {
    /// The first part of each dispatch.
    firsts: Vec<u32>,
    /// The first part of each scope, and how many it has.
    scopes: Vec<[u32; 2]>,
    total: u32,
}

impl Shares {
    fn of<R: Rule>(steps: &[Step], roster: &Roster<R>) -> Self {
        let scope_of: Vec<usize> = roster.classes().map(|class| class.scope).collect();
        let scope = |step: usize| scope_of[steps[step].class as usize];
        let mut order: Vec<usize> = (0..steps.len()).collect();
        order.sort_by_key(|&step| scope(step));
        let mut shares = Self { firsts: vec![0; order.len()], scopes: vec![[0; 2]; roster.scopes()], total: 0 };
        for step in order {
            let groups = steps[step].groups as u32;
            let [first, count] = &mut shares.scopes[scope(step)];
            if *count == 0 {
                *first = shares.total;
            }
            shares.firsts[step] = shares.total;
            *count += groups;
            shares.total += groups;
        }
        shares
    }
}

/// A measuring dispatch for each of the step.
fn measured<R: Rule>(parts: &Parts<'_>, steps: &[Step], roster: &Roster<R>) -> Result<Vec<Measured>, Error> {
    let measured = |(job, step): (usize, &Step)| {
        let (step, job) = (step.clone(), (job * ROW) as u32);
        // Where sums of gradients lie depends on what else a group keeps.
        let settings = roster.settings(step.class);
        let pipeline = parts.kernels.pipeline(Work::Measure, settings, roster.chain(), &step.stored, step.walk)?;
        Ok(Measured { pipeline, step, job })
    };
    steps.iter().enumerate().map(measured).collect()
}

/// Refuses what no binding of the device can hold.
pub(crate) fn check_binding(parts: &Parts<'_>, needed: u64) -> Result<(), Error> {
    let available = parts.limits.binding;
    let limit = "max_storage_buffer_binding_size";
    if needed > available { Err(Error::Limits { limit, needed, available }) } else { Ok(()) }
}

/// A row of a uniform buffer.
pub(crate) fn row<const N: usize>(words: [u32; N]) -> [u32; ROW / 4] {
    let mut row = [0; ROW / 4];
    row[..N].copy_from_slice(&words);
    row
}

/// `struct Orders` of `control.wgsl`.
fn orders<R: Rule>(roster: &Roster<R>, sets: &[Set]) -> Vec<u32> {
    let chain = roster.chain();
    let bits = |x: f64| (x as f32).to_bits();
    let clip = chain.clip.as_ref().filter(|_| chain.limit().is_none());
    let (max, eps) = clip.map_or((0.0, 0.0), |clip| (clip.max, clip.eps()));
    let scaler = chain.scaler.clone().unwrap_or_default();
    let (decay, every) = chain.ema.as_ref().map_or((0.0, 0), |ema| (ema.decay, ema.overwrite_every));
    let (least, most) = chain.clamp.as_ref().map_or((0.0, 0.0), |clamp| (clamp.min, clamp.max));
    let fields = roster.groups().first().map_or(0, |settings| corrections_by_field(settings).len());
    let mut words = vec![
        roster.classes().count() as u32,
        roster.members().len() as u32,
        roster.scopes() as u32,
        fields as u32,
        bits(max),
        bits(eps),
        bits(scaler.growth_factor),
        bits(scaler.backoff_factor),
        scaler.growth_interval,
        bits(decay),
        bits(1.0 - decay),
        every,
        bits(chain.limit().unwrap_or(0.0)),
        bits(least),
        bits(most),
        sets.len() as u32,
        roster.recorded() as u32,
    ];
    for class in roster.classes() {
        let settings = roster.current(class.group);
        let [first, second] = settings.betas().map(|beta| log_beta(beta).to_bits());
        let step = class.step.try_into().unwrap_or(u32::MAX);
        let chance = roster.step_key(class.group);
        words.extend([class.scope as u32, class.first as u32, step, first, second, chance]);
        words.extend(scalars(settings, chain.scaler.is_some(), class.step));
    }
    words.extend(sets.iter().flat_map(|&(tensor, step)| [tensor, step]));
    words
}

/// Each scalar and its correction: corrected by the host, in `f64`, where it knows the step count.
fn scalars<R: Rule>(settings: &R, on_device: bool, step: u64) -> Vec<u32> {
    let (values, how) = match on_device {
        true => (settings.scalars(), corrections_by_field(settings)),
        false => (settings.fold(step), Vec::new()),
    };
    let values: R::Hyper<f32> = cast(&values);
    let how = how.into_iter().chain(std::iter::repeat(Correction::None));
    values.fields().into_iter().zip(how).flat_map(|(value, how)| [value.to_bits(), how as u32]).collect()
}
