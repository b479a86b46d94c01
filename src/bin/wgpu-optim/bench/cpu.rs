//! The step on the CPU: on all cores, or as the plain twin.

use std::borrow::Cow;
use std::ops::Range;

use anyhow::Result;
use bytemuck::Pod;
use half::bf16;
use rayon::prelude::*;
use wgpu_optim::cpu::{self, Slice, SliceMut};
use wgpu_optim::format::Formats;
use wgpu_optim::pages::Pages;
use wgpu_optim::{Chain, Error, Rule};

use super::data;
use super::timing::{Sample, Subject};
use super::verify::{CHUNK, Path, See, Stretch};
use super::workload::{Layout, Workload};

/// An optimizer on the CPU, with what it steps.
pub struct OnCpu<R: Rule, N: Number = f32> {
    optimizer: cpu::Optimizer<R, f32>,
    memory: Memory<N>,
    lens: Vec<usize>,
    /// Step on one thread, as the twin does.
    plain: bool,
}

/// What parameters and gradients are made of.
pub trait Number: Pod + PartialEq + Send + Sync {
    fn of(values: Vec<f32>) -> Vec<Self>;
    fn shown(values: &[Self]) -> Cow<'_, [f32]>;
    /// A step, on one thread where it is `plain`.
    ///
    /// # Errors
    /// Those of the optimizer.
    fn step<R: Rule>(
        optimizer: &mut cpu::Optimizer<R, f32>,
        params: &mut [&mut [Self]],
        grads: &[&[Self]],
        plain: bool,
    ) -> Result<(), Error>;
}

impl Number for f32 {
    fn of(values: Vec<f32>) -> Vec<Self> {
        values
    }

    fn shown(values: &[Self]) -> Cow<'_, [f32]> {
        values.into()
    }

    fn step<R: Rule>(
        optimizer: &mut cpu::Optimizer<R, f32>,
        params: &mut [&mut [Self]],
        grads: &[&[Self]],
        plain: bool,
    ) -> Result<(), Error> {
        if plain { optimizer.step(params, grads) } else { optimizer.step_parallel(params, grads) }
    }
}

impl Number for bf16 {
    fn of(values: Vec<f32>) -> Vec<Self> {
        values.into_iter().map(bf16::from_f32).collect()
    }

    fn shown(values: &[Self]) -> Cow<'_, [f32]> {
        values.iter().map(|x| x.to_f32()).collect()
    }

    fn step<R: Rule>(
        optimizer: &mut cpu::Optimizer<R, f32>,
        params: &mut [&mut [Self]],
        grads: &[&[Self]],
        plain: bool,
    ) -> Result<(), Error> {
        let mut params: Vec<SliceMut<'_>> = params.iter_mut().map(|params| (&mut **params).into()).collect();
        let grads: Vec<Slice<'_>> = grads.iter().map(|grads| (*grads).into()).collect();
        match plain {
            true => optimizer.step_slices(&mut params, &grads),
            false => optimizer.step_slices_parallel(&mut params, &grads),
        }
    }
}

/// Where parameters and gradients lie.
enum Memory<N> {
    Arena {
        params: Pages<N>,
        grads: Pages<N>,
    },
    Buffers {
        params: Vec<Pages<N>>,
        grads: Vec<Pages<N>>,
    },
    /// Parameters, and from `half` on gradients.
    Apart {
        both: Pages<N>,
        half: usize,
    },
}

impl<N: Number> Memory<N> {
    fn new(layout: Layout, lens: &[usize]) -> Result<Self> {
        let total = lens.iter().sum();
        let pages = |len, row| Pages::new(len, row, N::zeroed());
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
    fn slices(&mut self, lens: &[usize]) -> Vec<(&mut [N], &mut [N])> {
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

fn split<'a, N>(mut flat: &'a mut [N], lens: &[usize]) -> Vec<&'a mut [N]> {
    lens.iter().map(|&len| flat.split_off_mut(..len).unwrap_or_default()).collect()
}

fn whole<N: Number>(pages: &mut [Pages<N>]) -> Vec<&mut [N]> {
    pages.iter_mut().map(|pages| &mut pages[..]).collect()
}

impl<R: Rule, N: Number> OnCpu<R, N> {
    pub fn new(settings: &R, formats: &Formats, workload: &Workload, plain: bool) -> Result<Self> {
        let tensors = workload.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.len as usize));
        let mut optimizer = cpu::Optimizer::with_chain(Chain::default())?;
        optimizer.add_group_with(settings.clone(), formats.clone(), tensors)?;
        let lens: Vec<usize> = workload.tensors.iter().map(|tensor| tensor.len as usize).collect();
        let mut memory = Memory::new(workload.layout, &lens)?;
        for (number, (params, grads)) in memory.slices(&lens).into_iter().enumerate() {
            fill(params, |range| N::of(data::params(number, range)));
            fill(grads, |range| N::of(data::grads(number, range)));
        }
        Ok(Self { optimizer, memory, lens, plain })
    }
}

/// On all cores: the first to write to a page waits for it.
fn fill<N: Number>(values: &mut [N], with: impl Fn(Range<usize>) -> Vec<N> + Sync) {
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(number, chunk)| {
        let start = number * CHUNK;
        chunk.copy_from_slice(&with(start..start + chunk.len()));
    });
}

impl<R: Rule, N: Number> Subject for OnCpu<R, N> {
    fn run(&mut self, times: u32) -> Result<Sample> {
        let Self { optimizer, memory, lens, plain } = self;
        let (mut params, grads): (Vec<_>, Vec<_>) = memory.slices(lens).into_iter().unzip();
        let grads: Vec<&[N]> = grads.into_iter().map(|grads| &*grads).collect();
        Sample::of(|| {
            for _ in 0..times {
                N::step(optimizer, &mut params, &grads, *plain)?;
            }
            Ok(())
        })
    }
}

impl<R: Rule, N: Number> Path for OnCpu<R, N> {
    fn show(&mut self, tensor: usize, see: &mut See<'_>) -> Result<()> {
        let Self { optimizer, memory, lens, .. } = self;
        let name = optimizer.names().nth(tensor).unwrap_or_default();
        let kept = optimizer.slots(name)?;
        let slot = |slot: &&str| match kept.contains(slot) {
            true => Ok(match optimizer.stored(name, slot)? {
                Slice::Full(values) => Cow::Borrowed(values),
                narrow => Cow::Owned(narrow.to_vec()),
            }),
            false => Ok(Cow::Borrowed(&[][..])),
        };
        let slots = R::SLOTS.iter().map(slot).collect::<Result<Vec<Cow<'_, [f32]>>>>()?;
        let params = N::shown(memory.slices(lens).swap_remove(tensor).0);
        see(Stretch { params: &params, slots: slots.iter().map(|slot| &**slot).collect() })
    }
}
