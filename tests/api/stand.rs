//! A stand for an optimizer: its tensors, and every word around them, watched over each step.
//!
//! wgpu clamps what reaches out of a binding, so a guard that is off by one harms nobody who is not looked at.
//! Here every buffer of the caller's is filled with canaries, and after a step only the words of parameters that
//! were stepped may differ.

use std::collections::{BTreeSet, HashMap};

use wgpu_optim::envelope::{Device, Snapshot, Trial};
use wgpu_optim::{Arena, BufferRange, Error, Group, Optimizer, Rule, Tensor, readback, wgpu};

use crate::support::Gpu;

/// A NaN that no arithmetic makes.
pub const CANARY: u32 = 0x7fc0_dead;

pub const USAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

pub fn buffer(device: &wgpu::Device, words: usize) -> wgpu::Buffer {
    buffer_for(device, words as u64 * 4, USAGE)
}

pub fn buffer_for(device: &wgpu::Device, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    let label = Some("a buffer of the caller's");
    device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
}

/// `len` elements of `buffer` from element `first` on.
pub fn words(buffer: &wgpu::Buffer, first: usize, len: usize) -> BufferRange {
    BufferRange::new(buffer, first as u64 * 4, len as u64 * 4)
}

/// A tensor with two buffers of its own.
pub fn own(device: &wgpu::Device, name: &str, len: usize) -> Tensor {
    Tensor::new(name, &buffer(device, len), &buffer(device, len))
}

/// A tensor at element `first` of a flat buffer for each role.
pub fn at(name: &str, buffers: &[wgpu::Buffer; 2], first: usize, len: usize) -> Tensor {
    Tensor::new(name, words(&buffers[0], first, len), words(&buffers[1], first, len))
}

pub fn encoder(gpu: &Gpu) -> wgpu::CommandEncoder {
    gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("the caller's encoder") })
}

pub fn download(gpu: &Gpu, range: &BufferRange) -> Vec<u32> {
    let bytes = readback::download_blocking(&gpu.device, &gpu.queue, range).unwrap();
    bytemuck::pod_collect_to_vec(&bytes)
}

pub fn floats(words: &[u32]) -> Vec<f32> {
    words.iter().map(|&word| f32::from_bits(word)).collect()
}

pub fn write(gpu: &Gpu, range: &BufferRange, values: &[f32]) {
    assert_eq!(range.len(), values.len() as u64);
    gpu.queue.write_buffer(range.buffer(), range.offset(), bytemuck::cast_slice(values));
}

/// Numbers that look random and are always the same (splitmix64).
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Of either sign, its size spread over the powers of ten between these two; one in nine is zero.
    pub fn value(&mut self, from: f64, to: f64) -> f32 {
        if self.next().is_multiple_of(9) {
            return 0.0;
        }
        let share = self.next() as f64 / u64::MAX as f64;
        let size = 10f64.powf(from + share * (to - from));
        (if self.next() & 1 == 0 { size } else { -size }) as f32
    }

    pub fn values(&mut self, len: u64, from: f64, to: f64) -> Vec<f32> {
        (0..len).map(|_| self.value(from, to)).collect()
    }
}

/// Everything that a step could change, in bits.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// The caller's buffers, whole.
    buffers: Vec<Vec<u32>>,
    /// By tensor, by slot of the rule; empty where not kept.
    state: Vec<Vec<Vec<u32>>>,
    steps: Vec<u64>,
}

impl World {
    /// Whether a world with more tensors holds everything of this one as it was.
    pub fn is_start_of(&self, later: &World) -> bool {
        later.buffers.starts_with(&self.buffers)
            && later.state.starts_with(&self.state)
            && later.steps.starts_with(&self.steps)
    }
}

/// An optimizer with its tensors.
pub struct Stand<R: Rule> {
    pub gpu: Gpu,
    pub optimizer: Optimizer<R>,
    /// Settings of each group, kept beside the optimizer's.
    pub groups: Vec<R>,
    pub frozen: BTreeSet<String>,
    pub draw: Draw,
    group_of: HashMap<String, usize>,
    watched: Vec<wgpu::Buffer>,
    /// Words up to a whole quad after each tensor are the tensor's (an arena's).
    padded: bool,
}

impl<R: Rule> Stand<R> {
    pub fn new(gpu: &Gpu, settings: R, tensors: Vec<Tensor>) -> Self {
        Self::with_groups(gpu, vec![(settings, tensors)])
    }

    pub fn over_arena(gpu: &Gpu, settings: R, arena: &Arena) -> Self {
        let mut stand = Self::new(gpu, settings, arena.tensors());
        stand.padded = true;
        stand
    }

