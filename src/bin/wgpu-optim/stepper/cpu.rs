//! The CPU path.

use std::io::Write;

use anyhow::{Result, ensure};
use wgpu_optim::Rule;
use wgpu_optim::chain::control::Control;
use wgpu_optim::cpu::{self, Slice, SliceMut};
use wgpu_optim::format::halves::Half;

use super::{Stepper, Stored, names};
use crate::config::Config;
use crate::inputs::{Member, parts, together};
use crate::numbers::Numbers;

pub struct Cpu<R: Rule> {
    optimizer: cpu::Optimizer<R, f32>,
    names: Vec<String>,
    /// The config's group of each of the optimizer's.
    groups: Vec<usize>,
    params: Vec<Numbers>,
    grads: Vec<Numbers>,
}

impl<R: Rule> Cpu<R> {
    pub fn new(config: &Config<R>, members: &[Member]) -> Result<Self> {
        let mut optimizer = cpu::Optimizer::with_chain(config.chain.clone())?;
        let mut groups = Vec::new();
        for part in parts(members) {
            let (group, formats) = (part[0].group, part[0].formats.clone());
            let tensors = part.iter().map(|member| (member.name.as_str(), member.len as usize));
            let number = optimizer.add_group_with(config.groups[group].steps[0].clone(), formats, tensors)?;
            optimizer.set_schedule(number, config.groups[group].schedule.clone())?;
            groups.push(group);
        }
        together(members).into_iter().try_for_each(|(number, first)| optimizer.clip_together(number, first))?;
        let names = members.iter().map(|member| member.name.clone()).collect();
        let params = members.iter().map(|member| Numbers::none(member.formats.params)).collect();
        let grads = members.iter().map(|member| Numbers::none(member.formats.grads)).collect();
        Ok(Self { optimizer, names, groups, params, grads })
    }
}

impl<R: Rule> Stepper<R> for Cpu<R> {
    fn set_params(&mut self, tensor: usize, values: Numbers) -> Result<()> {
        self.params[tensor] = values;
        Ok(())
    }

    fn set_gradient(&mut self, tensor: usize, values: Numbers) -> Result<()> {
        self.grads[tensor] = values;
        Ok(())
    }

    fn set_state(&mut self, tensor: usize, slot: &str, stored: Stored) -> Result<()> {
        let (bytes, scales): (&mut [u8], &mut [u8]) = match self.optimizer.stored_mut(&self.names[tensor], slot)? {
            SliceMut::Full(values) => (bytemuck::cast_slice_mut(values), &mut []),
            SliceMut::F16(codes) => (bytemuck::cast_slice_mut(codes), &mut []),
            SliceMut::Bf16(codes) => (bytemuck::cast_slice_mut(codes), &mut []),
            SliceMut::Q8 { codes, scales, .. } => (codes, bytemuck::cast_slice_mut(scales)),
        };
        for (to, from) in [(bytes, stored.bytes), (scales, stored.scales)] {
            let (name, found, expected) = (&self.names[tensor], from.len(), to.len());
            ensure!(found == expected, "{slot} of {name:?} has {found} bytes, expected {expected}");
            to.copy_from_slice(&from);
        }
        Ok(())
    }

    fn set_step(&mut self, tensor: usize, step: u64) -> Result<()> {
        Ok(self.optimizer.set_step(&self.names[tensor], step)?)
    }

    fn set_control(&mut self, control: Control) -> Result<()> {
        self.optimizer.set_control(control.within(self.optimizer.chain()))?;
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
        let mut params: Vec<SliceMut<'_>> = self.params.iter_mut().map(slice_mut).collect();
        let grads: Vec<Slice<'_>> = self.grads.iter().map(slice).collect();
        self.optimizer.step_slices_parallel(&mut params, &grads)?;
        Ok(self.optimizer.thaw(names(&self.names, absent))?)
    }

    fn steps(&self) -> Result<Vec<u64>> {
        let steps = self.names.iter().map(|name| self.optimizer.step_of(name));
        Ok(steps.collect::<Result<_, _>>()?)
    }

    fn control(&self) -> Result<Control> {
        Ok(*self.optimizer.control())
    }

    fn write_params(&self, tensor: usize, sink: &mut dyn Write) -> Result<()> {
        Ok(sink.write_all(self.params[tensor].bytes())?)
    }

    fn write_state(&self, tensor: usize, slot: &str, sink: &mut dyn Write) -> Result<()> {
        let bytes: &[u8] = match self.optimizer.stored(&self.names[tensor], slot)? {
            Slice::Full(values) => bytemuck::cast_slice(values),
            Slice::F16(codes) => bytemuck::cast_slice(codes),
            Slice::Bf16(codes) => bytemuck::cast_slice(codes),
            Slice::Q8 { codes, .. } => codes,
        };
        Ok(sink.write_all(bytes)?)
    }

    fn write_scales(&self, tensor: usize, slot: &str, sink: &mut dyn Write) -> Result<()> {
        match self.optimizer.stored(&self.names[tensor], slot)? {
            Slice::Q8 { scales, .. } => Ok(sink.write_all(bytemuck::cast_slice(scales))?),
            _ => Ok(()),
        }
    }
}

fn slice(numbers: &Numbers) -> Slice<'_> {
    match numbers {
        Numbers::F32(values) => Slice::Full(values),
        Numbers::Halves(Half::F16, codes) => Slice::F16(bytemuck::cast_slice(codes)),
        Numbers::Halves(Half::Bf16, codes) => Slice::Bf16(bytemuck::cast_slice(codes)),
    }
}

fn slice_mut(numbers: &mut Numbers) -> SliceMut<'_> {
    match numbers {
        Numbers::F32(values) => SliceMut::Full(values),
        Numbers::Halves(Half::F16, codes) => SliceMut::F16(bytemuck::cast_slice_mut(codes)),
        Numbers::Halves(Half::Bf16, codes) => SliceMut::Bf16(bytemuck::cast_slice_mut(codes)),
    }
}
