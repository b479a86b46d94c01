//! The step on a device.

use std::borrow::Cow;
use std::ops::Range;

use anyhow::Result;
use wgpu_optim::format::codes::Codes;
use wgpu_optim::format::{Format, Formats, Q8Zero, Storage};
use wgpu_optim::{Arena, BufferRange, Chain, Group, Kernels, Optimizer, Rule, Tensor, wgpu};

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
    formats: Formats,
}

impl<R: Rule> OnGpu<R> {
    pub fn new(device: &Clocked, settings: &R, formats: &Formats, workload: &Workload) -> Result<Self> {
        let tensors = tensors(&device.device, formats, workload)?;
        for (number, tensor) in tensors.iter().enumerate() {
            for block in data::stretches(tensor.params().len_of(formats.params) as usize, BLOCK) {
                let (params, grads) = (data::params(number, block.clone()), data::grads(number, block.clone()));
                upload(device, tensor.params(), formats.params, &block, &params)?;
                upload(device, tensor.grads(), formats.grads, &block, &grads)?;
            }
        }
        device.settle()?;
        let group = Group::new(settings.clone(), tensors).with_formats(formats.clone());
        let kernels = Kernels::new(&device.device)?;
        let optimizer = Optimizer::with_chain(&device.device, &kernels, Chain::default(), [group])?;
        Ok(Self { device: device.clone(), optimizer, formats: formats.clone() })
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
fn part(range: &BufferRange, format: Format, of: &Range<usize>) -> BufferRange {
    let size = format.size();
    BufferRange::new(range.buffer(), range.offset() + size * of.start as u64, size * of.len() as u64)
}

/// Writes the elements `of` a range.
fn upload(device: &Clocked, range: &BufferRange, format: Format, of: &Range<usize>, values: &[f32]) -> Result<()> {
    let range = part(range, format, of);
    match format {
        Format::F32 => device.upload(&range, values),
        half => device.upload_bytes(&range, &Codes::of(half.storage(), Q8Zero::default(), values).elements),
    }
}

/// The elements `of` ranges that follow each other.
fn parts(ranges: &[BufferRange], of: &Range<usize>) -> Vec<BufferRange> {
    let mut end = 0;
    let mut cut = |range: &BufferRange| {
        let start = end;
        end += range.len() as usize;
        let own = of.start.max(start)..of.end.min(end);
        (own.start < own.end).then(|| part(range, Format::F32, &(own.start - start..own.end - start)))
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

fn tensors(device: &wgpu::Device, formats: &Formats, workload: &Workload) -> Result<Vec<Tensor>> {
    let of = |tensor: &super::workload::Tensor| match workload.layout {
        Layout::Apart => {
            let sizes = [formats.params, formats.grads].map(|format| tensor.len * format.size());
            let half = sizes[0].max(sizes[1]).next_power_of_two();
            let both = buffer(device, 2 * half);
            let range = |offset, size| BufferRange::new(&both, offset, size);
            Tensor::new(&tensor.name, range(0, sizes[0]), range(half, sizes[1]))
        }
        _ => {
            let [params, grads] = [formats.params, formats.grads].map(|format| {
                let size = tensor.len * format.size();
                BufferRange::new(&buffer(device, size), 0, size)
            });
            Tensor::new(&tensor.name, params, grads)
        }
    };
    match workload.layout {
        Layout::Arena => {
            let sizes = workload.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.len));
            Ok(Arena::with_formats(device, formats, sizes)?.tensors())
        }
        Layout::Buffers | Layout::Apart => Ok(workload.tensors.iter().map(of).collect()),
    }
}

fn buffer(device: &wgpu::Device, size: u64) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let label = Some("wgpu-optim bench");
    device.create_buffer(&wgpu::BufferDescriptor {
        label,
        size: size.next_multiple_of(4),
        usage,
        mapped_at_creation: false,
    })
}

impl<R: Rule> Subject for OnGpu<R> {
    fn run(&mut self, times: u32) -> Result<Sample> {
        let Self { device, optimizer, .. } = self;
        device.run(times, |pass| Ok(optimizer.record_in(&device.device, pass)?))
    }
}

impl<R: Rule> Path for OnGpu<R> {
    fn show(&mut self, tensor: usize, see: &mut See<'_>) -> Result<()> {
        let of = &self.optimizer.tensors()[tensor];
        let kept = self.optimizer.slots(of.name())?;
        let slot = |slot: &&str| match kept.contains(slot) {
            true => self.slot(of.name(), slot),
            false => Ok(Slot::Whole(Vec::new())),
        };
        let slots = R::SLOTS.iter().map(slot).collect::<Result<Vec<_>>>()?;
        for block in data::stretches(of.params().len_of(self.formats.params) as usize, BLOCK) {
            let params = self.params(of.params(), &block)?;
            let slots: Vec<Cow<'_, [f32]>> =
                slots.iter().map(|slot| self.part_of(slot, &block)).collect::<Result<_>>()?;
            see(Stretch { params: &params, slots: slots.iter().map(|slot| &**slot).collect() })?;
        }
        Ok(())
    }
}

/// A kept slot: numbers on the device, or those of codes, decoded.
enum Slot {
    There(Vec<BufferRange>),
    Whole(Vec<f32>),
}

impl<R: Rule> OnGpu<R> {
    fn slot(&self, name: &str, slot: &str) -> Result<Slot> {
        let Clocked { device, queue, .. } = &self.device;
        Ok(match self.optimizer.storage(name, slot)? {
            Storage::F32 => Slot::There(self.optimizer.state_ranges(name, slot)?),
            _ => Slot::Whole(self.optimizer.read_state_blocking(device, queue, name, slot)?),
        })
    }

    fn part_of<'a>(&self, slot: &'a Slot, block: &Range<usize>) -> Result<Cow<'a, [f32]>> {
        Ok(match slot {
            Slot::There(ranges) => self.download(&parts(ranges, block))?.into(),
            Slot::Whole(values) => values.get(block.clone()).unwrap_or_default().into(),
        })
    }

    fn params(&self, of: &BufferRange, block: &Range<usize>) -> Result<Vec<f32>> {
        let range = part(of, self.formats.params, block);
        match self.formats.params {
            Format::F32 => self.download(&[range]),
            half => {
                let elements = self.device.download_bytes(&range)?;
                Ok(Codes { elements, scales: Vec::new() }.values(half.storage()))
            }
        }
    }

    fn download(&self, ranges: &[BufferRange]) -> Result<Vec<f32>> {
        let mut values = vec![0.0; ranges.iter().map(|range| range.len() as usize).sum()];
        let mut rest = &mut values[..];
        for range in ranges {
            self.device.download(range, rest.split_off_mut(..range.len() as usize).unwrap_or_default())?;
        }
        Ok(values)
    }
}
