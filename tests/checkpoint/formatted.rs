//! A run whose numbers lie in any format: parameters as bytes, gradients cast to what its groups have.

use std::path::Path;

use half::{bf16, f16};
use wgpu_optim::checkpoint::{Checkpoint, Error, Load, Report, Save};
use wgpu_optim::cpu::{self, Slice, SliceMut};
use wgpu_optim::format::{Format, Formats};
use wgpu_optim::{BufferRange, Chain, Group, Kernels, Optimizer, Rule, Tensor, readback, wgpu};

use crate::run::values;
use crate::support::Gpu;

/// (name, elements, group): codes of whole and of short blocks, odd lengths, one that is too small for 8 bits.
pub const TENSORS: [(&str, usize, usize); 4] = [("w", 5003, 0), ("b", 7, 0), ("e", 257, 1), ("s", 1, 1)];

/// Everything that a checkpoint has to bring back, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    pub params: Vec<Vec<u8>>,
    /// (tensor, slot, numbers as they are stored, scales of blocks).
    pub state: Vec<(String, &'static str, Vec<u8>, Vec<u8>)>,
    pub steps: Vec<u64>,
    pub recorded: u64,
}

/// An optimizer with formats and with parameters of its own.
pub trait Run {
    fn step(&mut self, seed: u64);
    /// A step with gradients as their groups have them.
    fn step_with(&mut self, grads: &[Vec<u8>]);
    fn set_params(&mut self, params: &[Vec<u8>]);
    fn save(&self, path: &Path) -> Result<(), Error>;
    fn save_pytorch(&self, path: &Path) -> Result<(), Error>;
    fn load_with(&mut self, checkpoint: &Checkpoint, load: Load<'_>, partial: bool) -> Result<Report, Error>;
    fn world(&self) -> World;

    fn load(&mut self, path: &Path) -> Result<Report, Error> {
        self.load_with(&Checkpoint::open(path)?, Load { params: true, ..Default::default() }, false)
    }
}

/// Numbers as they are stored, to the nearest, by another implementation than the crate's.
pub fn stored(format: Format, values: &[f32]) -> Vec<u8> {
    match format {
        Format::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Format::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        Format::Bf16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
    }
}

/// [`stored`], read.
pub fn read(format: Format, bytes: &[u8]) -> Vec<f32> {
    let halves = || bytes.chunks_exact(2).map(|code| [code[0], code[1]]);
    match format {
        Format::F32 => bytemuck::pod_collect_to_vec(bytes),
        Format::F16 => halves().map(|code| f16::from_le_bytes(code).to_f32()).collect(),
        Format::Bf16 => halves().map(|code| bf16::from_le_bytes(code).to_f32()).collect(),
    }
}

/// Bytes at an address that suits every format.
#[derive(Clone)]
pub struct Aligned {
    words: Vec<u32>,
    size: usize,
}

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(4), 0);
        Self { words: bytemuck::pod_collect_to_vec(&padded), size: bytes.len() }
    }

    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.size]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.size]
    }
}

/// The parameters of a tensor before the first step.
pub fn start(name: &str, len: usize) -> Vec<f32> {
    values(name.len() as u64 + 100, len)
}

pub struct OnCpu<R: Rule> {
    pub optimizer: cpu::Optimizer<R, f32>,
    pub params: Vec<Aligned>,
    /// Of each tensor's group.
    formats: Vec<Formats>,
}

impl<R: Rule> OnCpu<R> {
    pub fn new(groups: &[(R, Formats)], tensors: &[(&str, usize, usize)], chain: &Chain) -> Self {
        let mut optimizer = cpu::Optimizer::with_chain(chain.clone()).unwrap();
        let (mut params, mut all) = (Vec::new(), Vec::new());
        for (group, (settings, formats)) in groups.iter().enumerate() {
            let members = tensors.iter().filter(|tensor| tensor.2 == group).map(|&(name, len, _)| (name, len));
            optimizer.add_group_with(settings.clone(), formats.clone(), members.clone()).unwrap();
            for (name, len) in members {
                params.push(Aligned::new(&stored(formats.params, &start(name, len))));
                all.push(formats.clone());
            }
        }
        Self { optimizer, params, formats: all }
    }

    fn slices(&self) -> Vec<Slice<'_>> {
        self.params.iter().zip(&self.formats).map(|(params, formats)| slice(formats.params, params)).collect()
    }
}