    pub fn with_groups(gpu: &Gpu, groups: Vec<(R, Vec<Tensor>)>) -> Self {
        let own = groups.iter().map(|(settings, tensors)| Group::new(settings.clone(), tensors.clone()));
        let optimizer = Optimizer::with_groups(&gpu.device, own.collect::<Vec<_>>()).unwrap();
        let mut stand = Self {
            gpu: gpu.clone(),
            optimizer,
            groups: Vec::new(),
            frozen: BTreeSet::new(),
            draw: Draw(7),
            group_of: HashMap::new(),
            watched: Vec::new(),
            padded: false,
        };
        for (group, (settings, tensors)) in groups.into_iter().enumerate() {
            stand.groups.push(settings);
            stand.watch(group, &tensors);
        }
        stand
    }

    /// Watches tensors of a group that has come later, and gives them parameters.
    pub fn watch(&mut self, group: usize, tensors: &[Tensor]) {
        for tensor in tensors {
            self.group_of.insert(tensor.name().into(), group);
            self.watch_buffer(tensor.params().buffer());
            self.watch_buffer(tensor.grads().buffer());
        }
        for tensor in tensors {
            let values = self.draw.values(tensor.params().len(), -3.0, 0.5);
            write(&self.gpu, tensor.params(), &values);
        }
    }

    pub fn watch_buffer(&mut self, buffer: &wgpu::Buffer) {
        if self.watched.contains(buffer) {
            return;
        }
        let canaries = vec![CANARY; (buffer.size() / 4) as usize];
        self.gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&canaries));
        self.watched.push(buffer.clone());
    }

    pub fn freeze(&mut self, names: &[&str]) {
        self.optimizer.freeze(names).unwrap();
        self.frozen.extend(names.iter().map(|name| name.to_string()));
    }

    pub fn thaw(&mut self, names: &[&str]) {
        self.optimizer.thaw(names).unwrap();
        self.frozen.retain(|frozen| !names.contains(&frozen.as_str()));
    }

    pub fn retune(&mut self, group: usize, settings: R) {
        self.optimizer.retune(group, settings.clone()).unwrap();
        self.groups[group] = settings;
    }

    /// Fresh gradients, of every size from tiny to large.
    pub fn draw_grads(&mut self) {
        for tensor in self.optimizer.tensors() {
            let values = self.draw.values(tensor.grads().len(), -9.0, 2.0);
            write(&self.gpu, tensor.grads(), &values);
        }
    }

    /// Records and submits one step.
    pub fn step(&mut self) {
        let mut encoder = encoder(&self.gpu);
        self.optimizer.record(&self.gpu.device, &mut encoder).unwrap();
        self.gpu.queue.submit([encoder.finish()]);
    }

    /// One step with fresh gradients, held to the oracle and the twin.
    pub fn verified_step(&mut self) {
        self.draw_grads();
        let before = self.world();
        self.step();
        let after = self.world();
        self.verify(&before, &after);
    }

    pub fn world(&self) -> World {
        let mut read: HashMap<wgpu::Buffer, Vec<u32>> = HashMap::new();
        let mut of = |range: &BufferRange| {
            let whole = read
                .entry(range.buffer().clone())
                .or_insert_with_key(|buffer| download(&self.gpu, &BufferRange::from(buffer)));
            let first = (range.offset() / 4) as usize;
            whole[first..first + range.len() as usize].to_vec()
        };
        let buffers = self.watched.iter().map(|buffer| of(&buffer.into())).collect();
        let mut state = Vec::new();
        let mut steps = Vec::new();
        for tensor in self.optimizer.tensors() {
            let mut slots = vec![Vec::new(); wgpu_optim::rule::MAX_SLOTS];
            for name in self.optimizer.slots(tensor.name()).unwrap() {
                let slot = R::SLOTS.iter().position(|slot| *slot == name).unwrap();
                let ranges = self.optimizer.state_ranges(tensor.name(), name).unwrap();
                slots[slot] = ranges.iter().flat_map(&mut of).collect();
            }
            state.push(slots);
            steps.push(self.optimizer.step_of(tensor.name()).unwrap());
        }
        World { buffers, state, steps }
    }

    /// The words of a range in a world.
    pub fn of<'a>(&self, world: &'a World, range: &BufferRange) -> &'a [u32] {
        let buffer = self.watched.iter().position(|buffer| buffer == range.buffer()).unwrap();
        let first = (range.offset() / 4) as usize;
        &world.buffers[buffer][first..first + range.len() as usize]
    }

    fn snapshot(&self, world: &World, tensor: usize) -> Snapshot<f32> {
        let params = floats(self.of(world, self.optimizer.tensors()[tensor].params()));
        Snapshot { params, slots: world.state[tensor].iter().map(|slot| floats(slot)).collect() }
    }

    /// Holds one step to the oracle and to the twin, and everything else to what it was.
    pub fn verify(&self, before: &World, after: &World) {
        for (index, tensor) in self.optimizer.tensors().iter().enumerate() {
            let name = tensor.name();
            if self.frozen.contains(name) {
                assert_eq!(before.state[index], after.state[index], "{name:?} is frozen, its state moved");
                assert_eq!(before.steps[index], after.steps[index], "{name:?} is frozen, its step moved");
                continue;
            }
            assert_eq!(after.steps[index], before.steps[index] + 1, "steps of {name:?}");
            let rule = &self.groups[self.group_of[name]];
            let grads = floats(self.of(before, tensor.grads()));
            let (start, end) = (self.snapshot(before, index), self.snapshot(after, index));
            let trial = Trial::new(rule, before.steps[index] + 1, &start, &grads);
            let (oracle, twin) = (trial.against_oracle(Device(&end)), trial.against_twin(Device(&end)));
            assert!(oracle.holds() && twin.holds(), "{name:?}: {oracle:?} {twin:?}");
            assert!(start.params.len() < 8 || start.params != end.params, "{name:?} was not stepped");
        }
        self.verify_surroundings(before, after);
    }

    /// Nothing but the parameters that were stepped has changed.
    fn verify_surroundings(&self, before: &World, after: &World) {
        let mut may: Vec<Vec<bool>> = self.watched.iter().map(|b| vec![false; (b.size() / 4) as usize]).collect();
        for tensor in self.optimizer.tensors().iter().filter(|t| !self.frozen.contains(t.name())) {
            let range = tensor.params();
            let buffer = self.watched.iter().position(|buffer| buffer == range.buffer()).unwrap();
            let len = if self.padded { range.len().next_multiple_of(4) } else { range.len() } as usize;
            let first = (range.offset() / 4) as usize;
            may[buffer][first..first + len].fill(true);
        }
        for (buffer, may) in may.iter().enumerate() {
            let pairs = before.buffers[buffer].iter().zip(&after.buffers[buffer]).zip(may).enumerate();
            for (word, ((before, after), may)) in pairs {
                assert!(*may || before == after, "word {word} of buffer {buffer} went from {before:x} to {after:x}");
            }
        }
    }
}

