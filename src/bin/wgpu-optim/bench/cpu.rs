//! The step on the CPU: on all cores, or as the plain twin.

use anyhow::Result;
use wgpu_optim::envelope::Snapshot;
use wgpu_optim::pages::Pages;
use wgpu_optim::{Rule, cpu};

use super::data;
use super::timing::{Sample, Subject};
use super::verify::Path;
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
            params.copy_from_slice(&data::params(number, params.len() as u64));
            grads.copy_from_slice(&data::grads(number, grads.len() as u64));
        }
        Ok(Self { optimizer, memory, lens, plain })
    }
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
    fn snapshot(&mut self, tensor: usize) -> Result<Snapshot<f32>> {
        let params = self.memory.slices(&self.lens)[tensor].0.to_vec();
        let name = self.optimizer.names().nth(tensor).unwrap_or_default();
        let kept = self.optimizer.slots(name)?;
        let slot = |slot: &&str| match kept.contains(slot) {
            true => Ok(self.optimizer.state(name, slot)?.to_vec()),
            false => Ok(Vec::new()),
        };
        Ok(Snapshot { params, slots: R::SLOTS.iter().map(slot).collect::<Result<_>>()? })
    }
}
