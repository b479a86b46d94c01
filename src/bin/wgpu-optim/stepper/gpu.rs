//! The GPU path: every tensor in an arena, so that a step is one dispatch for each window.

use std::io::Write;

use anyhow::{Context, Result, bail};
use wgpu_optim::chain::control::Control;
use wgpu_optim::{Arena, BufferRange, Group, Kernels, Optimizer, Rule, Tensor, readback, wgpu};

use super::{Stepper, Stored, advise, names};
use crate::adapter::{Opened, open};
use crate::config::Config;
use crate::inputs::{Member, parts};
use crate::numbers::Numbers;

pub struct Gpu<R: Rule> {
    opened: Opened,
    arena: Arena,
    optimizer: Optimizer<R>,
    names: Vec<String>,
    /// The config's group of each of the optimizer's.
    groups: Vec<usize>,
    /// Bytes that the queue holds and has not sent.
    waiting: u64,
}

impl<R: Rule> Gpu<R> {
    pub fn new(adapter: &wgpu::Adapter, config: &Config<R>, members: &[Member]) -> Result<Self> {
        if let Some(member) = members.iter().find(|member| !member.formats.is_plain()) {
            bail!("{:?} is not f32 throughout, which an adapter does not step yet; step it with --device cpu", member.name);
        }
        let opened = open(adapter)?;
        let sizes = members.iter().map(|member| (member.name.as_str(), member.len));
        let arena = Arena::new(&opened.device, sizes).map_err(advise)?;
        let mut tensors = arena.tensors().into_iter();
        let groups: Vec<usize> = parts(members).map(|part| part[0].group).collect();
        let made = parts(members).map(|part| {
            let own: Vec<Tensor> = tensors.by_ref().take(part.len()).collect();
            Group::new(config.groups[part[0].group].steps[0].clone(), own)
        });
        let made: Vec<Group<R>> = made.collect();
        let kernels = Kernels::new(&opened.device)?;
        let chain = config.chain.clone();
        let mut optimizer = Optimizer::with_chain(&opened.device, &kernels, chain, made).map_err(advise)?;
        for (number, &group) in groups.iter().enumerate() {
            optimizer.set_schedule(number, config.groups[group].schedule.clone())?;
        }
        let names = members.iter().map(|member| member.name.clone()).collect();
        Ok(Self { opened, arena, optimizer, names, groups, waiting: 0 })
    }

    /// Small tensors are left to the queue and sent together: waiting for each would cost more than it moves.
    fn upload(&mut self, range: &BufferRange, values: &Numbers) -> Result<()> {
        let Opened { device, queue, .. } = &self.opened;
        let bytes = values.bytes();
        if range.size() < readback::CHUNK && bytes.len() as u64 == range.size() {
            queue.write_buffer(range.buffer(), range.offset(), bytes);
            self.waiting += range.size();
        } else {
            readback::upload_blocking(device, queue, range, bytes)?;
        }
        if self.waiting < readback::CHUNK {
            return Ok(());
        }
        self.waiting = 0;
        queue.submit([]);
        self.settle()
    }

    /// Waits for the device, and tells what went wrong on it.
    fn settle(&self) -> Result<()> {
        self.opened.device.poll(wgpu::PollType::wait_indefinitely()).context("the device does not answer")?;
        self.opened.check()
    }

    fn download(&self, range: &BufferRange, sink: &mut dyn Write) -> Result<()> {
        let Opened { device, queue, .. } = &self.opened;
        let mut written = Ok(());
        pollster::block_on(readback::download_each(device, queue, range, |chunk| {
            if written.is_ok() {
                written = sink.write_all(chunk);
            }
        }))?;
        Ok(written?)
    }
}

impl<R: Rule> Stepper<R> for Gpu<R> {
    fn set_params(&mut self, tensor: usize, values: Numbers) -> Result<()> {
        let range = self.arena.params(&self.names[tensor])?.clone();
        self.upload(&range, &values)
    }

    fn set_gradient(&mut self, tensor: usize, values: Numbers) -> Result<()> {
        let range = self.arena.grads(&self.names[tensor])?.clone();
        self.upload(&range, &values)
    }

    fn set_state(&mut self, tensor: usize, slot: &str, stored: Stored) -> Result<()> {
        let Opened { device, queue, .. } = &self.opened;
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&stored.bytes);
        Ok(self.optimizer.write_state_blocking(device, queue, &self.names[tensor], slot, &values)?)
    }

    fn set_step(&mut self, tensor: usize, step: u64) -> Result<()> {
        Ok(self.optimizer.set_step(&self.names[tensor], step)?)
    }

    fn set_control(&mut self, control: Control) -> Result<()> {
        self.optimizer.write_control(&self.opened.queue, &control);
        Ok(())
    }

    fn set_recorded(&mut self, steps: u64) {
        self.optimizer.set_recorded(steps);
    }

    fn retune(&mut self, group: usize, settings: &R) -> Result<()> {
        for (number, _) in self.groups.iter().enumerate().filter(|(_, own)| **own == group) {
            self.optimizer.retune(number, settings.clone())?;
        }
        Ok(())
    }

    fn step(&mut self, absent: &[usize]) -> Result<()> {
        self.optimizer.freeze(names(&self.names, absent))?;
        let Opened { device, queue, .. } = &self.opened;
        let label = Some("wgpu-optim apply");
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
        self.optimizer.record(device, &mut encoder).map_err(advise)?;
        queue.submit([encoder.finish()]);
        self.waiting = 0;
        self.optimizer.thaw(names(&self.names, absent))?;
        self.settle()
    }

    fn steps(&self) -> Result<Vec<u64>> {
        let Opened { device, queue, .. } = &self.opened;
        Ok(self.optimizer.read_steps_blocking(device, queue)?)
    }

    fn control(&self) -> Result<Control> {
        let Opened { device, queue, .. } = &self.opened;
        Ok(self.optimizer.read_control_blocking(device, queue)?)
    }

    fn write_params(&self, tensor: usize, sink: &mut dyn Write) -> Result<()> {
        self.download(self.arena.params(&self.names[tensor])?, sink)
    }

    fn write_state(&self, tensor: usize, slot: &str, sink: &mut dyn Write) -> Result<()> {
        for range in self.optimizer.state_ranges(&self.names[tensor], slot)? {
            self.download(&range, sink)?;
        }
        Ok(())
    }

    fn write_scales(&self, _tensor: usize, _slot: &str, _sink: &mut dyn Write) -> Result<()> {
        Ok(())
    }
}
