//! One face for the oracle, the twin and the GPU.

use wgpu_optim::wgsl::Real;
use wgpu_optim::{Arena, Chain, Kernels, Optimizer, Rule, cpu, readback};

use super::Gpu;

/// A tensor to be stepped: its name, its group, its first parameters.
pub struct Start {
    pub name: String,
    pub group: usize,
    pub params: Vec<f32>,
}

/// A path that can step.
pub trait Path<R: Rule> {
    fn retune(&mut self, group: usize, settings: R);
    /// Steps with one gradient for each tensor; those with `None` are left alone.
    fn step(&mut self, grads: &[Option<&[f32]>]);
    fn params(&self) -> Vec<Vec<f64>>;
    fn state(&self, name: &str, slot: &str) -> Vec<f64>;
    fn set_state(&mut self, name: &str, slot: &str, values: &[f32]);
    fn step_of(&self, name: &str) -> u64;
    fn set_step(&mut self, name: &str, step: u64);
}

/// The oracle (`f64`) or the twin (`f32`).
pub struct Cpu<R: Rule, T: Real> {
    optimizer: cpu::Optimizer<R, T>,
    names: Vec<String>,
    params: Vec<Vec<T>>,
}

impl<R: Rule, T: Real> Cpu<R, T> {
    pub fn new(groups: &[R], tensors: &[Start]) -> Self {
        Self::chained(groups, &Chain::default(), tensors)
    }

    pub fn chained(groups: &[R], chain: &Chain, tensors: &[Start]) -> Self {
        let members =
            |group: usize| tensors.iter().filter(move |t| t.group == group).map(|t| (t.name.as_str(), t.params.len()));
        let mut optimizer = cpu::Optimizer::with_chain(chain.clone()).unwrap();
        for (group, settings) in groups.iter().enumerate() {
            optimizer.add_group(settings.clone(), members(group)).unwrap();
        }
        let by_group = |group| tensors.iter().filter(move |t| t.group == group);
        let in_order: Vec<&Start> = (0..groups.len()).flat_map(by_group).collect();
        let cast = |t: &&Start| t.params.iter().map(|&p| T::from_f64(p.into())).collect();
        Self {
            optimizer,
            names: tensors.iter().map(|t| t.name.clone()).collect(),
            params: in_order.iter().map(cast).collect(),
        }
    }

    fn position(&self, name: &str) -> usize {
        self.optimizer.names().position(|known| known == name).unwrap()
    }
}

impl<R: Rule, T: Real> Path<R> for Cpu<R, T> {
    fn retune(&mut self, group: usize, settings: R) {
        self.optimizer.retune(group, settings).unwrap();
    }

    fn step(&mut self, grads: &[Option<&[f32]>]) {
        let mut ordered: Vec<Vec<T>> = vec![Vec::new(); grads.len()];
        let mut absent = Vec::new();
        for (name, grad) in self.names.iter().zip(grads) {
            match grad {
                Some(grad) => {
                    ordered[self.position(name)] = grad.iter().map(|&g| T::from_f64(g.into())).collect();
                }
                None => absent.push(name.clone()),
            }
        }
        self.optimizer.freeze(&absent).unwrap();
        let mut params: Vec<&mut [T]> = self.params.iter_mut().map(Vec::as_mut_slice).collect();
        let grads: Vec<&[T]> = ordered.iter().map(Vec::as_slice).collect();
        self.optimizer.step(&mut params, &grads).unwrap();
        self.optimizer.thaw(&absent).unwrap();
    }

    fn params(&self) -> Vec<Vec<f64>> {
        let of = |name: &String| self.params[self.position(name)].iter().map(|p| p.to_f64()).collect();
        self.names.iter().map(of).collect()
    }

    fn state(&self, name: &str, slot: &str) -> Vec<f64> {
        self.optimizer.state(name, slot).unwrap().iter().map(|s| s.to_f64()).collect()
    }

    fn set_state(&mut self, name: &str, slot: &str, values: &[f32]) {
        let values: Vec<T> = values.iter().map(|&v| T::from_f64(v.into())).collect();
        self.optimizer.set_state(name, slot, &values).unwrap();
    }

