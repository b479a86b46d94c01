//! What travels where buffers do not live on the device: gradients up, parameters down.

use anyhow::Result;
use wgpu_optim::BufferRange;

use super::device::Clocked;
use super::timing::{Sample, Subject};

/// Gradients, from the host.
pub struct Upload {
    device: Clocked,
    ranges: Vec<(BufferRange, Vec<f32>)>,
}

/// Parameters, to the host.
pub struct Readback {
    device: Clocked,
    ranges: Vec<(BufferRange, Vec<f32>)>,
}

/// Each range, and as much memory of the host.
fn with_memory(ranges: Vec<BufferRange>) -> Vec<(BufferRange, Vec<f32>)> {
    let memory = |range: &BufferRange| vec![0.01; range.len() as usize];
    ranges.into_iter().map(|range| (range.clone(), memory(&range))).collect()
}

fn bytes(ranges: &[(BufferRange, Vec<f32>)]) -> u64 {
    ranges.iter().map(|(range, _)| range.size()).sum()
}

impl Upload {
    pub fn new(device: &Clocked, ranges: Vec<BufferRange>) -> Self {
        Self { device: device.clone(), ranges: with_memory(ranges) }
    }

    pub fn bytes(&self) -> u64 {
        bytes(&self.ranges)
    }
}

impl Readback {
    pub fn new(device: &Clocked, ranges: Vec<BufferRange>) -> Self {
        Self { device: device.clone(), ranges: with_memory(ranges) }
    }

    pub fn bytes(&self) -> u64 {
        bytes(&self.ranges)
    }
}

impl Subject for Upload {
    fn run(&mut self, times: u32) -> Result<Sample> {
        let Self { device, ranges } = self;
        Sample::of(|| {
            for _ in 0..times {
                ranges.iter().try_for_each(|(range, values)| device.upload(range, values))?;
                device.queue.submit([]);
                device.settle()?;
            }
            Ok(())
        })
    }
}

impl Subject for Readback {
    fn run(&mut self, times: u32) -> Result<Sample> {
        let Self { device, ranges } = self;
        Sample::of(|| {
            for _ in 0..times {
                ranges.iter_mut().try_for_each(|(range, values)| device.download(range, values))?;
            }
            Ok(())
        })
    }
}
