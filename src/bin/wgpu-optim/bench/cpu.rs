//! The step on the CPU: on all cores, or as the plain twin.

use std::ops::Range;

use anyhow::Result;
use rayon::prelude::*;
use wgpu_optim::pages::Pages;
use wgpu_optim::{Rule, cpu};

use super::data;
use super::timing::{Sample, Subject};
use super::verify::{CHUNK, Path, See, Stretch};
use super::workload::{Layout, Workload};

/// An optimizer on the CPU, with what it steps.
pub struct OnCpu<R: Rule> {
    optimizer: cpu::Optimizer<R, f32>,
    memory: Memory,
    lens: Vec<usize>,
    /// Step on one thread, as the twin does.
    plain: bool,
}

/// Where parameters and gradients lie.
enum Memory {
    Arena {
        params: Pages<f32>,
        grads: Pages<f32>,
    },
    Buffers {
        params: Vec<Pages<f32>>,
        grads: Vec<Pages<f32>>,
    },
    /// Parameters, and from `half` on gradients.
    Apart {
        both: Pages<f32>,
        half: usize,
    },
}

impl Memory {
    fn new(layout: Layout, lens: &[usize]) -> Result<Self> {
        let total = lens.iter().sum();
        let pages = |len, row| Pages::new(len, row, 0.0);
        let each = |row| lens.iter().map(|&len| pages(len, row)).collect::<Result<_, _>>();
        // Slots take the rows from 1 on.
        let grads = 8;
        Ok(match layout {
            Layout::Arena => Self::Arena { params: pages(total, 0)?, grads: pages(total, grads)? },
            Layout::Buffers => Self::Buffers { params: each(0)?, grads: each(grads)? },
            Layout::Apart => {
                let half = total.next_power_of_two();
                Self::Apart { both: pages(2 * half, 0)?, half }
            }
        })
    }

    /// Each tensor's parameters and gradient.
    fn slices(&mut self, lens: &[usize]) -> Vec<(&mut [f32], &mut [f32])> {
        let (params, grads): (Vec<_>, Vec<_>) = match self {
            Self::Arena { params, grads } => (split(params, lens), split(grads, lens)),
            Self::Buffers { params, grads } => (whole(params), whole(grads)),
            Self::Apart { both, half } => {
                let (params, grads) = both.split_at_mut(*half);
                (split(params, lens), split(grads, lens))
            }
        };
        params.into_iter().zip(grads).collect()
    }
}

fn split<'a>(mut flat: &'a mut [f32], lens: &[usize]) -> Vec<&'a mut [f32]> {
    lens.iter().map(|&len| flat.split_off_mut(..len).unwrap_or_default()).collect()
}

fn whole(pages: &mut [Pages<f32>]) -> Vec<&mut [f32]> {
    pages.iter_mut().map(|pages| &mut pages[..]).collect()
}

impl<R: Rule> OnCpu<R> {
    pub fn new(settings: &R, workload: &Workload, plain: bool) -> Result<Self> {
        let tensors = workload.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.len as usize));
        let optimizer = cpu::Optimizer::new(settings.clone(), tensors)?;
        let lens: Vec<usize> = workload.tensors.iter().map(|tensor| tensor.len as usize).collect();
        let mut memory = Memory::new(workload.layout, &lens)?;
        for (number, (params, grads)) in memory.slices(&lens).into_iter().enumerate() {
            fill(params, |range| data::params(number, range));
            fill(grads, |range| data::grads(number, range));
        }
        Ok(Self { optimizer, memory, lens, plain })
    }
}

/// On all cores: the first to write to a page waits for it.
fn fill(values: &mut [f32], with: impl Fn(Range<usize>) -> Vec<f32> + Sync) {
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(number, chunk)| {
        let start = number * CHUNK;
        chunk.copy_from_slice(&with(start..start + chunk.len()));
    });
}

impl<R: Rule> Subject for OnCpu<R> {
    fn run(&mut self, times: u32) -> Result<Sample> {
        let Self { optimizer, memory, lens, plain } = self;
        let (mut params, grads): (Vec<_>, Vec<_>) = memory.slices(lens).into_iter().unzip();
        let grads: Vec<&[f32]> = grads.into_iter().map(|grads| &*grads).collect();
        Sample::of(|| {
            for _ in 0..times {
                match plain {
                    true => optimizer.step(&mut params, &grads)?,
                    false => optimizer.step_parallel(&mut params, &grads)?,
                }
            }
            Ok(())
        })
    }
}

impl<R: Rule> Path for OnCpu<R> {
    fn show(&mut self, tensor: usize, see: &mut See<'_>) -> Result<()> {
        let Self { optimizer, memory, lens, .. } = self;
        let name = optimizer.names().nth(tensor).unwrap_or_default();
        let kept = optimizer.slots(name)?;
        let slot = |slot: &&str| match kept.contains(slot) {
            true => Ok(optimizer.state(name, slot)?),
            false => Ok(&[][..]),
        };
        let slots = R::SLOTS.iter().map(slot).collect::<Result<_>>()?;
        see(Stretch { params: memory.slices(lens)[tensor].0, slots })
    }
}
