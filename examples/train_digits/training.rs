//! A training run: the model, its optimizer, and the loop's one step.

use std::collections::VecDeque;

use anyhow::Result;
use wgpu_optim::format::Formats;
use wgpu_optim::{Arena, Chain, Group, Kernels, Optimizer, Rule, readback, wgpu};

use super::data::Digits;
use super::halves::Halves;
use super::model::{self, Model, TENSORS};
use super::telemetry::{Sample, Telemetry};

/// Steps that the host may be ahead of the device: enough that the device is never idle, and few enough that
/// recorded steps do not pile up in memory.
const AHEAD: usize = 8;

/// What a run holds on the device.
pub struct Training<R: Rule> {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    /// Parameters and gradients as the network has them, by the names in [`TENSORS`].
    pub arena: Arena,
    /// Those that the optimizer has in 16 bits.
    pub halves: Halves,
    pub model: Model,
    pub optimizer: Optimizer<R>,
    pub telemetry: Telemetry,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
}

impl<R: Rule> Training<R> {
    /// A run at its start. A clip is a part of the chain, and formats are the group's: the loop is the same, but for what
    /// carries 16 bits to the network and back.
    pub fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        settings: R,
        chain: Chain,
        formats: &Formats,
    ) -> Result<Self> {
        let arena = model::arena(device, queue)?;
        let model = Model::new(device, queue, &Digits::load()?, &arena)?;
        let halves = Halves::new(device, queue, formats, &arena)?;
        let group = Group::new(settings, halves.tensors().to_vec()).with_formats(formats.clone());
        let optimizer = Optimizer::with_chain(device, &Kernels::new(device)?, chain, [group])?;
        let (device, queue, telemetry) = (device.clone(), queue.clone(), Telemetry::new(device));
        Ok(Self { device, queue, arena, halves, model, optimizer, telemetry, in_flight: VecDeque::new() })
    }

    /// Steps submitted so far, those before a checkpoint among them.
    pub fn steps(&self) -> Result<u64> {
        Ok(self.optimizer.step_of(TENSORS[0].0)?)
    }

    /// Submits one step, forward, backward and update in one encoder, and returns the samples that have arrived of
    /// earlier ones.
    pub fn step(&mut self) -> Result<Vec<Sample>> {
        let step = self.steps()?;
        let mut encoder = self.encoder("train_digits step");
        self.halves.record_widen(&mut encoder);
        self.model.record_forward(&mut encoder);
        self.telemetry.record(&mut encoder, &self.model.tally, step);
        self.model.record_backward(&mut encoder);
        self.halves.record_narrow(&mut encoder);
        self.optimizer.record(&self.device, &mut encoder)?;
        self.in_flight.push_back(self.queue.submit([encoder.finish()]));
        self.keep_pace()?;
        self.telemetry.arrived()
    }

    /// Waits until all that was submitted is done, and returns the samples that were still on their way.
    pub fn drain(&mut self) -> Result<Vec<Sample>> {
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        self.in_flight.clear();
        self.telemetry.arrived()
    }

    /// Loss and accuracy of the parameters as they are now.
    pub fn evaluate(&self) -> Result<Sample> {
        let mut encoder = self.encoder("train_digits evaluation");
        self.halves.record_widen(&mut encoder);
        self.model.record_forward(&mut encoder);
        self.queue.submit([encoder.finish()]);
        let tally = readback::download_blocking(&self.device, &self.queue, &(&self.model.tally).into())?;
        Ok(Sample::new(self.steps()?, bytemuck::pod_read_unaligned(&tally)))
    }

    /// Polls the device, which calls back for the losses that have landed. It waits only where the host is too far
    /// ahead, for a step that many behind: the device has the steps since then to do meanwhile.
    fn keep_pace(&mut self) -> Result<()> {
        let poll = match self.in_flight.len() > AHEAD {
            true => wgpu::PollType::Wait { submission_index: self.in_flight.pop_front(), timeout: None },
            false => wgpu::PollType::Poll,
        };
        self.device.poll(poll)?;
        Ok(())
    }

    fn encoder(&self, label: &str) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) })
    }
}
