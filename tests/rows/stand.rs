//! Tensors with rows in flat buffers, between canaries, and the same on the CPU.

use std::collections::BTreeMap;

use wgpu_optim::envelope::{Device, Snapshot, Trial};
use wgpu_optim::rule::MAX_SLOTS;
use wgpu_optim::{BufferRange, Chain, Group, Kernels, Optimizer, Rows, Rule, Tensor, cpu, readback, wgpu};

use crate::support::{self, Gpu};

/// A NaN that no arithmetic makes: where a norm reached it, the step would be skipped.
pub const CANARY: u32 = 0x7fc0_dead;

/// A tensor to be: rows, elements of each, words off a quad.
pub type Spec = (usize, usize, usize);

/// The rows of some tensors, by their numbers.
pub type Lists<'a> = [(usize, &'a [u32])];

/// A device on which windows, folds and long lists are met at a hundred thousand elements.
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

/// Numbers from -0.5 to 0.5.
pub fn values(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|k| (noise((seed as u64) << 32 | k as u64) - 0.5) as f32).collect()
}

/// The rows from 0 up, in an order that looks random.
pub fn shuffled(rows: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..rows as u32).collect();
    order.sort_by(|a, b| noise(u64::from(*a) + 7).total_cmp(&noise(u64::from(*b) + 7)));
    order
}

pub fn buffer(gpu: &Gpu, words: &[u32]) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let size = words.len() as u64 * 4;
    let label = Some("a buffer of the caller's");
    let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false });
    readback::upload_blocking(&gpu.device, &gpu.queue, &(&buffer).into(), bytemuck::cast_slice(words)).unwrap();
    buffer
}

pub fn download(gpu: &Gpu, range: &BufferRange) -> Vec<u32> {
    bytemuck::pod_collect_to_vec(&readback::download_blocking(&gpu.device, &gpu.queue, range).unwrap())
}

/// A list on the device, off every alignment, between numbers of rows that are not listed.
pub fn list(gpu: &Gpu, rows: &[u32]) -> Rows {
    let words = [&[0, 1, 2], rows, &[0, 1, 2]].concat();
    Rows::new(BufferRange::new(&buffer(gpu, &words), 12, rows.len() as u64 * 4))
}

pub fn floats(words: &[u32]) -> Vec<f32> {
    words.iter().map(|&word| f32::from_bits(word)).collect()
}

/// Everything that a step could change, in bits.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// The caller's buffers, whole.
    pub params: Vec<u32>,
    pub grads: Vec<u32>,
    /// By tensor, by slot that it keeps.
    pub slots: Vec<BTreeMap<&'static str, Vec<u32>>>,
}

/// One tensor, in bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub params: Vec<u32>,
    pub slots: BTreeMap<&'static str, Vec<u32>>,
}

/// An optimizer with its tensors, and its twin.
pub struct Stand<R: Rule> {
    pub gpu: Gpu,
    pub rule: R,
    pub optimizer: Optimizer<R>,
    pub params: wgpu::Buffer,
    pub grads: wgpu::Buffer,
    pub twin: cpu::Optimizer<R, f32>,
    /// The twin's parameters.
    pub own: Vec<Vec<f32>>,
    steps: usize,
}

impl<R: Rule> Stand<R> {
    pub fn new(gpu: &Gpu, rule: R, specs: &[Spec]) -> Self {
        Self::chained(gpu, rule, &Chain::default(), specs)
    }

    pub fn chained(gpu: &Gpu, rule: R, chain: &Chain, specs: &[Spec]) -> Self {
        let mut end = 64;
        let mut place = |&(rows, width, shift): &Spec| {
            let first = usize::next_multiple_of(end, 64) + shift;
            end = first + rows * width + 64;
            first
        };
        let firsts: Vec<usize> = specs.iter().map(&mut place).collect();
        let own: Vec<Vec<f32>> = specs.iter().enumerate().map(|(i, spec)| values(i, spec.0 * spec.1)).collect();
        let mut words = vec![CANARY; end];
        for (values, &first) in own.iter().zip(&firsts) {
            words[first..first + values.len()].copy_from_slice(bytemuck::cast_slice(values));
        }
        let (params, grads) = (buffer(gpu, &words), buffer(gpu, &vec![CANARY; end]));
        let tensor = |(i, &(rows, width, _)): (usize, &Spec)| tensor(i, [&params, &grads], firsts[i], [rows, width]);
        let tensors: Vec<Tensor> = specs.iter().enumerate().map(tensor).collect();
        let kernels = Kernels::new(&gpu.device).unwrap();
        let group = Group::new(rule.clone(), tensors);
        let optimizer = Optimizer::with_chain(&gpu.device, &kernels, chain.clone(), [group]).unwrap();
        let mut twin = cpu::Optimizer::with_chain(Chain { zero_grads: false, ..chain.clone() }).unwrap();
        let named: Vec<(String, usize)> = own.iter().enumerate().map(|(i, own)| (format!("t{i}"), own.len())).collect();
        twin.add_group(rule.clone(), named.iter().map(|(name, len)| (name.as_str(), *len))).unwrap();
        Self { gpu: gpu.clone(), rule, optimizer, params, grads, twin, own, steps: 0 }
    }

