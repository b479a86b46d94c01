//! The step on a device.

use anyhow::{Context, Result};
use wgpu_optim::envelope::Snapshot;
use wgpu_optim::{Arena, BufferRange, Optimizer, Rule, Tensor, readback, wgpu};

use super::data;
use super::device::Clocked;
use super::timing::{Sample, Subject};
use super::verify::Path;
use super::workload::{Layout, Workload};

/// An optimizer on a device, with what it steps.
pub struct OnGpu<R: Rule> {
    device: Clocked,
    optimizer: Optimizer<R>,
}

impl<R: Rule> OnGpu<R> {
    pub fn new(device: &Clocked, settings: &R, workload: &Workload) -> Result<Self> {
        let tensors = tensors(&device.device, workload)?;
        for (number, tensor) in tensors.iter().enumerate() {
            device.upload(tensor.params(), &data::params(number, tensor.params().len()))?;
            device.upload(tensor.grads(), &data::grads(number, tensor.grads().len()))?;
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
    fn snapshot(&mut self, tensor: usize) -> Result<Snapshot<f32>> {
        let of = &self.optimizer.tensors()[tensor];
        let kept = self.optimizer.slots(of.name())?;
        let slot = |slot: &&str| match kept.contains(slot) {
            true => self.download(self.optimizer.state_ranges(of.name(), slot)?),
            false => Ok(Vec::new()),
        };
        let slots = R::SLOTS.iter().map(slot).collect::<Result<_>>()?;
        Ok(Snapshot { params: self.download(vec![of.params().clone()])?, slots })
    }
}

impl<R: Rule> OnGpu<R> {
    fn download(&self, ranges: Vec<BufferRange>) -> Result<Vec<f32>> {
        let (device, queue) = (&self.device.device, &self.device.queue);
        let mut values = Vec::with_capacity(ranges.iter().map(|range| range.len() as usize).sum());
        for range in ranges {
            let chunk = |chunk: &[u8]| values.extend(bytemuck::pod_collect_to_vec::<u8, f32>(chunk));
            pollster::block_on(readback::download_each(device, queue, &range, chunk))
                .context("cannot read back what was stepped")?;
        }
        Ok(values)
    }
}
