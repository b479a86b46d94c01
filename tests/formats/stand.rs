//! Tensors side by side in two buffers, with canaries around them, and how they are looked at.

use wgpu_optim::format::{Format, Formats};
use wgpu_optim::readback::{download_blocking, upload_blocking};
use wgpu_optim::{BufferRange, Chain, Group, Kernels, Optimizer, Rule, Tensor, wgpu};

use crate::expected::{Slot, Step, World, narrow, widen};
use crate::support::Gpu;

pub const LENS: [usize; 8] = [1, 3, 255, 256, 257, 1021, 4096, 5000];
/// What no tensor's bytes are.
const CANARY: u8 = 0xa5;

/// Elements free before each tensor: none, so that neighbours share words, or an odd number.
pub struct Stand<R: Rule> {
    pub gpu: Gpu,
    pub optimizer: Optimizer<R>,
    settings: R,
    formats: Formats,
    params: wgpu::Buffer,
    grads: wgpu::Buffer,
    recorded: u64,
}

impl<R: Rule> Stand<R> {
    pub fn new(gpu: &Gpu, settings: &R, formats: &Formats, gaps: &[usize]) -> Self {
        Self::chained(gpu, settings, formats, gaps, &Chain::default())
    }

    pub fn chained(gpu: &Gpu, settings: &R, formats: &Formats, gaps: &[usize], chain: &Chain) -> Self {
        let mut next = 5;
        let mut firsts = Vec::new();
        for (i, len) in LENS.into_iter().enumerate() {
            next += gaps[i % gaps.len()];
            firsts.push(next);
            next += len;
        }
        let [params, grads] = [formats.params, formats.grads].map(|format| buffer(gpu, (next + 9) as u64, format));
        let range = |buffer: &wgpu::Buffer, format: Format, first: usize, len: usize| {
            BufferRange::new(buffer, first as u64 * format.size(), len as u64 * format.size())
        };
        let tensor = |(i, (&first, &len)): (usize, (&usize, &usize))| {
            let own = [range(&params, formats.params, first, len), range(&grads, formats.grads, first, len)];
            let [params, grads] = own;
            Tensor::new(format!("tensor {i}"), params, grads)
        };
        let tensors: Vec<Tensor> = firsts.iter().zip(&LENS).enumerate().map(tensor).collect();
        let group = Group::new(settings.clone(), tensors).with_formats(formats.clone());
        let kernels = Kernels::new(&gpu.device).unwrap();
        let optimizer = Optimizer::with_chain(&gpu.device, &kernels, chain.clone(), [group]).unwrap();
        let (settings, formats) = (settings.clone(), formats.clone());
        let stand = Self { gpu: gpu.clone(), optimizer, settings, formats, params, grads, recorded: 0 };
        stand.write(0, |i| 0.3 + 0.7 * spread(i), stand.formats.params, |tensor| tensor.params().clone());
        stand.write_grads(1);
        stand
    }

    pub fn write_grads(&self, seed: u32) {
        let grad = |i: u32| if i % 17 == 3 { 0.0 } else { 0.2 * spread(i) };
        self.write(seed, grad, self.formats.grads, |tensor| tensor.grads().clone());
    }

    fn write(&self, seed: u32, of: impl Fn(u32) -> f32, format: Format, range: impl Fn(&Tensor) -> BufferRange) {
        for (i, tensor) in self.optimizer.tensors().iter().enumerate() {
            let range = range(tensor);
            let code = |element: u32| {
                let x = of(element.wrapping_add(seed.wrapping_mul(77_777) + 9973 * i as u32));
                let code = narrow(format, x, wgpu_optim::format::Rounding::Nearest, 0).to_le_bytes();
                code[..format.size() as usize].to_vec()
            };
            let bytes: Vec<u8> = (0..range.len_of(format) as u32).flat_map(code).collect();
            upload_blocking(&self.gpu.device, &self.gpu.queue, &range, &bytes).unwrap();
        }
    }

