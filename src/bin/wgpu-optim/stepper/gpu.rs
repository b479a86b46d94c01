//! The GPU path: every tensor in an arena, so that a step is one dispatch for each window.

use std::io::Write;

use anyhow::{Context, Result};
use wgpu_optim::chain::control::Control;
use wgpu_optim::{Arena, BufferRange, Group, Kernels, Optimizer, Rule, readback, wgpu};

use super::{Stepper, advise, names};
use crate::adapter::{Opened, open};
use crate::config::Config;
use crate::inputs::Member;

pub struct Gpu<R: Rule> {
    opened: Opened,
    arena: Arena,
    optimizer: Optimizer<R>,
    names: Vec<String>,
    /// Bytes that the queue holds and has not sent.
    waiting: u64,
}

impl<R: Rule> Gpu<R> {
    pub fn new(adapter: &wgpu::Adapter, config: &Config<R>, members: &[Member]) -> Result<Self> {
        let opened = open(adapter)?;
        let sizes = members.iter().map(|member| (member.name.as_str(), member.len));
        let arena = Arena::new(&opened.device, sizes).map_err(advise)?;
        let mut tensors = members.iter().map(|member| member.group).zip(arena.tensors()).peekable();
        let mut groups = Vec::with_capacity(config.groups.len());
        for (number, group) in config.groups.iter().enumerate() {
            let mut own = Vec::new();
            while let Some((_, tensor)) = tensors.next_if(|(group, _)| *group == number) {
                own.push(tensor);
            }
            groups.push(Group::new(group.steps[0].clone(), own));
        }
        let kernels = Kernels::new(&opened.device)?;
        let chain = config.chain.clone();
        let mut optimizer = Optimizer::with_chain(&opened.device, &kernels, chain, groups).map_err(advise)?;
        for (number, group) in config.groups.iter().enumerate() {
            optimizer.set_schedule(number, group.schedule.clone())?;
        }
        let names = members.iter().map(|member| member.name.clone()).collect();
        Ok(Self { opened, arena, optimizer, names, waiting: 0 })
    }

    /// Small tensors are left to the queue and sent together: waiting for each would cost more than it moves.
    fn upload(&mut self, range: &BufferRange, values: &[f32]) -> Result<()> {
        let Opened { device, queue, .. } = &self.opened;
        let bytes: &[u8] = bytemuck::cast_slice(values);
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
    fn set_params(&mut self, tensor: usize, values: Vec<f32>) -> Result<()> {
        let range = self.arena.params(&self.names[tensor])?.clone();
        self.upload(&range, &values)
    }

    fn set_gradient(&mut self, tensor: usize, values: Vec<f32>) -> Result<()> {
        let range = self.arena.grads(&self.names[tensor])?.clone();
        self.upload(&range, &values)
    }

    fn set_state(&mut self, tensor: usize, slot: &str, values: Vec<f32>) -> Result<()> {
        let Opened { device, queue, .. } = &self.opened;
        Ok(self.optimizer.write_state_blocking(device, queue, &self.names[tensor], slot, &values)?)
    }

    fn set_step(&mut self, tensor: usize, step: u64) -> Result<()> {
        Ok(self.optimizer.set_step(&self.names[tensor], step)?)
    }

    fn set_control(&mut self, control: Control) -> Result<()> {
        let control = control.within(self.optimizer.chain());
        self.optimizer.write_control(&self.opened.queue, &control)?;
        Ok(())
    }

    fn set_recorded(&mut self, steps: u64) {
        self.optimizer.set_recorded(steps);
    }

    fn retune(&mut self, group: usize, settings: R) -> Result<()> {
        Ok(self.optimizer.retune(group, settings)?)
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
}