/// Two devices of one instance. (Devices of two instances cannot be told apart: wgpu compares them by an id that
/// is only unique in its instance, and panics on its own when one meets what belongs to the other.)
pub fn pair() -> Option<(Gpu, Gpu)> {
    // Opens nothing itself; says so where there is no adapter, and fails where there must be one.
    crate::support::gpu()?;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let open = || {
        let required_limits = wgpu_optim::required_limits(&adapter);
        let descriptor = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
        Gpu { device, queue }
    };
    Some((open(), open()))
}

/// A device that validates everything and executes nothing; it needs no driver.
pub fn noop(limits: wgpu::Limits) -> Gpu {
    noop_of(limits).1
}

/// [`noop`], with its instance.
pub fn noop_of(limits: wgpu::Limits) -> (wgpu::Instance, Gpu) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::NOOP,
        backend_options: wgpu::BackendOptions { noop: wgpu::NoopBackendOptions::enabled(), ..Default::default() },
        // The checks of indirect calls would hold buffers to 4 GiB.
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    (instance, Gpu { device, queue })
}

/// Two tensors on a stand that has taken two steps.
pub fn running(gpu: &Gpu) -> Stand<wgpu_optim::Adam> {
    let buffers = [buffer(&gpu.device, 256), buffer(&gpu.device, 256)];
    let tensors = vec![at("fc1.weight", &buffers, 3, 100), at("fc1.bias", &buffers, 113, 9)];
    let mut stand = Stand::new(gpu, wgpu_optim::Adam::PYTORCH, tensors);
    stand.verified_step();
    stand.verified_step();
    stand
}

/// What a running optimizer answers to `attempt`. Shows that nothing changed, and that its next step is right.
pub fn refused<T>(gpu: &Gpu, attempt: impl FnOnce(&mut Stand<wgpu_optim::Adam>) -> Result<T, Error>) -> Error {
    let mut stand = running(gpu);
    let before = stand.world();
    let slots = stand.optimizer.tensors().len();
    let settings = stand.optimizer.settings(0).unwrap().clone();
    let error = attempt(&mut stand).map(|_| ()).expect_err("this was to be refused");
    assert_eq!(stand.optimizer.tensors().len(), slots, "a refused call added a tensor");
    assert_eq!(stand.optimizer.settings(0).unwrap(), &settings, "a refused call changed the settings");
    assert!(stand.world() == before, "a refused call changed bits: {error}");
    stand.verified_step();
    error
}

/// [`refused`], by its message. Messages are lower case and have no full stop.
pub fn refusal<T>(gpu: &Gpu, attempt: impl FnOnce(&mut Stand<wgpu_optim::Adam>) -> Result<T, Error>) -> String {
    let message = refused(gpu, attempt).to_string();
    assert!(!message.ends_with('.'), "{message:?} ends with a full stop");
    assert!(message.chars().next().is_some_and(|first| !first.is_uppercase()), "{message:?} starts in upper case");
    message
}
