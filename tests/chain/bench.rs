//! Tensors of one flat buffer for each role, between canaries, under an optimizer with a chain.

use wgpu_optim::{BufferRange, Chain, Group, Kernels, Optimizer, Rule, Scaler, Tensor, cpu, readback, wgpu};

use crate::support::{self, Gpu};

/// A NaN that no arithmetic makes: where a norm reached it, the step would be skipped.
pub const CANARY: u32 = 0x7fc0_dead;

/// A tensor to be: its group, words off a quad, elements.
pub type Spec = (usize, usize, usize);

/// A quad with a tail of words, words throughout, and lengths around a workgroup.
pub const SPECS: [Spec; 6] = [(0, 0, 1), (0, 1, 7), (0, 0, 1025), (1, 0, 256), (1, 3, 5000), (1, 0, 4099)];

/// A device on which windows, folds and several launches are met at a hundred thousand elements.
pub fn small() -> Option<Gpu> {
    support::gpu_with(|adapter| wgpu::Limits {
        max_storage_buffer_binding_size: 1 << 20,
        max_buffer_size: 4 << 20,
        max_compute_workgroups_per_dimension: 7,
        ..wgpu_optim::required_limits(adapter)
    })
}

/// Numbers that look random and are always the same, in `[0, 1)` (splitmix64).
pub fn noise(seed: u64) -> f64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Gradients of a step, multiplied by `scale`; a third of them much smaller.
pub fn grads(specs: &[Spec], step: u64, scale: f32) -> Vec<Vec<f32>> {
    let of = |(i, &(_, _, len)): (usize, &Spec)| {
        let one = |k: usize| {
            let seed = (step * 64 + i as u64) << 32 | k as u64;
            let size = if seed.is_multiple_of(3) { 1e-3 } else { 1.0 };
            scale * (size * (noise(seed) - 0.4)) as f32
        };
        (0..len).map(one).collect()
    };
    specs.iter().enumerate().map(of).collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// A scaler that starts at 1024 and does not grow.
pub fn scaler() -> Scaler {
    Scaler { init_scale: 1024.0, growth_interval: 1 << 20, ..Scaler::PYTORCH }
}

/// Everything that a step could change but the scaler's memory, in bits.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// The caller's buffers, whole.
    pub params: Vec<u32>,
    pub grads: Vec<u32>,
    /// By tensor, by slot that it keeps.
    pub slots: Vec<Vec<Vec<u32>>>,
}

/// An optimizer with its tensors.
pub struct Bench<R: Rule> {
    pub gpu: Gpu,
    pub optimizer: Optimizer<R>,
    pub params: wgpu::Buffer,
    pub grads: wgpu::Buffer,
    pub specs: Vec<Spec>,
    firsts: Vec<usize>,
    /// Elements, also of what comes later.
    lens: Vec<usize>,
}

impl<R: Rule> Bench<R> {
    pub fn new(gpu: &Gpu, chain: &Chain, groups: &[R], specs: &[Spec]) -> Self {
        Self::with_later(gpu, chain, groups, specs, &[])
    }

    /// With room for tensors that are added later.
    pub fn with_later(gpu: &Gpu, chain: &Chain, groups: &[R], specs: &[Spec], later: &[Spec]) -> Self {
        let all = [specs, later].concat();
        let mut firsts = Vec::new();
        let mut end = 64;
        for &(_, shift, len) in &all {
            firsts.push(usize::next_multiple_of(end, 64) + shift);
            end = firsts[firsts.len() - 1] + len + 64;
        }
        let [params, grads] = [(), ()].map(|()| buffer(gpu, end));
        let group = |(group, settings): (usize, &R)| {
            let members = (0..specs.len()).filter(|&i| all[i].0 == group);
            Group::new(settings.clone(), members.map(|i| tensor(i, &params, &grads, firsts[i], all[i].2)))
        };
        let own: Vec<Group<R>> = groups.iter().enumerate().map(group).collect();
        let kernels = Kernels::new(&gpu.device).unwrap();
        let optimizer = Optimizer::with_chain(&gpu.device, &kernels, chain.clone(), own).unwrap();
        let lens = all.iter().map(|&(_, _, len)| len).collect();
        let mut bench = Self { gpu: gpu.clone(), optimizer, params, grads, specs: all, firsts, lens };
        let start: Vec<Vec<f32>> = (0..bench.specs.len()).map(|i| bench.start(i)).collect();
        bench.fill(&bench.params, &start);
        bench.specs.truncate(specs.len());
        bench
    }

    /// The first parameters of a tensor.
    pub fn start(&self, i: usize) -> Vec<f32> {
        (0..self.specs[i].2).map(|k| (noise((i << 32 | k) as u64) - 0.5) as f32).collect()
    }

    /// The tensors that were left for later, up to this many.
    pub fn later(&mut self, later: &[Spec]) -> Vec<Tensor> {
        let first = self.specs.len();
        self.specs.extend(later);
        (first..self.specs.len()).map(|i| self.tensor(i)).collect()
    }

    fn tensor(&self, i: usize) -> Tensor {
        tensor(i, &self.params, &self.grads, self.firsts[i], self.specs[i].2)
    }

    /// Where the gradient of a tensor lies.
    pub fn grad(&self, i: usize) -> BufferRange {
        self.tensor(i).grads().clone()
    }

