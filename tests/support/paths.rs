//! One face for the oracle, the twin, the fast CPU and the GPU.

use wgpu_optim::wgsl::Real;
use wgpu_optim::{Arena, Chain, Error, Kernels, Optimizer, Rule, cpu, readback};

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
    fn set_step(&mut self, name: &str, step: u64);
    /// Steps taken; nothing where steps may be left out on the device, which alone knows then.
    fn step_of(&self, name: &str) -> Option<u64>;
    /// What the next gradients are scaled by, where there is a scaler.
    fn scale(&self) -> Option<f64>;
    /// Steps that were left out, where the host knows.
    fn skipped(&self) -> Option<u64>;
    fn names(&self) -> &[String];
    fn slots(&self, name: &str) -> Vec<&'static str>;
}

/// How a CPU path takes a step.
type Step<R, T> = fn(&mut cpu::Optimizer<R, T>, &mut [&mut [T]], &[&[T]]) -> Result<(), Error>;

/// The oracle (`f64`), the twin (`f32`) or the fast CPU.
pub struct Cpu<R: Rule, T: Real> {
    optimizer: cpu::Optimizer<R, T>,
    by: Step<R, T>,
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
            by: cpu::Optimizer::step,
            names: tensors.iter().map(|t| t.name.clone()).collect(),
            params: in_order.iter().map(cast).collect(),
        }
    }

    fn position(&self, name: &str) -> usize {
        self.optimizer.names().position(|known| known == name).unwrap()
    }
}

#[cfg(feature = "parallel")]
impl<R: Rule> Cpu<R, f32> {
    /// The fast CPU.
    pub fn parallel(groups: &[R], chain: &Chain, tensors: &[Start]) -> Self {
        Self { by: cpu::Optimizer::step_parallel, ..Self::chained(groups, chain, tensors) }
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
        (self.by)(&mut self.optimizer, &mut params, &grads).unwrap();
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

    fn set_step(&mut self, name: &str, step: u64) {
        self.optimizer.set_step(name, step).unwrap();
    }

    fn step_of(&self, name: &str) -> Option<u64> {
        Some(self.optimizer.step_of(name).unwrap())
    }

    fn scale(&self) -> Option<f64> {
        self.optimizer.chain().scaler.as_ref().map(|_| self.optimizer.control().scale.into())
    }

    fn skipped(&self) -> Option<u64> {
        Some(self.optimizer.control().skipped)
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn slots(&self, name: &str) -> Vec<&'static str> {
        self.optimizer.slots(name).unwrap()
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

    fn set_step(&mut self, name: &str, step: u64) {
        self.optimizer.set_step(name, step).unwrap();
    }

    fn step_of(&self, name: &str) -> Option<u64> {
        let scaled = self.optimizer.chain().scaler.is_some();
        (!scaled).then(|| self.optimizer.step_of(name).unwrap())
    }

    fn scale(&self) -> Option<f64> {
        let Gpu { device, queue } = &self.gpu;
        let range = self.optimizer.scale()?.slice(..4).into();
        let bytes = readback::download_blocking(device, queue, &range).unwrap();
        Some(f32::from_le_bytes(bytes.try_into().unwrap()).into())
    }

    fn skipped(&self) -> Option<u64> {
        None
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn slots(&self, name: &str) -> Vec<&'static str> {
        self.optimizer.slots(name).unwrap()
    }
}
