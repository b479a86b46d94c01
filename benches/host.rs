//! What a step costs the host: planning, folding, recording, and the rules on the CPU.

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wgpu_optim::envelope::Probe;
use wgpu_optim::plan::Limits;
use wgpu_optim::rule::{Rule, Visitor, cast, visit};
use wgpu_optim::{Adam, Arena, Chain, Group, Optimizer, Tensor, memory_plan, wgpu};

fn planning(criterion: &mut Criterion) {
    let names: Vec<String> = (0..1000).map(|i| format!("layer.{i}")).collect();
    let tensors: Vec<(&str, u64)> = (0..).zip(&names).map(|(i, name)| (name.as_str(), 1000 + 61 * i)).collect();
    let groups = [(Adam::PYTORCH, tensors)];
    criterion.bench_function("plan 1000 tensors", |bench| {
        bench.iter(|| memory_plan(black_box(&groups), &Chain::default(), 0, &Limits::DEFAULT));
    });
}

fn folding(criterion: &mut Criterion) {
    let mut step = 0;
    criterion.bench_function("fold adam", |bench| {
        bench.iter(|| {
            step += 1;
            black_box(&Adam::PYTORCH).fold(step)
        });
    });
}

/// Elements of a tensor.
const LEN: u64 = 1024;

/// Tensors, and the hand-written step that they are timed beside.
struct Pair {
    label: &'static str,
    optimizer: Optimizer<Adam>,
    hand: Hand,
}

impl Pair {
    fn new(device: &wgpu::Device, label: &'static str, tensors: Vec<Tensor>, hand: Hand) -> Self {
        let optimizer = Optimizer::new(device, Adam::PYTORCH, tensors).expect("tensors that can be stepped");
        Self { label, optimizer, hand }
    }

    fn all(device: &wgpu::Device) -> [Self; 3] {
        [
            Self::new(device, "1 tensor", arena(device, 1), Hand::new(device, 1, LEN)),
            Self::new(device, "1000 tensors in an arena", arena(device, 1000), Hand::new(device, 1, 1000 * LEN)),
            Self::new(
                device,
                "1000 tensors in buffers of their own",
                apart(device, 1000),
                Hand::new(device, 1000, LEN),
            ),
        ]
    }

    fn record(&mut self, device: &wgpu::Device, encoder: &mut wgpu::CommandEncoder, ours: bool) {
        match ours {
            true => self.optimizer.record(device, encoder).expect("a step"),
            false => self.hand.record(device, encoder),
        }
    }
}

fn arena(device: &wgpu::Device, count: usize) -> Vec<Tensor> {
    let names: Vec<String> = (0..count).map(|i| i.to_string()).collect();
    Arena::new(device, names.iter().map(|name| (name.as_str(), LEN))).expect("an arena").tensors()
}

fn apart(device: &wgpu::Device, count: usize) -> Vec<Tensor> {
    let tensor = |i: usize| Tensor::new(i.to_string(), &storage(device, LEN), &storage(device, LEN));
    (0..count).map(tensor).collect()
}

fn storage(device: &wgpu::Device, len: u64) -> wgpu::Buffer {
    let (usage, size) = (wgpu::BufferUsages::STORAGE, len * 4);
    device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
}

/// A step as one writes it without this crate: a cached bind group and a dispatch for each tensor, and a fresh
/// uniform with its bind group.
struct Hand {
    pipeline: wgpu::ComputePipeline,
    scalars: wgpu::BindGroupLayout,
    tensors: Vec<wgpu::BindGroup>,
    groups: u32,
}

