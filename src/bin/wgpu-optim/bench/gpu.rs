//! The step on a device.

use std::ops::Range;

use anyhow::Result;
use wgpu_optim::{Arena, BufferRange, Optimizer, Rule, Tensor, wgpu};

use super::data;
use super::device::Clocked;
use super::timing::{Sample, Subject};
use super::verify::{CHUNK, Path, See, Stretch};
use super::workload::{Layout, Workload};

/// Elements that are on their way between host and device at once, whole chunks of verification.
const BLOCK: usize = 256 * CHUNK;

/// An optimizer on a device, with what it steps.
pub struct OnGpu<R: Rule> {
    device: Clocked,
    optimizer: Optimizer<R>,
}

impl<R: Rule> OnGpu<R> {
    pub fn new(device: &Clocked, settings: &R, workload: &Workload) -> Result<Self> {
        let tensors = tensors(&device.device, workload)?;
        for (number, tensor) in tensors.iter().enumerate() {
            for block in data::stretches(tensor.params().len() as usize, BLOCK) {
                device.upload(&part(tensor.params(), &block), &data::params(number, block.clone()))?;
                device.upload(&part(tensor.grads(), &block), &data::grads(number, block))?;
            }
        }
        device.settle()?;
        let optimizer = Optimizer::new(&device.device, settings.clone(), tensors)?;
        Ok(Self { device: device.clone(), optimizer })
    }

    /// What travels where buffers do not live on the device: (gradients, parameters), flat where they are.
    pub fn travellers(&self, workload: &Workload) -> (Vec<BufferRange>, Vec<BufferRange>) {
        let tensors = self.optimizer.tensors();
        let each = |of: fn(&Tensor) -> &BufferRange| tensors.iter().map(move |tensor| of(tensor).clone()).collect();
        let (grads, params) = (each(Tensor::grads), each(Tensor::params));
        match workload.layout {
            Layout::Arena => (flat(grads), flat(params)),
            Layout::Buffers | Layout::Apart => (grads, params),
        }
    }
}

/// The elements `of` a range.
fn part(range: &BufferRange, of: &Range<usize>) -> BufferRange {
    BufferRange::new(range.buffer(), range.offset() + 4 * of.start as u64, 4 * of.len() as u64)
}

/// The elements `of` ranges that follow each other.
fn parts(ranges: &[BufferRange], of: &Range<usize>) -> Vec<BufferRange> {
    let mut end = 0;
    let mut cut = |range: &BufferRange| {
        let start = end;
        end += range.len() as usize;
        let own = of.start.max(start)..of.end.min(end);
        (own.start < own.end).then(|| part(range, &(own.start - start..own.end - start)))
    };
    ranges.iter().filter_map(&mut cut).collect()
}

/// Ranges of one buffer as one range, with what lies between them.
fn flat(ranges: Vec<BufferRange>) -> Vec<BufferRange> {
    let mut flat: Vec<BufferRange> = Vec::new();
    for range in ranges {
        match flat.last_mut() {
            Some(last) if last.buffer() == range.buffer() => {
                let end = range.offset() + range.size();
                *last = BufferRange::new(range.buffer(), last.offset(), end - last.offset());
            }
            _ => flat.push(range),
        }
    }
    flat
}

fn tensors(device: &wgpu::Device, workload: &Workload) -> Result<Vec<Tensor>> {
    let of = |tensor: &super::workload::Tensor| match workload.layout {
        Layout::Apart => {
            let half = (tensor.len * 4).next_power_of_two();
            let both = buffer(device, 2 * half);
            let range = |offset| BufferRange::new(&both, offset, tensor.len * 4);
            Tensor::new(&tensor.name, range(0), range(half))
        }
        _ => {
            let [params, grads] = [buffer(device, tensor.len * 4), buffer(device, tensor.len * 4)];
            Tensor::new(&tensor.name, &params, &grads)
        }
    };
    match workload.layout {
        Layout::Arena => {
            let sizes = workload.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.len));
            Ok(Arena::new(device, sizes)?.tensors())
        }
        Layout::Buffers | Layout::Apart => Ok(workload.tensors.iter().map(of).collect()),
    }
}

fn buffer(device: &wgpu::Device, size: u64) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let label = Some("wgpu-optim bench");
    device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
}

impl<R: Rule> Subject for OnGpu<R> {
    fn run(&mut self, times: u32) -> Result<Sample> {
        let Self { device, optimizer } = self;
        device.run(times, |pass| Ok(optimizer.record_in(&device.device, pass)?))
    }
}

impl<R: Rule> Path for OnGpu<R> {
    fn show(&mut self, tensor: usize, see: &mut See<'_>) -> Result<()> {
        let of = &self.optimizer.tensors()[tensor];
        let kept = self.optimizer.slots(of.name())?;
        let slot = |slot: &&str| match kept.contains(slot) {
            true => Ok(self.optimizer.state_ranges(of.name(), slot)?),
            false => Ok(Vec::new()),
        };
        let slots = R::SLOTS.iter().map(slot).collect::<Result<Vec<_>>>()?;
        for block in data::stretches(of.params().len() as usize, BLOCK) {
            let params = self.download(&[part(of.params(), &block)])?;
            let slots: Vec<Vec<f32>> =
                slots.iter().map(|ranges| self.download(&parts(ranges, &block))).collect::<Result<_>>()?;
            see(Stretch { params: &params, slots: slots.iter().map(Vec::as_slice).collect() })?;
        }
        Ok(())
    }
}

impl<R: Rule> OnGpu<R> {
    fn download(&self, ranges: &[BufferRange]) -> Result<Vec<f32>> {
        let mut values = vec![0.0; ranges.iter().map(|range| range.len() as usize).sum()];
        let mut rest = &mut values[..];
        for range in ranges {
            self.device.download(range, rest.split_off_mut(..range.len() as usize).unwrap_or_default())?;
        }
        Ok(values)
    }
}