    fn step_of(&self, name: &str) -> u64 {
        self.optimizer.step_of(name).unwrap()
    }

    fn set_step(&mut self, name: &str, step: u64) {
        self.optimizer.set_step(name, step).unwrap();
    }
}

/// The shader, over an arena.
pub struct OnGpu<R: Rule> {
    gpu: Gpu,
    arena: Arena,
    optimizer: Optimizer<R>,
    names: Vec<String>,
}

impl<R: Rule> OnGpu<R> {
    pub fn new(gpu: &Gpu, groups: &[R], tensors: &[Start]) -> Self {
        Self::chained(gpu, groups, &Chain::default(), tensors)
    }

    pub fn chained(gpu: &Gpu, groups: &[R], chain: &Chain, tensors: &[Start]) -> Self {
        let lens = tensors.iter().map(|t| (t.name.as_str(), t.params.len() as u64));
        let arena = Arena::new(&gpu.device, lens).unwrap();
        let group = |(group, settings): (usize, &R)| {
            let lent = arena.tensors().into_iter().zip(tensors).filter(move |(_, t)| t.group == group);
            wgpu_optim::Group::new(settings.clone(), lent.map(|(tensor, _)| tensor))
        };
        let groups: Vec<_> = groups.iter().enumerate().map(group).collect();
        let kernels = Kernels::new(&gpu.device).unwrap();
        let optimizer = Optimizer::with_chain(&gpu.device, &kernels, chain.clone(), groups).unwrap();
        for tensor in tensors {
            let bytes = bytemuck::cast_slice(&tensor.params);
            let range = arena.params(&tensor.name).unwrap();
            readback::upload_blocking(&gpu.device, &gpu.queue, range, bytes).unwrap();
        }
        let names = tensors.iter().map(|t| t.name.clone()).collect();
        Self { gpu: gpu.clone(), arena, optimizer, names }
    }
}

impl<R: Rule> OnGpu<R> {
    pub fn slots(&self, name: &str) -> Vec<&'static str> {
        self.optimizer.slots(name).unwrap()
    }
}

impl<R: Rule> Path<R> for OnGpu<R> {
    fn retune(&mut self, group: usize, settings: R) {
        self.optimizer.retune(group, settings).unwrap();
    }

    fn step(&mut self, grads: &[Option<&[f32]>]) {
        let mut absent = Vec::new();
        for (name, grad) in self.names.iter().zip(grads) {
            match grad {
                Some(grad) => {
                    let range = self.arena.grads(name).unwrap();
                    self.gpu.queue.write_buffer(range.buffer(), range.offset(), bytemuck::cast_slice(grad));
                }
                None => absent.push(name.clone()),
            }
        }
        self.optimizer.freeze(&absent).unwrap();
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.optimizer.record(&self.gpu.device, &mut encoder).unwrap();
        self.gpu.queue.submit([encoder.finish()]);
        self.optimizer.thaw(&absent).unwrap();
    }

    fn params(&self) -> Vec<Vec<f64>> {
        let Gpu { device, queue } = &self.gpu;
        let of = |name: &String| {
            let range = self.arena.params(name).unwrap();
            let bytes = readback::download_blocking(device, queue, range).unwrap();
            bytemuck::pod_collect_to_vec::<u8, f32>(&bytes).into_iter().map(f64::from).collect()
        };
        self.names.iter().map(of).collect()
    }

    fn state(&self, name: &str, slot: &str) -> Vec<f64> {
        let Gpu { device, queue } = &self.gpu;
        let values = self.optimizer.read_state_blocking(device, queue, name, slot).unwrap();
        values.into_iter().map(f64::from).collect()
    }

    fn set_state(&mut self, name: &str, slot: &str, values: &[f32]) {
        let Gpu { device, queue } = &self.gpu;
        self.optimizer.write_state_blocking(device, queue, name, slot, values).unwrap();
    }

    fn step_of(&self, name: &str) -> u64 {
        self.optimizer.step_of(name).unwrap()
    }

    fn set_step(&mut self, name: &str, step: u64) {
        self.optimizer.set_step(name, step).unwrap();
    }
}
