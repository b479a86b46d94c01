//! The CPU path.

use std::io::Write;

use anyhow::Result;
use wgpu_optim::chain::control::Control;
use wgpu_optim::{Rule, cpu};

use super::{Stepper, names};
use crate::config::Config;
use crate::inputs::Member;

pub struct Cpu<R: Rule> {
    optimizer: cpu::Optimizer<R, f32>,
    names: Vec<String>,
    params: Vec<Vec<f32>>,
    grads: Vec<Vec<f32>>,
}

impl<R: Rule> Cpu<R> {
    pub fn new(config: &Config<R>, members: &[Member]) -> Result<Self> {
        let of = |group: usize| {
            let members = members.iter().filter(move |member| member.group == group);
            members.map(|member| (member.name.as_str(), member.len as usize))
        };
        let mut optimizer = cpu::Optimizer::with_chain(config.chain.clone())?;
        for (number, group) in config.groups.iter().enumerate() {
            optimizer.add_group(group.steps[0].clone(), of(number))?;
            optimizer.set_schedule(number, group.schedule.clone())?;
        }
        let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
        let (params, grads) = (vec![Vec::new(); names.len()], vec![Vec::new(); names.len()]);
        Ok(Self { optimizer, names, params, grads })
    }
}

impl<R: Rule> Stepper<R> for Cpu<R> {
    fn set_params(&mut self, tensor: usize, values: Vec<f32>) -> Result<()> {
        self.params[tensor] = values;
        Ok(())
    }

    fn set_gradient(&mut self, tensor: usize, values: Vec<f32>) -> Result<()> {
        self.grads[tensor] = values;
        Ok(())
    }

    fn set_state(&mut self, tensor: usize, slot: &str, values: Vec<f32>) -> Result<()> {
        Ok(self.optimizer.set_state(&self.names[tensor], slot, &values)?)
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

    fn retune(&mut self, group: usize, settings: R) -> Result<()> {
        Ok(self.optimizer.retune(group, settings)?)
    }

    fn step(&mut self, absent: &[usize]) -> Result<()> {
        self.optimizer.freeze(names(&self.names, absent))?;
        let mut params: Vec<&mut [f32]> = self.params.iter_mut().map(Vec::as_mut_slice).collect();
        let grads: Vec<&[f32]> = self.grads.iter().map(Vec::as_slice).collect();
        self.optimizer.step_parallel(&mut params, &grads)?;
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
        Ok(sink.write_all(bytemuck::cast_slice(&self.params[tensor]))?)
    }

    fn write_state(&self, tensor: usize, slot: &str, sink: &mut dyn Write) -> Result<()> {
        let values = self.optimizer.state(&self.names[tensor], slot)?;
        Ok(sink.write_all(bytemuck::cast_slice(values))?)
    }
}