impl Hand {
    const ADAM: &str = "
        struct Scalars { m: f32, beta2: f32, v: f32, step_size: f32, root_scale: f32, eps: f32 }
        @group(0) @binding(0) var<storage, read_write> params: array<f32>;
        @group(0) @binding(1) var<storage, read> grads: array<f32>;
        @group(0) @binding(2) var<storage, read_write> exp_avg: array<f32>;
        @group(0) @binding(3) var<storage, read_write> exp_avg_sq: array<f32>;
        @group(1) @binding(0) var<uniform> h: Scalars;
        @compute @workgroup_size(256) fn step(@builtin(global_invocation_id) id: vec3<u32>) {
            let i = id.x;
            let g = grads[i];
            let m = exp_avg[i] + h.m * (g - exp_avg[i]);
            let v = h.beta2 * exp_avg_sq[i] + h.v * g * g;
            exp_avg[i] = m;
            exp_avg_sq[i] = v;
            params[i] -= h.step_size * m / (h.root_scale * sqrt(v) + h.eps);
        }";
    /// Adam at its defaults.
    const SCALARS: [f32; 6] = [0.1, 0.999, 0.001, 0.001, 1.0, 1e-8];

    fn new(device: &wgpu::Device, count: usize, len: u64) -> Self {
        let source = wgpu::ShaderSource::Wgsl(Self::ADAM.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("step"),
            compilation_options: Default::default(),
            cache: None,
        });
        let [tensors, scalars] = [0, 1].map(|group| pipeline.get_bind_group_layout(group));
        let tensor = || bind(device, &tensors, &[(); 4].map(|()| storage(device, len)));
        let tensors = (0..count).map(|_| tensor()).collect();
        Self { pipeline, scalars, tensors, groups: (len / 256) as u32 }
    }

    fn record(&self, device: &wgpu::Device, encoder: &mut wgpu::CommandEncoder) {
        let bytes: Vec<u8> = Self::SCALARS.iter().flat_map(|scalar| scalar.to_le_bytes()).collect();
        let (usage, size) = (wgpu::BufferUsages::UNIFORM, bytes.len() as u64);
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: true };
        let uniform = device.create_buffer(&descriptor);
        uniform.get_mapped_range_mut(..).expect("a new buffer").copy_from_slice(&bytes);
        uniform.unmap();
        let scalars = bind(device, &self.scalars, &[uniform]);
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(1, &scalars, &[]);
        for tensor in &self.tensors {
            pass.set_bind_group(0, tensor, &[]);
            pass.dispatch_workgroups(self.groups, 1, 1);
        }
    }
}

/// A bind group of `buffers` at bindings 0, 1, …
fn bind(device: &wgpu::Device, layout: &wgpu::BindGroupLayout, buffers: &[wgpu::Buffer]) -> wgpu::BindGroup {
    let entries: Vec<_> = (0..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
}

/// On wgpu's noop device, which validates and executes nothing: a step from an empty encoder to its submit, since
/// wgpu validates a pass when its encoder is finished, and keeps what is not submitted.
fn recording(criterion: &mut Criterion) {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    for mut pair in Pair::all(&device) {
        let mut group = criterion.benchmark_group(format!("record {}", pair.label));
        for (label, ours) in [("wgpu-optim", true), ("by hand", false)] {
            group.bench_function(label, |bench| {
                bench.iter(|| {
                    let mut encoder = device.create_command_encoder(&Default::default());
                    pair.record(&device, &mut encoder, ours);
                    queue.submit([encoder.finish()])
                });
            });
        }
    }
}

/// What a machine that has other work to do cannot blur: both steps in turn, and the median of the ratios.
fn in_turn(_: &mut Criterion) {
    // Tests run a bench without this.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let noop = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    for (device, queue) in std::iter::once(noop).chain(adapter()) {
        println!("\nfirst steps on {}:", device.adapter_info().name);
        first_steps(&device, &queue);
        println!("\nours / by hand, in turn, on {}:", device.adapter_info().name);
        for mut pair in Pair::all(&device) {
            // A device that executes is slower, and is asked less often.
            let rounds = if device.adapter_info().backend == wgpu::Backend::Noop { 400 } else { 100 };
            let rounds: Vec<[[f64; 2]; 2]> =
                (0..rounds).map(|_| [true, false].map(|ours| timed(&device, &queue, &mut pair, ours))).collect();
            for (what, doing) in [(0, "record"), (1, "record and submit")] {
                let of = |ours: usize| median(rounds.iter().map(|round| round[ours][what]));
                let ratio = median(rounds.iter().map(|round| round[0][what] / round[1][what]));
                println!("  {}, {doing}: {:.1} µs / {:.1} µs = {ratio:.2}", pair.label, of(0), of(1));
            }
        }
    }
}

