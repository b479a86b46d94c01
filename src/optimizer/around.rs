//! What a training loop does around steps: the chain, schedules, micro-batches, telemetry.

use super::Optimizer;
use crate::Error;
use crate::chain::{ACCUMULATED, Chain};
use crate::kernel::Work;
use crate::record::{Step, bind_words};
use crate::rule::Rule;
use crate::schedule::Schedule;
use crate::telemetry::{Ring, Telemetry};
use crate::updates::Updates;
use crate::watch::Watch;

impl<R: Rule> Optimizer<R> {
    /// The chain around each update.
    pub fn chain(&self) -> &Chain {
        self.roster.chain()
    }

    /// Gives the chain other numbers from the next recorded step on.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Chain`] for what would need other state, [`Error::Overlap`] where gradients would
    /// be zeroed that tensors share.
    pub fn retune_chain(&mut self, chain: Chain) -> Result<(), Error> {
        self.places(&self.tensors.clone(), &self.roster.clone(), chain.zero_grads)?;
        self.roster.retune_chain(chain)?;
        self.classified = false;
        Ok(())
    }

    /// Takes the norm of a group over another's gradients, too, where a clip is over a group: for tensors that are one
    /// group but for their formats. It is part of how an optimizer is built, so checkpoints do not hold it.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn clip_together(&mut self, group: usize, with: usize) -> Result<(), Error> {
        self.roster.clip_together(group, with)?;
        self.classified = false;
        Ok(())
    }

    /// From now on, has what became of each step that is recorded into an encoder read back when it is done. Nothing
    /// ever waits: a step that finds no reading free is not told of. What was watched before, and has not been asked
    /// for, is let go; `watch(device, 0)` ends it.
    ///
    /// Cost: a copy of 48 bytes a step; for updates see [`Watch::updates`]. Steps of [`record_in`](Self::record_in) are
    /// not watched, and cost nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] where neither updates are watched nor anything is decided on the device, so that there is
    /// nothing to tell; [`Error::Limits`] where the device grants fewer bindings than updates need;
    /// [`Error::OutOfMemory`]. What was watched before still is then.
    pub fn watch(&mut self, device: &wgpu::Device, watch: impl Into<Watch>) -> Result<(), Error> {
        self.kernels.check_device(device)?;
        let Watch { depth, updates } = watch.into();
        if depth > 0 && !updates && self.decided.is_none() {
            return Err(Error::Refused {
                doing: "telemetry".into(),
                message:
                    "the chain has no clip by norm and no scaler, so nothing is measured; watch updates, or set one"
                        .into(),
            });
        }
        let updates = depth > 0 && updates;
        if updates {
            self.kernels.watching()?;
        }
        self.ring = Ring::new(device, depth)?;
        self.updates = updates.then(Updates::new);
        Ok(())
    }

    /// What has become of steps since it was last asked, oldest first. Readings come when the device is polled, as a
    /// submit does. With feature `tracing`, each is also an event of target `wgpu_optim` with the fields of
    /// [`Telemetry`]: of level `debug`, or `info` for a step that was skipped, or `warn` for one that was taken
    /// although a number in it is not finite.
    pub fn telemetry(&mut self) -> Vec<Telemetry> {
        self.ring.take()
    }

    /// Records the addition of `weight` times the gradients to the sums that the next step takes, of every tensor that
    /// is not frozen, and advances nothing: 1 sums micro-batches up, one over their number averages them.
    ///
    /// # Errors
    /// [`Error::UnknownSlot`] where the chain does not accumulate, else as [`record`](Self::record).
    pub fn accumulate(
        &mut self,
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
        weight: f64,
    ) -> Result<(), Error> {
        self.classify(device)?;
        if !self.tensors.is_empty() {
            self.roster.plane(0, ACCUMULATED)?;
        }
        let Self { kernels, limits, roster, launches, .. } = self;
        let label = format!("wgpu-optim {} accumulate", R::NAME);
        let share = bind_words(device, &label, kernels, limits, &[(weight as f32).to_bits()])?;
        let walk = |step: &Step| {
            let settings = roster.settings(step.class);
            kernels.pipeline(Work::Accumulate, settings, roster.chain(), &step.stored, step.walk)
        };
        let pipelines = launches.steps().iter().map(walk).collect::<Result<Vec<_>, Error>>()?;
        let descriptor = wgpu::ComputePassDescriptor { label: Some(&label), timestamp_writes: None };
        let mut pass = encoder.begin_compute_pass(&descriptor);
        for (step, pipeline) in launches.steps().iter().zip(pipelines) {
            step.dispatch(&mut pass, &pipeline, &share, 0);
        }
        Ok(())
    }

    /// Where the scale of the loss lies: 4 bytes, one `f32`, at the start of a buffer with usages `STORAGE` and
    /// `UNIFORM`, for the kernel that computes the loss. Nothing without a scaler.
    pub fn scale(&self) -> Option<&wgpu::Buffer> {
        let scaled = self.roster.chain().scaler.is_some();
        self.decided.as_ref().filter(|_| scaled).map(|decided| &decided.memory.scaler)
    }

    /// Has a group's lr, and what the schedule cycles besides, follow a schedule from the next recorded step on;
    /// nothing ends it. It is evaluated on the host, in `f64`, for each recorded step: at [`recorded`](Self::recorded),
    /// so steps that a scaler leaves out count, as they do for PyTorch's `scheduler.step()`.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Schedule`], [`Error::Structure`] where it cycles a momentum that the group has
    /// not.
    pub fn set_schedule(&mut self, group: usize, schedule: Option<Schedule>) -> Result<(), Error> {
        self.roster.set_schedule(group, schedule)
    }

    /// A group's schedule.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn schedule(&self, group: usize) -> Result<Option<&Schedule>, Error> {
        self.roster.schedule(group)
    }

    /// How many steps have been recorded: where schedules are.
    pub fn recorded(&self) -> u64 {
        self.roster.recorded()
    }

    /// Goes on as if so many steps had been recorded: what a resumed schedule needs.
    pub fn set_recorded(&mut self, steps: u64) {
        self.roster.set_recorded(steps);
    }
}
