//! A copy and a stream on all cores.

use anyhow::Result;
use rayon::prelude::*;
use wgpu_optim::pages::Pages;

use super::{COPY, STREAM, Shape};
use crate::bench::timing::{Sample, Subject};

/// Elements of a task.
const TASK: usize = 1 << 16;

/// One array into another.
pub struct CpuCopy {
    shape: Shape,
    from: Pages<f32>,
    to: Pages<f32>,
}

/// Reads four arrays and writes three, as Adam does, and computes next to nothing.
pub struct CpuStream {
    shape: Shape,
    arrays: [Pages<f32>; 4],
}

fn pages(shape: &Shape, row: usize) -> Result<Pages<f32>> {
    let mut pages = Pages::new(shape.size as usize / 4, row, 0.0)?;
    pages.fill(1.0);
    Ok(pages)
}

impl CpuCopy {
    pub fn new(bytes: u64) -> Result<Self> {
        let shape = Shape::new(bytes, COPY);
        Ok(Self { shape, from: pages(&shape, 0)?, to: pages(&shape, 1)? })
    }

    pub fn bytes(&self) -> u64 {
        self.shape.bytes()
    }
}

impl CpuStream {
    pub fn new(bytes: u64) -> Result<Self> {
        let shape = Shape::new(bytes, STREAM);
        Ok(Self { shape, arrays: [pages(&shape, 0)?, pages(&shape, 1)?, pages(&shape, 2)?, pages(&shape, 3)?] })
    }

    pub fn bytes(&self) -> u64 {
        self.shape.bytes()
    }
}

impl Subject for CpuCopy {
    fn run(&mut self, times: u32) -> Result<Sample> {
        let Self { shape, from, to } = self;
        Sample::of(|| {
            for _ in 0..u64::from(times) * shape.repeat {
                to.par_chunks_mut(TASK).zip(from.par_chunks(TASK)).for_each(|(to, from)| to.copy_from_slice(from));
            }
            Ok(())
        })
    }
}

impl Subject for CpuStream {
    fn run(&mut self, times: u32) -> Result<Sample> {
        let Self { shape, arrays: [params, grads, first, second] } = self;
        Sample::of(|| {
            for _ in 0..u64::from(times) * shape.repeat {
                let state = first.par_chunks_mut(TASK).zip(second.par_chunks_mut(TASK));
                let all = params.par_chunks_mut(TASK).zip(grads.par_chunks(TASK)).zip(state);
                all.for_each(|((p, g), (m, v))| add(p, g, m, v));
            }
            Ok(())
        })
    }
}

fn add(params: &mut [f32], grads: &[f32], first: &mut [f32], second: &mut [f32]) {
    for (((p, g), m), v) in params.iter_mut().zip(grads).zip(first).zip(second) {
        *p -= g;
        *m += g;
        *v += g;
    }
}