    /// Another buffer of gradients.
    pub fn more_grads(&self, grads: &[Vec<f32>]) -> wgpu::Buffer {
        let buffer = buffer(&self.gpu, (self.grads.size() / 4) as usize);
        self.fill(&buffer, grads);
        buffer
    }

    /// The gradients in another buffer, as `rebind_grads` takes them.
    pub fn names_in(&self, buffer: &wgpu::Buffer) -> Vec<(String, BufferRange)> {
        let range = |i: usize| BufferRange::new(buffer, self.firsts[i] as u64 * 4, self.specs[i].2 as u64 * 4);
        (0..self.specs.len()).map(|i| (format!("t{i}"), range(i))).collect()
    }

    pub fn rebind(&mut self, buffer: &wgpu::Buffer) {
        let named = self.names_in(buffer);
        let named = named.iter().map(|(name, range)| (name.as_str(), range.clone()));
        self.optimizer.rebind_grads(&self.gpu.device, named).unwrap();
    }

    fn fill(&self, buffer: &wgpu::Buffer, values: &[Vec<f32>]) {
        let mut words = vec![CANARY; (buffer.size() / 4) as usize];
        for (values, &first) in values.iter().zip(&self.firsts) {
            words[first..first + values.len()].copy_from_slice(bytemuck::cast_slice(values));
        }
        let Gpu { device, queue } = &self.gpu;
        readback::upload_blocking(device, queue, &buffer.into(), bytemuck::cast_slice(&words)).unwrap();
    }

    /// Writes the gradients, and canaries around them.
    pub fn write_grads(&self, grads: &[Vec<f32>]) {
        self.fill(&self.grads, grads);
    }

    pub fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device.create_command_encoder(&Default::default())
    }

    pub fn record(&mut self, encoder: &mut wgpu::CommandEncoder) {
        self.optimizer.record(&self.gpu.device, encoder).unwrap();
    }

    /// One step with these gradients, recorded and submitted.
    pub fn step(&mut self, grads: &[Vec<f32>]) {
        self.write_grads(grads);
        let mut encoder = self.encoder();
        self.record(&mut encoder);
        self.gpu.queue.submit([encoder.finish()]);
    }

    pub fn world(&self) -> World {
        let slots = |i: usize| {
            let name = format!("t{i}");
            let read = |slot: &&str| bits(&self.slot(i, slot));
            self.optimizer.slots(&name).unwrap().iter().map(read).collect()
        };
        World {
            params: download(&self.gpu, &(&self.params).into()),
            grads: download(&self.gpu, &(&self.grads).into()),
            slots: (0..self.optimizer.tensors().len()).map(slots).collect(),
        }
    }

    pub fn slot(&self, i: usize, slot: &str) -> Vec<f32> {
        let Gpu { device, queue } = &self.gpu;
        self.optimizer.read_state_blocking(device, queue, &format!("t{i}"), slot).unwrap()
    }

    pub fn params_of(&self, i: usize) -> Vec<f32> {
        let (first, len) = (self.firsts[i], self.specs[i].2);
        let range = BufferRange::new(&self.params, first as u64 * 4, len as u64 * 4);
        bytemuck::cast_vec(download(&self.gpu, &range))
    }

    /// The scale, its growth tracker, and how many steps were skipped.
    pub fn scaler(&self) -> (f32, u32, u32) {
        let words = download(&self.gpu, &self.optimizer.scale().expect("there is a scaler").into());
        (f32::from_bits(words[0]), words[1], words[2])
    }

    /// That nothing but tensors has been written.
    pub fn check_canaries(&self) {
        for buffer in [&self.params, &self.grads] {
            let mut words = download(&self.gpu, &buffer.into());
            for (&len, &first) in self.lens.iter().zip(&self.firsts) {
                words[first..first + len].fill(CANARY);
            }
            assert_eq!(words.iter().position(|&word| word != CANARY), None, "a neighbour was written");
        }
    }
}

/// The same tensors on the CPU, none of which came later.
pub fn twin<R: Rule>(chain: &Chain, groups: &[R], specs: &[Spec]) -> cpu::Optimizer<R, f32> {
    let mut twin = cpu::Optimizer::with_chain(chain.clone()).unwrap();
    for (group, settings) in groups.iter().enumerate() {
        add(&mut twin, settings, (0..specs.len()).filter(|&i| specs[i].0 == group), specs);
    }
    twin
}

/// Adds tensors as a group.
pub fn add<R: Rule>(
    twin: &mut cpu::Optimizer<R, f32>,
    settings: &R,
    which: impl Iterator<Item = usize>,
    specs: &[Spec],
) {
    let named: Vec<(String, usize)> = which.map(|i| (format!("t{i}"), specs[i].2)).collect();
    twin.add_group(settings.clone(), named.iter().map(|(name, len)| (name.as_str(), *len))).unwrap();
}

fn tensor(i: usize, params: &wgpu::Buffer, grads: &wgpu::Buffer, first: usize, len: usize) -> Tensor {
    let range = |buffer| BufferRange::new(buffer, first as u64 * 4, len as u64 * 4);
    Tensor::new(format!("t{i}"), range(params), range(grads))
}

fn buffer(gpu: &Gpu, words: usize) -> wgpu::Buffer {
    gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: words as u64 * 4,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

pub fn download(gpu: &Gpu, range: &BufferRange) -> Vec<u32> {
    let bytes = readback::download_blocking(&gpu.device, &gpu.queue, range).unwrap();
    bytemuck::pod_collect_to_vec(&bytes)
}