    /// Every tensor as it is, and a look at what lies between them.
    pub fn worlds(&self) -> Vec<World> {
        self.check_canaries(&self.params, |tensor| tensor.params());
        self.check_canaries(&self.grads, |tensor| tensor.grads());
        let world = |tensor: &Tensor| World {
            params: codes(self.formats.params, &self.bytes(tensor.params())),
            grads: codes(self.formats.grads, &self.bytes(tensor.grads())),
            slots: self.slots(tensor.name()),
        };
        self.optimizer.tensors().iter().map(world).collect()
    }

    fn check_canaries(&self, buffer: &wgpu::Buffer, of: impl Fn(&Tensor) -> &BufferRange) {
        let mut left = self.bytes(&BufferRange::from(buffer));
        for range in self.optimizer.tensors().iter().map(of) {
            left[range.offset() as usize..(range.offset() + range.size()) as usize].fill(CANARY);
        }
        let harmed = left.iter().position(|&byte| byte != CANARY);
        assert_eq!(harmed, None, "a byte between the tensors was written");
    }

    fn slots(&self, name: &str) -> Vec<Slot> {
        let Gpu { device, queue } = &self.gpu;
        let all = |ranges: Vec<BufferRange>| ranges.iter().flat_map(|range| self.bytes(range)).collect::<Vec<u8>>();
        let slot = |slot: &'static str| Slot {
            name: slot,
            storage: self.optimizer.storage(name, slot).unwrap(),
            values: self.optimizer.read_state_blocking(device, queue, name, slot).unwrap(),
            codes: all(self.optimizer.state_ranges(name, slot).unwrap()),
            scales: bytemuck::pod_collect_to_vec(&all(self.optimizer.scale_ranges(name, slot).unwrap())),
        };
        self.optimizer.slots(name).unwrap().into_iter().map(slot).collect()
    }

    fn bytes(&self, range: &BufferRange) -> Vec<u8> {
        download_blocking(&self.gpu.device, &self.gpu.queue, range).unwrap()
    }

    pub fn step(&mut self) {
        self.optimizer.step_blocking(&self.gpu.device, &self.gpu.queue).unwrap();
        self.recorded += 1;
    }

    /// A step, held to the plain loop.
    pub fn verified_step(&mut self) {
        let before = self.worlds();
        self.step();
        for (i, (before, after)) in before.iter().zip(&self.worlds()).enumerate() {
            let (name, number) = (format!("tensor {i}"), self.recorded);
            let step = Step { settings: &self.settings, formats: &self.formats, name: &name, number };
            let off = step.compare(before, after);
            assert!(off.holds(), "{name}, step {number} of {:?} in {:?}: {off:?}", self.settings, self.formats);
            assert_eq!(before.grads, after.grads, "gradients of {name} were written");
        }
    }
}

fn buffer(gpu: &Gpu, elements: u64, format: Format) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let size = (elements * format.size()).next_multiple_of(4);
    let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
    let buffer = gpu.device.create_buffer(&descriptor);
    gpu.queue.write_buffer(&buffer, 0, &vec![CANARY; size as usize]);
    buffer
}

fn codes(format: Format, bytes: &[u8]) -> Vec<u32> {
    let code = |bytes: &[u8]| bytes.iter().rev().fold(0, |code, &byte| code << 8 | u32::from(byte));
    bytes.chunks(format.size() as usize).map(code).collect()
}

/// Numbers from -1 to 1, one much like none other.
fn spread(i: u32) -> f32 {
    let mixed = wgpu_optim::format::noise::mixed(wgpu_optim::wgsl::U32(i)).0;
    mixed as f32 / (u32::MAX / 2) as f32 - 1.0
}

/// Numbers of a tensor's parameters.
pub fn numbers(format: Format, world: &World) -> Vec<f32> {
    world.params.iter().map(|&code| widen(format, code)).collect()
}
