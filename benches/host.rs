//! What a step costs the host: planning, folding, recording, and the rules on the CPU.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wgpu_optim::envelope::Probe;
use wgpu_optim::plan::Limits;
use wgpu_optim::rule::{Rule, Visitor, cast, visit};
use wgpu_optim::{Adam, Arena, Optimizer, memory_plan, wgpu};

fn planning(criterion: &mut Criterion) {
    let names: Vec<String> = (0..1000).map(|i| format!("layer.{i}")).collect();
    let tensors: Vec<(&str, u64)> = (0..).zip(&names).map(|(i, name)| (name.as_str(), 1000 + 61 * i)).collect();
    let groups = [(Adam::PYTORCH, tensors)];
    criterion.bench_function("plan 1000 tensors", |bench| {
        bench.iter(|| memory_plan(black_box(&groups), &Limits::DEFAULT));
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

/// On wgpu's noop device, which validates and executes nothing.
fn recording(criterion: &mut Criterion) {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    for count in [1, 1000] {
        let names: Vec<String> = (0..count).map(|i| i.to_string()).collect();
        let Ok(arena) = Arena::new(&device, names.iter().map(|name| (name.as_str(), 1024))) else { return };
        let Ok(mut optimizer) = Optimizer::new(&device, Adam::PYTORCH, arena.tensors()) else { return };
        criterion.bench_function(&format!("record {count} tensors of an arena"), |bench| {
            bench.iter(|| {
                let mut encoder = device.create_command_encoder(&Default::default());
                let recorded = optimizer.record(&device, &mut encoder);
                // What a step makes is let go when it has been submitted.
                queue.submit([encoder.finish()]);
                recorded
            });
        });
    }
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
            group.bench_function(case, |bench| {
                bench.iter(|| {
                    let slots = &mut tensor.slots;
                    wgpu_optim::cpu::step::<R, f32>(&settings, &h, &mut tensor.params, &grads, slots);
                });
            });
        }
    }
}

fn rules(criterion: &mut Criterion) {
    visit(&mut OnCpu(criterion));
}

criterion_group!(benches, planning, folding, recording, rules);
criterion_main!(benches);
