//! A run that can be saved: the same tensors and gradients on the CPU and on the GPU.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use wgpu_optim::chain::control::Control;
use wgpu_optim::checkpoint::{Checkpoint, Error, Extras, Load, Report, Save};
use wgpu_optim::{Adam, Arena, Chain, Group, Kernels, Optimizer, RmsProp, Rule, Schedule, cpu, readback};

use crate::support::Gpu;

/// (name, elements, group); one is longer than a window of the small device.
pub const TENSORS: [(&str, usize, usize); 4] =
    [("fc1.weight", 9001, 0), ("fc1.bias", 7, 1), ("state.emb", 1000, 0), ("scale", 1, 1)];

/// Everything that a checkpoint has to bring back, in bits.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    pub params: Vec<Vec<u32>>,
    /// (tensor, slot, values).
    pub state: Vec<(String, &'static str, Vec<u32>)>,
    pub steps: Vec<u64>,
    pub settings: String,
    /// The chain, and what each group follows.
    pub loop_settings: String,
    /// The bits of the scale, the clean steps, the skipped ones; steps of whatever tensors.
    pub running: (u32, u32, u64, u64),
}

fn running(control: &Control, recorded: u64) -> (u32, u32, u64, u64) {
    (control.scale.to_bits(), control.growth_tracker, control.skipped, recorded)
}

/// An optimizer with parameters of its own.
pub trait Run<R: Rule> {
    fn step_with(&mut self, grads: &[Vec<f32>]);
    /// Adds half of these to what the next step takes, where the chain accumulates.
    fn accumulate(&mut self, grads: &[Vec<f32>]);
    /// A step with what was accumulated.
    fn step_summed(&mut self);
    fn set_schedule(&mut self, group: usize, schedule: Option<Schedule>);
    fn retune(&mut self, group: usize, settings: R);
    fn freeze(&mut self, name: &str);
    fn thaw(&mut self, name: &str);
    fn set_step(&mut self, name: &str, step: u64);
    fn set_params(&mut self, tensor: usize, values: &[f32]);
    fn set_state(&mut self, name: &str, slot: &str, values: &[f32]);
    fn save(&self, path: &Path, params: bool, extras: Extras) -> Result<(), Error>;
    fn save_pytorch(&self, path: &Path) -> Result<(), Error>;
    fn load_with(&mut self, checkpoint: &Checkpoint, load: Load<'_>, partial: bool) -> Result<Report, Error>;
    fn world(&self) -> World;

    /// A step with gradients that look random and depend on `seed` alone.
    fn step(&mut self, seed: u64) {
        let lens: Vec<usize> = self.world().params.iter().map(Vec::len).collect();
        let grads: Vec<Vec<f32>> = lens.iter().enumerate().map(|(i, &len)| values(seed * 16 + i as u64, len)).collect();
        self.step_with(&grads);
    }

    /// Parameters, and nothing else besides.
    fn load(&mut self, path: &Path) -> Result<Report, Error> {
        self.load_with(&Checkpoint::open(path)?, Load { params: true, ..Default::default() }, false)
    }
}

/// Numbers of either sign and of sizes from 1e-6 to 1, always the same (splitmix64).
pub fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut next = || {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / u64::MAX as f64
    };
    (0..len).map(|_| ((next() - 0.5) * 2.0 * 10f64.powf(-6.0 * next())) as f32).collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

pub struct OnCpu<R: Rule> {
    pub optimizer: cpu::Optimizer<R, f32>,
    pub params: Vec<Vec<f32>>,
}

impl<R: Rule> OnCpu<R> {
    pub fn new(groups: &[R], tensors: &[(&str, usize, usize)]) -> Self {
        Self::chained(groups, tensors, &Chain::default())
    }

    pub fn chained(groups: &[R], tensors: &[(&str, usize, usize)], chain: &Chain) -> Self {
        let of = |group: usize| tensors.iter().filter(move |t| t.2 == group);
        let members = |group: usize| of(group).map(|&(name, len, _)| (name, len));
        let mut optimizer = cpu::Optimizer::with_chain(chain.clone()).unwrap();
        for (group, settings) in groups.iter().enumerate() {
            optimizer.add_group(settings.clone(), members(group)).unwrap();
        }
        let params = (0..groups.len()).flat_map(of).map(|&(name, len, _)| values(name.len() as u64, len)).collect();
        Self { optimizer, params }
    }
}

impl<R: Rule> Run<R> for OnCpu<R> {
    fn step_with(&mut self, grads: &[Vec<f32>]) {
        let mut params: Vec<&mut [f32]> = self.params.iter_mut().map(Vec::as_mut_slice).collect();
        let grads: Vec<&[f32]> = grads.iter().map(Vec::as_slice).collect();
        self.optimizer.step(&mut params, &grads).unwrap();
    }