    fn names(&self) -> Vec<String> {
        (0..self.own.len()).map(|i| format!("t{i}")).collect()
    }

    pub fn width(&self, tensor: usize) -> usize {
        self.optimizer.tensors()[tensor].shape().unwrap()[1] as usize
    }

    /// Gradients of the next step, on the device too.
    pub fn draw(&mut self, scale: f32) -> Vec<Vec<f32>> {
        self.steps += 1;
        let seed = 1000 * self.steps;
        let of = |(i, own): (usize, &Vec<f32>)| values(seed + i, own.len()).iter().map(|g| g * scale).collect();
        let grads: Vec<Vec<f32>> = self.own.iter().enumerate().map(of).collect();
        self.write_grads(&grads);
        grads
    }

    pub fn write_grads(&self, grads: &[Vec<f32>]) {
        for (tensor, grads) in self.optimizer.tensors().iter().zip(grads) {
            let range = tensor.grads();
            self.gpu.queue.write_buffer(range.buffer(), range.offset(), bytemuck::cast_slice(grads));
        }
    }

    pub fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device.create_command_encoder(&Default::default())
    }

    pub fn submit(&self, encoder: wgpu::CommandEncoder) {
        self.gpu.queue.submit([encoder.finish()]);
    }

    pub fn record_rows(&mut self, encoder: &mut wgpu::CommandEncoder, rows: &[(usize, Rows)]) {
        let names = self.names();
        let named = rows.iter().map(|(tensor, rows)| (names[*tensor].as_str(), rows.clone()));
        self.optimizer.record_rows(&self.gpu.device, encoder, named).unwrap();
    }

    /// One step on the device, by lists there.
    pub fn step_rows(&mut self, rows: &[(usize, Rows)]) {
        let mut encoder = self.encoder();
        self.record_rows(&mut encoder, rows);
        self.submit(encoder);
    }

    /// The same on the CPU.
    pub fn twin_step(&mut self, grads: &[Vec<f32>], lists: &Lists<'_>) {
        let names = self.names();
        let rows =
            |&(tensor, list): &(usize, _)| (names[tensor].as_str(), cpu::Rows { width: self.width(tensor), list });
        let rows: Vec<_> = lists.iter().map(rows).collect();
        let mut params: Vec<&mut [f32]> = self.own.iter_mut().map(Vec::as_mut_slice).collect();
        let grads: Vec<&[f32]> = grads.iter().map(Vec::as_slice).collect();
        let grads = if self.twin.chain().accumulate { &[][..] } else { &grads[..] };
        self.twin.step_rows(&mut params, grads, rows).unwrap();
    }

    /// One step of both, by the same lists.
    pub fn step_both(&mut self, lists: &Lists<'_>) {
        let grads = self.draw(1.0);
        let rows: Vec<(usize, Rows)> = lists.iter().map(|&(tensor, rows)| (tensor, list(&self.gpu, rows))).collect();
        self.step_rows(&rows);
        self.twin_step(&grads, lists);
    }

    pub fn slot(&self, tensor: usize, slot: &str) -> Vec<f32> {
        let Gpu { device, queue } = &self.gpu;
        self.optimizer.read_state_blocking(device, queue, &format!("t{tensor}"), slot).unwrap()
    }

    pub fn world(&self) -> World {
        let slots = |tensor: usize| {
            let slots = self.optimizer.slots(&format!("t{tensor}")).unwrap();
            slots.into_iter().map(|slot| (slot, bytemuck::cast_vec(self.slot(tensor, slot)))).collect()
        };
        World {
            params: download(&self.gpu, &(&self.params).into()),
            grads: download(&self.gpu, &(&self.grads).into()),
            slots: (0..self.own.len()).map(slots).collect(),
        }
    }

    /// All of each tensor, wherever it lies.
    pub fn held(&self) -> Vec<Held> {
        let slots = self.world().slots;
        let params = self.optimizer.tensors().iter().map(|tensor| download(&self.gpu, tensor.params()));
        params.zip(slots).map(|(params, slots)| Held { params, slots }).collect()
    }

    /// The words of a tensor's parameters in a world of this stand.
    pub fn params_in<'a>(&self, world: &'a World, tensor: usize) -> &'a [u32] {
        let range = self.optimizer.tensors()[tensor].params();
        let first = (range.offset() / 4) as usize;
        &world.params[first..first + range.len() as usize]
    }

    /// Some rows of a tensor, as the envelope takes them.
    fn snapshot(&self, world: &World, tensor: usize, rows: &[u32]) -> Snapshot<f32> {
        let width = self.width(tensor);
        let rows = |words: &[u32]| floats(&gathered(words, rows, width));
        let slot = |&name: &&'static str| world.slots[tensor].get(name).map(|slot| rows(slot)).unwrap_or_default();
        let mut slots: Vec<Vec<f32>> = R::SLOTS.iter().map(slot).collect();
        slots.resize(MAX_SLOTS, Vec::new());
        Snapshot { params: rows(self.params_in(world, tensor)), slots }
    }

    /// Holds one step, the `step`th of each tensor, to oracle and twin in the listed rows, and all else to what it was.
    pub fn verify(&self, before: &World, after: &World, grads: &[Vec<f32>], step: u64, lists: &Lists<'_>) {
        let mut expected = before.clone();
        for (tensor, grads) in grads.iter().enumerate() {
            let (width, len) = (self.width(tensor), grads.len());
            let all: Vec<u32> = (0..(len / width) as u32).collect();
            let rows = lists.iter().find(|(listed, _)| *listed == tensor).map_or(&all[..], |(_, rows)| rows);
            let rows: Vec<u32> = rows.iter().copied().filter(|row| (*row as usize) < all.len()).collect();
            let (start, end) = (self.snapshot(before, tensor, &rows), self.snapshot(after, tensor, &rows));
            let own = floats(&gathered(bytemuck::cast_slice(grads), &rows, width));
            let trial = Trial::new(&self.rule, step, &start, &own);
            let (oracle, twin) = (trial.against_oracle(Device(&end)), trial.against_twin(Device(&end)));
            assert!(oracle.holds() && twin.holds(), "t{tensor}: {oracle:?} {twin:?}");
            assert!(rows.is_empty() || start.params != end.params, "t{tensor} was not stepped");
            let first = (self.optimizer.tensors()[tensor].params().offset() / 4) as usize;
            for &row in &rows {
                let row = row as usize * width..(row as usize + 1) * width;
                let there = first + row.start..first + row.end;
                expected.params[there.clone()].copy_from_slice(&after.params[there]);
                for (slot, values) in &mut expected.slots[tensor] {
                    values[row.clone()].copy_from_slice(&after.slots[tensor][slot][row.clone()]);
                }
            }
        }
        assert!(expected == *after, "something that is not listed was written");
    }

    /// One step by lists, held to the envelope. `rows` are the lists on the device, which may say more.
    pub fn verified_by(&mut self, step: u64, lists: &Lists<'_>, rows: &[(usize, Rows)]) {
        let grads = self.draw(3.0);
        let before = self.world();
        self.step_rows(rows);
        let after = self.world();
        self.verify(&before, &after, &grads, step, lists);
        assert_eq!(self.optimizer.step_of("t0").unwrap(), step);
    }

    pub fn verified_step(&mut self, step: u64, lists: &Lists<'_>) {
        let rows: Vec<(usize, Rows)> = lists.iter().map(|&(tensor, rows)| (tensor, list(&self.gpu, rows))).collect();
        self.verified_by(step, lists, &rows);
    }

    /// Holds parameters and every slot to the twin's, after several steps.
    pub fn beside_twin(&self, what: &str) {
        for (tensor, Held { params, slots }) in self.held().iter().enumerate() {
            close(&floats(params), &self.own[tensor], &format!("{what}: parameters of t{tensor}"));
            for (slot, values) in slots {
                let theirs = self.twin.state(&format!("t{tensor}"), slot).unwrap();
                close(&floats(values), theirs, &format!("{what}: {slot} of t{tensor}"));
            }
        }
    }
}

/// Off by 1e-5 of the largest at most, which is much less than a step.
pub fn close(ours: &[f32], theirs: &[f32], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= 1e-5 * largest + 1e-30, "{what}[{i}]: {a:e} for {b:e}");
    }
}

/// Rows of some values.
pub fn gathered(values: &[u32], rows: &[u32], width: usize) -> Vec<u32> {
    rows.iter().flat_map(|&row| &values[row as usize * width..][..width]).copied().collect()
}

/// A tensor of so many rows at element `first` of a buffer for each role.
pub fn tensor(i: usize, [params, grads]: [&wgpu::Buffer; 2], first: usize, [rows, width]: [usize; 2]) -> Tensor {
    let range = |buffer| BufferRange::new(buffer, first as u64 * 4, (rows * width) as u64 * 4);
    Tensor::new(format!("t{i}"), range(params), range(grads)).with_shape([rows as u64, width as u64])
}
