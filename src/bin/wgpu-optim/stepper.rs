//! What steps the tensors: the CPU or a device, behind one door.

mod cpu;
mod gpu;

use std::io::Write;

use anyhow::{Result, anyhow};
use wgpu_optim::chain::control::Control;
use wgpu_optim::{Error, Rule};

use crate::adapter::Choice;
use crate::config::Config;
use crate::inputs::Member;
use crate::numbers::Numbers;

/// An optimizer with its parameters. Tensors are numbered as the members were given.
pub trait Stepper<R: Rule> {
    fn set_params(&mut self, tensor: usize, values: Numbers) -> Result<()>;
    fn set_gradient(&mut self, tensor: usize, values: Numbers) -> Result<()>;
    fn set_state(&mut self, tensor: usize, slot: &str, stored: Stored) -> Result<()>;
    fn set_step(&mut self, tensor: usize, step: u64) -> Result<()>;
    /// Puts the scaler's memory back.
    fn set_control(&mut self, control: Control) -> Result<()>;
    /// Goes on as if there had been so many steps: where schedules are.
    fn set_recorded(&mut self, steps: u64);
    /// Gives a group of the config other numbers.
    fn retune(&mut self, group: usize, settings: &R) -> Result<()>;
    /// Steps every tensor but those that have no gradient in this step.
    fn step(&mut self, absent: &[usize]) -> Result<()>;
    /// How many steps each tensor has taken, those that were skipped not counted.
    fn steps(&self) -> Result<Vec<u64>>;
    /// The scaler's memory, and how many steps were skipped.
    fn control(&self) -> Result<Control>;
    fn write_params(&self, tensor: usize, sink: &mut dyn Write) -> Result<()>;
    /// Writes a slot in its own format: of one of 8 bits, the codes.
    fn write_state(&self, tensor: usize, slot: &str, sink: &mut dyn Write) -> Result<()>;
    /// Writes the scales of a slot of 8 bits.
    fn write_scales(&self, tensor: usize, slot: &str, sink: &mut dyn Write) -> Result<()>;
}

/// A slot as a file holds it.
pub struct Stored {
    /// Values, or codes of 8 bits.
    pub bytes: Vec<u8>,
    /// The scales of blocks of codes.
    pub scales: Vec<u8>,
}

/// Builds the stepper for members that lie by parts.
///
/// # Errors
/// Where the device cannot hold them.
pub fn build<R: Rule>(choice: &Choice, config: &Config<R>, members: &[Member]) -> Result<Box<dyn Stepper<R>>> {
    Ok(match choice {
        Choice::Cpu => Box::new(cpu::Cpu::new(config, members)?),
        Choice::Gpu(adapter) => Box::new(gpu::Gpu::new(adapter, config, members)?),
    })
}

/// What to do about tensors that a device cannot hold.
pub fn advise(error: Error) -> anyhow::Error {
    let too_much = matches!(error, Error::TooLarge { .. } | Error::OutOfMemory { .. } | Error::Limits { .. });
    let error = anyhow!(error);
    if too_much { error.context("the device cannot hold this; step it with --device cpu") } else { error }
}

/// The names of tensors, for the optimizer's calls by name.
fn names<'a>(members: &'a [String], tensors: &'a [usize]) -> impl Iterator<Item = &'a str> {
    tensors.iter().map(|&tensor| members[tensor].as_str())
}
