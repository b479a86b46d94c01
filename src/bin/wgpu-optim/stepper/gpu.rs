//! The GPU path: tensors of one format in one arena, so that a step is few dispatches.

use std::io::Write;

use anyhow::{Context, Result};
use wgpu_optim::chain::control::Control;
use wgpu_optim::format::Formats;
use wgpu_optim::{Arena, BufferRange, Error, Group, Kernels, Optimizer, Rule, Tensor, readback, wgpu};

use super::{Stepper, Stored, advise, names};
use crate::adapter::{Opened, open};
use crate::config::Config;
use crate::inputs::{Member, parts, together};
use crate::numbers::Numbers;

pub struct Gpu<R: Rule> {
    opened: Opened,
    tensors: Vec<Tensor>,
    optimizer: Optimizer<R>,
    names: Vec<String>,
    /// The config's group of each of the optimizer's.
    groups: Vec<usize>,
    /// Bytes that the queue holds and has not sent.
    waiting: u64,
}

impl<R: Rule> Gpu<R> {
    pub fn new(adapter: &wgpu::Adapter, config: &Config<R>, members: &[Member]) -> Result<Self> {
        let opened = open(adapter)?;
        let tensors = lay_out(&opened.device, members).map_err(advise)?;
        let groups: Vec<usize> = parts(members).map(|part| part[0].group).collect();
        let mut rest = tensors.iter().cloned();
        let made: Vec<Group<R>> = parts(members)
            .map(|part| {
                let own: Vec<Tensor> = rest.by_ref().take(part.len()).collect();
                let settings = config.groups[part[0].group].steps[0].clone();
                Group::new(settings, own).with_formats(part[0].formats.clone())
            })
            .collect();
        let kernels = Kernels::new(&opened.device)?;
        let chain = config.chain.clone();
        let mut optimizer = Optimizer::with_chain(&opened.device, &kernels, chain, made).map_err(advise)?;
        for (number, &group) in groups.iter().enumerate() {
            optimizer.set_schedule(number, config.groups[group].schedule.clone())?;
        }
        together(members).into_iter().try_for_each(|(number, first)| optimizer.clip_together(number, first))?;
        let names = members.iter().map(|member| member.name.clone()).collect();
        Ok(Self { opened, tensors, optimizer, names, groups, waiting: 0 })
    }

    /// Small tensors are left to the queue and sent together: waiting for each would cost more than it moves.
    fn upload(&mut self, range: &BufferRange, values: &Numbers) -> Result<()> {
        let Opened { device, queue, .. } = &self.opened;
        let bytes = values.bytes();
        if range.size() < readback::CHUNK && bytes.len() as u64 == range.size() {
            // A queue writes whole words; what follows the last element in an arena is padding.
            let mut words = bytes.to_vec();
            words.resize(bytes.len().next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT as usize), 0);
            queue.write_buffer(range.buffer(), range.offset(), &words);
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

    /// Fills ranges with bytes, in order.
    fn upload_all(&self, ranges: &[BufferRange], bytes: &[u8]) -> Result<()> {
        let Opened { device, queue, .. } = &self.opened;
        let mut rest = bytes;
        for range in ranges {
            let own = rest.split_off(..range.size() as usize).context("a slot has more bytes than its file")?;
            readback::upload_blocking(device, queue, range, own)?;
        }
        Ok(())
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

/// Lays tensors into an arena for each pair of formats, in the order given.
fn lay_out(device: &wgpu::Device, members: &[Member]) -> Result<Vec<Tensor>, Error> {
    let mut pairs: Vec<Formats> = Vec::new();
    let mut tensors = vec![None; members.len()];
    for Member { formats, .. } in members {
        let alike = |other: &Formats| (other.params, other.grads) == (formats.params, formats.grads);
        if pairs.iter().any(alike) {
            continue;
        }
        pairs.push(formats.clone());
        let own: Vec<usize> = (0..members.len()).filter(|&member| alike(&members[member].formats)).collect();
        let sizes = own.iter().map(|&member| (members[member].name.as_str(), members[member].len));
        let arena = Arena::with_formats(device, formats, sizes)?;
        own.into_iter().zip(arena.tensors()).for_each(|(member, tensor)| tensors[member] = Some(tensor));
    }
    Ok(tensors.into_iter().flatten().collect())
}

impl<R: Rule> Stepper<R> for Gpu<R> {
    fn set_params(&mut self, tensor: usize, values: Numbers) -> Result<()> {
        let range = self.tensors[tensor].params().clone();
        self.upload(&range, &values)
    }

    fn set_gradient(&mut self, tensor: usize, values: Numbers) -> Result<()> {
        let range = self.tensors[tensor].grads().clone();
        self.upload(&range, &values)
    }

    fn set_state(&mut self, tensor: usize, slot: &str, stored: Stored) -> Result<()> {
        let name = &self.names[tensor];
        self.upload_all(&self.optimizer.state_ranges(name, slot)?, &stored.bytes)?;
        self.upload_all(&self.optimizer.scale_ranges(name, slot)?, &stored.scales)
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
        self.download(self.tensors[tensor].params(), sink)
    }

    fn write_state(&self, tensor: usize, slot: &str, sink: &mut dyn Write) -> Result<()> {
        let ranges = self.optimizer.state_ranges(&self.names[tensor], slot)?;
        ranges.iter().try_for_each(|range| self.download(range, sink))
    }

    fn write_scales(&self, tensor: usize, slot: &str, sink: &mut dyn Write) -> Result<()> {
        let ranges = self.optimizer.scale_ranges(&self.names[tensor], slot)?;
        ranges.iter().try_for_each(|range| self.download(range, sink))
    }
}