/// Microseconds of recording, and of all from the encoder's making to its submit.
fn timed(device: &wgpu::Device, queue: &wgpu::Queue, pair: &mut Pair, ours: bool) -> [f64; 2] {
    let start = Instant::now();
    let mut encoder = device.create_command_encoder(&Default::default());
    let opened = start.elapsed();
    pair.record(device, &mut encoder, ours);
    let recorded = start.elapsed();
    queue.submit([encoder.finish()]);
    let submitted = start.elapsed();
    device.poll(wgpu::PollType::wait_indefinitely()).expect("a step that ends");
    [recorded - opened, submitted].map(|time| time.as_secs_f64() * 1e6)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What the first steps cost that later ones do not: with kernels of their own, and with kernels that have run.
fn first_steps(device: &wgpu::Device, queue: &wgpu::Queue) {
    let start = Instant::now();
    let mut fresh = Optimizer::new(device, Adam::PYTORCH, arena(device, 1)).expect("one tensor");
    println!("  new: {:.0} µs", start.elapsed().as_secs_f64() * 1e6);
    steps(device, queue, "new kernels", &mut fresh);
    let group = Group::new(Adam::PYTORCH, arena(device, 1));
    let mut shared = Optimizer::with_kernels(device, fresh.kernels(), [group]).expect("one tensor");
    steps(device, queue, "kernels that have run", &mut shared);
}

fn steps(device: &wgpu::Device, queue: &wgpu::Queue, label: &str, optimizer: &mut Optimizer<Adam>) {
    for step in 1..=3 {
        let mut encoder = device.create_command_encoder(&Default::default());
        let start = Instant::now();
        optimizer.record(device, &mut encoder).expect("a step");
        let recorded = start.elapsed();
        queue.submit([encoder.finish()]);
        let submitted = start.elapsed();
        device.poll(wgpu::PollType::wait_indefinitely()).expect("a step that ends");
        let [a, b, c] = [recorded, submitted - recorded, start.elapsed() - submitted].map(|t| t.as_secs_f64() * 1e6);
        println!("  step {step}, {label}: record {a:.0} µs, submit {b:.0} µs, wait {c:.0} µs");
    }
}

/// The adapter that wgpu picks, where there is one.
fn adapter() -> Option<(wgpu::Device, wgpu::Queue)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).ok()?;
    let required_limits = wgpu_optim::required_limits(&adapter);
    let descriptor = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
    pollster::block_on(adapter.request_device(&descriptor)).ok()
}

struct OnCpu<'a>(&'a mut Criterion);

impl Visitor for OnCpu<'_> {
    fn rule<R: Rule>(&mut self) {
        const LEN: usize = 64 << 10;
        let mut group = self.0.benchmark_group(format!("{} of 64 k elements on the CPU", R::NAME));
        group.throughput(Throughput::Elements(LEN as u64));
        for (case, settings) in R::cases() {
            // Ordinary gradients: a probe's hold subnormal numbers, which cost a CPU a hundred times as much.
            let grads: Vec<f32> = (0..LEN).map(|i| (i % 97) as f32 * 0.01 - 0.5).collect();
            let h = cast(&settings.fold(1));
            let mut tensor = Probe::new(&settings, LEN, 0, false).start;
            group.bench_function(format!("{case}, the plain twin"), |bench| {
                bench.iter(|| {
                    let slots = &mut tensor.slots;
                    wgpu_optim::cpu::step::<R, f32, _>(&settings, &h, &mut tensor.params, &grads, slots);
                });
            });
            let Ok(mut optimizer) = wgpu_optim::cpu::Optimizer::<R, f32>::new(settings, [("w", LEN)]) else { continue };
            group.bench_function(format!("{case}, all cores"), |bench| {
                bench.iter(|| optimizer.step_parallel(&mut [&mut tensor.params], &[&grads]));
            });
        }
    }
}

fn rules(criterion: &mut Criterion) {
    visit(&mut OnCpu(criterion));
}

criterion_group!(benches, in_turn, planning, folding, recording, rules);
criterion_main!(benches);