fn slice(format: Format, bytes: &Aligned) -> Slice<'_> {
    Slice::of_bytes(format, bytes.bytes()).unwrap()
}

fn slices_mut<'a>(params: &'a mut [Aligned], formats: &[Formats]) -> Vec<SliceMut<'a>> {
    let of = |(params, formats): (&'a mut Aligned, &Formats)| {
        SliceMut::of_bytes(formats.params, params.bytes_mut()).unwrap()
    };
    params.iter_mut().zip(formats).map(of).collect()
}

impl<R: Rule> Run for OnCpu<R> {
    fn step(&mut self, seed: u64) {
        let grad = |(i, (params, formats)): (u64, (&Aligned, &Formats))| {
            let len = params.size / formats.params.size() as usize;
            stored(formats.grads, &values(seed * 16 + i, len))
        };
        let grads: Vec<Vec<u8>> = (0..).zip(self.params.iter().zip(&self.formats)).map(grad).collect();
        self.step_with(&grads);
    }

    fn step_with(&mut self, grads: &[Vec<u8>]) {
        let grads: Vec<Aligned> = grads.iter().map(|grads| Aligned::new(grads)).collect();
        let grads = grads.iter().zip(&self.formats);
        let grads: Vec<Slice<'_>> = grads.map(|(grads, formats)| slice(formats.grads, grads)).collect();
        let mut params = slices_mut(&mut self.params, &self.formats);
        self.optimizer.step_slices(&mut params, &grads).unwrap();
    }

    fn set_params(&mut self, params: &[Vec<u8>]) {
        self.params = params.iter().map(|params| Aligned::new(params)).collect();
    }

    fn save(&self, path: &Path) -> Result<(), Error> {
        self.optimizer.save_slices(path, &Save { params: Some(&self.slices()), ..Default::default() })
    }

    fn save_pytorch(&self, path: &Path) -> Result<(), Error> {
        self.optimizer.save_pytorch(path)
    }

    fn load_with(&mut self, checkpoint: &Checkpoint, load: Load<'_>, partial: bool) -> Result<Report, Error> {
        let mut slices = slices_mut(&mut self.params, &self.formats);
        let Load { params, extras, retune, cast } = load;
        let load = Load { params: params.then_some(slices.as_mut_slice()), extras, retune, cast };
        match partial {
            true => self.optimizer.load_partial_slices(checkpoint, load),
            false => self.optimizer.load_slices(checkpoint, load),
        }
    }

    fn world(&self) -> World {
        let (mut state, mut steps) = (Vec::new(), Vec::new());
        for name in self.optimizer.names() {
            for slot in self.optimizer.slots(name).unwrap() {
                let (numbers, scales): (Vec<u8>, Vec<u8>) = match self.optimizer.stored(name, slot).unwrap() {
                    Slice::Full(values) => (bytemuck::cast_slice(values).to_vec(), Vec::new()),
                    Slice::F16(values) => (bytemuck::cast_slice(values).to_vec(), Vec::new()),
                    Slice::Bf16(values) => (bytemuck::cast_slice(values).to_vec(), Vec::new()),
                    Slice::Q8 { codes, scales, .. } => (codes.to_vec(), bytemuck::cast_slice(scales).to_vec()),
                };
                state.push((name.to_string(), slot, numbers, scales));
            }
            steps.push(self.optimizer.step_of(name).unwrap());
        }
        let params = self.params.iter().map(|params| params.bytes().to_vec()).collect();
        World { params, state, steps, recorded: self.optimizer.recorded() }
    }
}

pub struct OnGpu<R: Rule> {
    gpu: Gpu,
    optimizer: Optimizer<R>,
    /// Of each tensor's group.
    formats: Vec<Formats>,
}

/// Ranges of a buffer for numbers of so many bytes, one element apart and one from the start: tensors of 16 bits share words.
fn ranges(gpu: &Gpu, element: u64, lens: &[usize]) -> Vec<BufferRange> {
    let ends = lens.iter().scan(0, |end, &len| {
        *end += (len as u64 + 1) * element;
        Some(*end)
    });
    let spans: Vec<(u64, u64)> =
        ends.zip(lens).map(|(end, &len)| (end - len as u64 * element, len as u64 * element)).collect();
    let size = spans.iter().map(|(offset, size)| offset + size).max().unwrap_or_default() + 8;
    let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: size.next_multiple_of(4),
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    spans.into_iter().map(|(offset, size)| BufferRange::new(&buffer, offset, size)).collect()
}