    fn accumulate(&mut self, grads: &[Vec<f32>]) {
        let grads: Vec<&[f32]> = grads.iter().map(Vec::as_slice).collect();
        self.optimizer.accumulate(&grads, 0.5).unwrap();
    }

    fn step_summed(&mut self) {
        self.step_with(&[]);
    }

    fn set_schedule(&mut self, group: usize, schedule: Option<Schedule>) {
        self.optimizer.set_schedule(group, schedule).unwrap();
    }

    fn retune(&mut self, group: usize, settings: R) {
        self.optimizer.retune(group, settings).unwrap();
    }

    fn freeze(&mut self, name: &str) {
        self.optimizer.freeze([name]).unwrap();
    }

    fn thaw(&mut self, name: &str) {
        self.optimizer.thaw([name]).unwrap();
    }

    fn set_step(&mut self, name: &str, step: u64) {
        self.optimizer.set_step(name, step).unwrap();
    }

    fn set_params(&mut self, tensor: usize, values: &[f32]) {
        self.params[tensor].copy_from_slice(values);
    }

    fn set_state(&mut self, name: &str, slot: &str, values: &[f32]) {
        self.optimizer.set_state(name, slot, values).unwrap();
    }

    fn save(&self, path: &Path, params: bool, extras: Extras) -> Result<(), Error> {
        let slices: Vec<&[f32]> = self.params.iter().map(Vec::as_slice).collect();
        self.optimizer.save(path, &Save { params: params.then_some(slices.as_slice()), extras })
    }

    fn save_pytorch(&self, path: &Path) -> Result<(), Error> {
        self.optimizer.save_pytorch(path)
    }

    fn load_with(&mut self, checkpoint: &Checkpoint, load: Load<'_>, partial: bool) -> Result<Report, Error> {
        let mut slices: Vec<&mut [f32]> = self.params.iter_mut().map(Vec::as_mut_slice).collect();
        let Load { params, extras, retune, cast } = load;
        let load = Load { params: params.then_some(slices.as_mut_slice()), extras, retune, cast };
        if partial { self.optimizer.load_partial(checkpoint, load) } else { self.optimizer.load(checkpoint, load) }
    }

    fn world(&self) -> World {
        let (mut state, mut steps) = (Vec::new(), Vec::new());
        for name in self.optimizer.names() {
            for slot in self.optimizer.slots(name).unwrap() {
                state.push((name.to_string(), slot, bits(self.optimizer.state(name, slot).unwrap())));
            }
            steps.push(self.optimizer.step_of(name).unwrap());
        }
        let settings = format!("{:?}", self.optimizer.groups());
        let params = self.params.iter().map(|params| bits(params)).collect();
        let schedules = (0..self.optimizer.groups().len()).map(|group| self.optimizer.schedule(group).unwrap());
        let loop_settings = format!("{:?} {:?}", self.optimizer.chain(), schedules.collect::<Vec<_>>());
        let running = running(self.optimizer.control(), self.optimizer.recorded());
        World { params, state, steps, settings, loop_settings, running }
    }
}

pub struct OnGpu<R: Rule> {
    pub gpu: Gpu,
    pub optimizer: Optimizer<R>,
}

impl<R: Rule> OnGpu<R> {
    pub fn new(gpu: &Gpu, groups: &[R], tensors: &[(&str, usize, usize)]) -> Self {
        Self::chained(gpu, groups, tensors, &Chain::default())
    }

    pub fn chained(gpu: &Gpu, groups: &[R], tensors: &[(&str, usize, usize)], chain: &Chain) -> Self {
        let arena = Arena::new(&gpu.device, tensors.iter().map(|&(name, len, _)| (name, len as u64))).unwrap();
        let group = |(group, settings): (usize, &R)| {
            let lent = arena.tensors().into_iter().zip(tensors).filter(move |(_, t)| t.2 == group);
            Group::new(settings.clone(), lent.map(|(tensor, _)| tensor).collect::<Vec<_>>())
        };
        let groups: Vec<_> = groups.iter().enumerate().map(group).collect();
        let optimizer = Kernels::new(&gpu.device)
            .and_then(|kernels| Optimizer::with_chain(&gpu.device, &kernels, chain.clone(), groups))
            .unwrap();
        for &(name, len, _) in tensors {
            let values = values(name.len() as u64, len);
            let range = arena.params(name).unwrap();
            readback::upload_blocking(&gpu.device, &gpu.queue, range, bytemuck::cast_slice(&values)).unwrap();
        }
        Self { gpu: gpu.clone(), optimizer }
    }
}

impl<R: Rule> OnGpu<R> {
    fn write(&self, grads: &[Vec<f32>]) {
        for (tensor, grads) in self.optimizer.tensors().iter().zip(grads) {
            let range = tensor.grads();
            self.gpu.queue.write_buffer(range.buffer(), range.offset(), bytemuck::cast_slice(grads));
        }
    }
}

impl<R: Rule> Run<R> for OnGpu<R> {
    fn step_with(&mut self, grads: &[Vec<f32>]) {
        self.write(grads);
        self.step_summed();
    }

