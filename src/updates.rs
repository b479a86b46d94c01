//! What a step moves parameters by, measured by the step itself where that is watched.
//!
//! The dispatches are of another plan than those of a step that nobody watches: padding, which a quad may reach over,
//! is nobody's parameter, so tensors end where they end. Then one dispatch (`gather`) makes the parts of all workgroups
//! one.

use crate::Error;
use crate::control::{check_binding, row, storage};
use crate::format::stored::Stored;
use crate::kernel::{Walk, Work, guarded};
use crate::plan::{Lanes, Place, Places};
use crate::record::{Launches, Parts, ROW, bind, binding, constant};
use crate::roster::Roster;
use crate::rule::Rule;
use crate::tensor::Tensor;
use crate::watch::MOVED;

/// The dispatches of a step that tells what it moves.
#[derive(Debug)]
pub(crate) struct Updates {
    launches: Launches,
    /// Whether the launches are planned for where tensors are.
    placed: bool,
    /// Where the parts go, for the classes as they are.
    gathered: Option<Gathered>,
}

#[derive(Debug)]
struct Gathered {
    parts: wgpu::BindGroup,
    gather: (wgpu::ComputePipeline, wgpu::BindGroup),
    sums: wgpu::Buffer,
}

impl Updates {
    /// Nothing yet: what is needed is made when a step is about to be recorded.
    pub fn new() -> Self {
        Self { launches: Launches::watched(), placed: false, gathered: None }
    }

    /// Has the launches planned anew, since tensors are elsewhere.
    pub fn moved(&mut self) {
        (self.placed, self.gathered) = (false, None);
    }

    /// Has the launches cut anew, since tensors have other classes or groups other switches.
    pub fn reclassed(&mut self) {
        self.gathered = None;
    }

    /// The numbers of the buffers that are bound.
    pub fn buffers(&self) -> impl Iterator<Item = usize> {
        self.launches.buffers()
    }

    /// Makes what the next step dispatches, where that is not done.
    pub fn prepare<R: Rule>(
        &mut self,
        parts: &Parts<'_>,
        tensors: &[Tensor],
        places: &[(Place, Place)],
        roster: &Roster<R>,
    ) -> Result<(), Error> {
        if self.gathered.is_some() {
            return Ok(());
        }
        match self.placed {
            true => self.launches.classify(parts, roster)?,
            false => self.launches.prepare(parts, tensors, places, roster)?,
        }
        self.placed = true;
        self.gathered = Some(Gathered::of(parts, &self.launches, roster)?);
        Ok(())
    }

    /// Dispatches one step, and what makes its parts one.
    pub fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, scalars: &wgpu::BindGroup) {
        let Some(Gathered { parts, gather: (pipeline, bound), .. }) = &self.gathered else { return };
        for (step, job) in self.launches.steps().iter().zip(0..) {
            pass.set_pipeline(&step.pipeline);
            pass.set_bind_group(0, &step.tensors, &[]);
            pass.set_bind_group(1, scalars, &[step.class * ROW as u32]);
            pass.set_bind_group(2, parts, &[job * ROW as u32]);
            pass.dispatch_workgroups(step.grid.0, step.grid.1, 1);
        }
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, bound, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }

    /// What a step that was dispatched has moved parameters by: the sums of `moves.wgsl`.
    pub fn sums(&self) -> Option<&wgpu::Buffer> {
        self.gathered.as_ref().map(|gathered| &gathered.sums)
    }
}

impl Gathered {
    fn of<R: Rule>(parts: &Parts<'_>, launches: &Launches, roster: &Roster<R>) -> Result<Self, Error> {
        let (device, layouts) = (parts.device, parts.kernels.watching()?);
        let mut total = 0;
        let mut jobs = Vec::new();
        for step in launches.steps() {
            jobs.extend(row([total]));
            total += step.groups as u32;
        }
        check_binding(parts, u64::from(total) * MOVED)?;
        let jobs = constant(parts, "wgpu-optim jobs of updates", wgpu::BufferUsages::UNIFORM, &jobs)?;
        let scopes = constant(parts, "wgpu-optim scope of updates", wgpu::BufferUsages::STORAGE, &[0, total])?;
        let group = &roster.groups()[0];
        let pipeline = parts.kernels.pipeline(
            Work::GatherUpdates,
            group,
            roster.chain(),
            &Stored::default(),
            (Lanes::Quads, Walk::Tensors { places: Places::Uniform }),
        )?;
        let label = "wgpu-optim updates";
        guarded(device, label, || {
            let partials = storage(device, "wgpu-optim partials of updates", u64::from(total) * MOVED);
            let sums = storage(device, "wgpu-optim sums of updates", MOVED);
            let own = bind(device, label, &layouts.parts, [partials.as_entire_binding(), binding(&jobs, 0, 16)]);
            let all = [&partials, &scopes, &sums].map(|buffer| buffer.as_entire_binding());
            Self { parts: own, gather: (pipeline, bind(device, label, &layouts.gather, all)), sums }
        })
    }
}