impl<R: Rule> OnGpu<R> {
    pub fn new(gpu: &Gpu, groups: &[(R, Formats)], tensors: &[(&str, usize, usize)], chain: &Chain) -> Self {
        let (mut built, mut all) = (Vec::new(), Vec::new());
        for (group, (settings, formats)) in groups.iter().enumerate() {
            let members: Vec<_> = tensors.iter().filter(|tensor| tensor.2 == group).collect();
            let lens: Vec<usize> = members.iter().map(|tensor| tensor.1).collect();
            let params = ranges(gpu, formats.params.size(), &lens);
            let grads = ranges(gpu, formats.grads.size(), &lens);
            for (range, (name, len, _)) in params.iter().zip(&members) {
                let bytes = stored(formats.params, &start(name, *len));
                readback::upload_blocking(&gpu.device, &gpu.queue, range, &bytes).unwrap();
                all.push(formats.clone());
            }
            let tensor = |((params, grads), (name, ..)): ((BufferRange, BufferRange), &&(&str, usize, usize))| {
                Tensor::new(*name, params, grads)
            };
            let tensors: Vec<Tensor> = params.into_iter().zip(grads).zip(&members).map(tensor).collect();
            built.push(Group::new(settings.clone(), tensors).with_formats(formats.clone()));
        }
        let optimizer = Kernels::new(&gpu.device)
            .and_then(|kernels| Optimizer::with_chain(&gpu.device, &kernels, chain.clone(), built))
            .unwrap();
        Self { gpu: gpu.clone(), optimizer, formats: all }
    }

    fn download(&self, ranges: &[BufferRange]) -> Vec<u8> {
        let Gpu { device, queue } = &self.gpu;
        ranges.iter().flat_map(|range| readback::download_blocking(device, queue, range).unwrap()).collect()
    }
}

impl<R: Rule> Run for OnGpu<R> {
    fn step(&mut self, seed: u64) {
        let grad = |(i, (tensor, formats)): (u64, (&Tensor, &Formats))| {
            stored(formats.grads, &values(seed * 16 + i, tensor.params().len_of(formats.params) as usize))
        };
        let grads: Vec<Vec<u8>> = (0..).zip(self.optimizer.tensors().iter().zip(&self.formats)).map(grad).collect();
        self.step_with(&grads);
    }

    fn step_with(&mut self, grads: &[Vec<u8>]) {
        let Gpu { device, queue } = &self.gpu;
        for (tensor, grads) in self.optimizer.tensors().iter().zip(grads) {
            readback::upload_blocking(device, queue, tensor.grads(), grads).unwrap();
        }
        self.optimizer.step_blocking(device, queue).unwrap();
    }

    fn set_params(&mut self, params: &[Vec<u8>]) {
        let Gpu { device, queue } = &self.gpu;
        for (tensor, params) in self.optimizer.tensors().iter().zip(params) {
            readback::upload_blocking(device, queue, tensor.params(), params).unwrap();
        }
    }

    fn save(&self, path: &Path) -> Result<(), Error> {
        let save = Save { params: true, ..Default::default() };
        self.optimizer.save_blocking(&self.gpu.device, &self.gpu.queue, path, &save)
    }

    fn save_pytorch(&self, path: &Path) -> Result<(), Error> {
        self.optimizer.save_pytorch_blocking(&self.gpu.device, &self.gpu.queue, path)
    }

    fn load_with(&mut self, checkpoint: &Checkpoint, load: Load<'_>, partial: bool) -> Result<Report, Error> {
        let Gpu { device, queue } = &self.gpu;
        match partial {
            true => self.optimizer.load_partial_blocking(device, queue, checkpoint, load),
            false => self.optimizer.load_blocking(device, queue, checkpoint, load),
        }
    }

    fn world(&self) -> World {
        let (mut params, mut state) = (Vec::new(), Vec::new());
        for tensor in self.optimizer.tensors() {
            params.push(self.download(std::slice::from_ref(tensor.params())));
            let name = tensor.name();
            for slot in self.optimizer.slots(name).unwrap() {
                let numbers = self.download(&self.optimizer.state_ranges(name, slot).unwrap());
                let scales = self.download(&self.optimizer.scale_ranges(name, slot).unwrap());
                state.push((name.to_string(), slot, numbers, scales));
            }
        }
        let steps = self.optimizer.read_steps_blocking(&self.gpu.device, &self.gpu.queue).unwrap();
        World { params, state, steps, recorded: self.optimizer.recorded() }
    }
}