    fn accumulate(&mut self, grads: &[Vec<f32>]) {
        self.write(grads);
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.optimizer.accumulate(&self.gpu.device, &mut encoder, 0.5).unwrap();
        self.gpu.queue.submit([encoder.finish()]);
    }

    fn step_summed(&mut self) {
        self.optimizer.step_blocking(&self.gpu.device, &self.gpu.queue).unwrap();
    }

    fn set_schedule(&mut self, group: usize, schedule: Option<Schedule>) {
        self.optimizer.set_schedule(group, schedule).unwrap();
    }

    fn retune(&mut self, group: usize, settings: R) {
        self.optimizer.retune(group, settings).unwrap();
    }

    fn freeze(&mut self, name: &str) {
        self.optimizer.freeze([name]).unwrap();
    }

    fn thaw(&mut self, name: &str) {
        self.optimizer.thaw([name]).unwrap();
    }

    fn set_step(&mut self, name: &str, step: u64) {
        self.optimizer.set_step(name, step).unwrap();
    }

    fn set_params(&mut self, tensor: usize, values: &[f32]) {
        let range = self.optimizer.tensors()[tensor].params();
        self.gpu.queue.write_buffer(range.buffer(), range.offset(), bytemuck::cast_slice(values));
    }

    fn set_state(&mut self, name: &str, slot: &str, values: &[f32]) {
        self.optimizer.write_state_blocking(&self.gpu.device, &self.gpu.queue, name, slot, values).unwrap();
    }

    fn save(&self, path: &Path, params: bool, extras: Extras) -> Result<(), Error> {
        self.optimizer.save_blocking(&self.gpu.device, &self.gpu.queue, path, &Save { params, extras })
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
        let Gpu { device, queue } = &self.gpu;
        let (mut params, mut state) = (Vec::new(), Vec::new());
        for tensor in self.optimizer.tensors() {
            let bytes = readback::download_blocking(device, queue, tensor.params()).unwrap();
            params.push(bytemuck::pod_collect_to_vec(&bytes));
            let name = tensor.name();
            for slot in self.optimizer.slots(name).unwrap() {
                let values = self.optimizer.read_state_blocking(device, queue, name, slot).unwrap();
                state.push((name.to_string(), slot, bits(&values)));
            }
        }
        let steps = self.optimizer.read_steps_blocking(device, queue).unwrap();
        let settings = format!("{:?}", self.optimizer.groups());
        let schedules = (0..self.optimizer.groups().len()).map(|group| self.optimizer.schedule(group).unwrap());
        let loop_settings = format!("{:?} {:?}", self.optimizer.chain(), schedules.collect::<Vec<_>>());
        let control = self.optimizer.read_control_blocking(device, queue).unwrap();
        let running = running(&control, self.optimizer.recorded());
        World { params, state, steps, settings, loop_settings, running }
    }
}

/// Groups of settings that keep every slot there is between them.
pub fn adam() -> [Adam; 2] {
    [Adam { amsgrad: true, lr: 0.1 + 0.2, ..Adam::PYTORCH }, Adam { weight_decay: 1e-2, lr: 3e-3, ..Adam::KERAS }]
}

pub fn rmsprop() -> [RmsProp; 2] {
    let all = RmsProp { momentum: 0.9, centered: true, ..RmsProp::PYTORCH };
    [all, RmsProp { lr: 2e-3, ..RmsProp::ARTICLE }]
}

/// A folder, and a path in it.
pub fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("run.safetensors");
    (folder, path)
}

/// A small run that has taken two steps, and the file of it.
pub fn saved() -> (OnCpu<Adam>, Vec<u8>) {
    let mut run = small();
    run.step(1);
    run.step(2);
    let (_folder, path) = folder();
    let mut extras = Extras::default();
    extras.values.insert("note".into(), "a".into());
    extras.tensors.insert("scales".into(), vec![1.0, 2.0]);
    run.save(&path, true, extras).unwrap();
    (run, std::fs::read(path).unwrap())
}

/// What [`saved`] was before its first step.
pub fn small() -> OnCpu<Adam> {
    OnCpu::new(&adam(), &SMALL)
}

pub const SMALL: [(&str, usize, usize); 3] = [("w", 5, 0), ("b", 2, 1), ("c", 1, 1)];

/// What a file of [`saved`] is loaded with.
pub const LOAD: Load<'static> = Load { params: true, extras: &["note", "scales"], retune: false, cast: &[] };
