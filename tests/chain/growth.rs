//! How the scale moves, on the device and on the CPU, and who can read it.

use wgpu_optim::{Adam, Chain, Scaler, cpu, wgpu};

use crate::bench::{Bench, download, scaler};
use crate::support;

const SPEC: [(usize, usize, usize); 1] = [(0, 0, 5)];

/// The scale and the tracker after each step, the same on both; `.` is a clean step, `x` one with an infinity.
fn moves(scaler: Scaler, steps: &str) -> Vec<(f32, u32)> {
    let chain = Chain { scaler: Some(scaler), ..Chain::default() };
    let mut twin = cpu::Optimizer::<Adam, f32>::with_chain(chain.clone()).unwrap();
    twin.add_group(Adam::PYTORCH, [("t0", 5)]).unwrap();
    let mut bench = support::gpu().map(|gpu| Bench::new(&gpu, &chain, &[Adam::PYTORCH], &SPEC));
    let mut params = [0.0; 5];
    let step = |step: char| {
        let grads = [1.0, 2.0, 3.0, 4.0, if step == 'x' { f32::INFINITY } else { 5.0 }];
        twin.step(&mut [&mut params], &[&grads]).unwrap();
        let control = *twin.control();
        if let Some(bench) = &mut bench {
            bench.step(&[grads.to_vec()]);
            let (scale, tracker, skipped) = bench.scaler();
            assert_eq!((scale, tracker), (control.scale, control.growth_tracker));
            assert_eq!(u64::from(skipped), control.skipped);
        }
        (control.scale, control.growth_tracker)
    };
    steps.chars().map(step).collect()
}

#[test]
fn the_scale_grows_after_clean_steps_and_backs_off_after_others() {
    let scaler = Scaler { init_scale: 8.0, growth_factor: 4.0, backoff_factor: 0.25, growth_interval: 3 };
    let expected = [(8.0, 1), (8.0, 2), (32.0, 0), (32.0, 1), (32.0, 2), (8.0, 0), (8.0, 1), (2.0, 0), (0.5, 0)];
    assert_eq!(moves(scaler, ".....x.xx"), expected);
}

#[test]
fn a_scale_that_would_overflow_or_vanish_stays() {
    let grown = Scaler { init_scale: 2f64.powi(127), growth_interval: 1, ..Scaler::PYTORCH };
    assert_eq!(
        moves(grown, "..x."),
        [(2f32.powi(127), 0), (2f32.powi(127), 0), (2f32.powi(126), 0), (2f32.powi(127), 0)]
    );
    let small = Scaler { init_scale: 2f64.powi(-125), growth_interval: 9, ..Scaler::PYTORCH };
    let least = f32::MIN_POSITIVE;
    assert_eq!(moves(small, "xxx."), [(least, 0), (least, 0), (least, 0), (least, 1)]);
}

#[test]
fn a_shorter_interval_counts_at_once() {
    let mut chain = Chain { scaler: Some(Scaler { growth_interval: 100, ..scaler() }), ..Chain::default() };
    let mut twin = cpu::Optimizer::<Adam, f32>::with_chain(chain.clone()).unwrap();
    twin.add_group(Adam::PYTORCH, [("t0", 5)]).unwrap();
    let bench = support::gpu().map(|gpu| Bench::new(&gpu, &chain, &[Adam::PYTORCH], &SPEC));
    let Some(mut bench) = bench else { return };
    let mut params = [0.0; 5];
    let mut step = |twin: &mut cpu::Optimizer<Adam, f32>, bench: &mut Bench<Adam>| {
        twin.step(&mut [&mut params], &[&[1.0; 5]]).unwrap();
        bench.step(&[vec![1.0; 5]]);
        let control = *twin.control();
        assert_eq!(bench.scaler(), (control.scale, control.growth_tracker, 0));
        (control.scale, control.growth_tracker)
    };
    (0..5).for_each(|_| _ = step(&mut twin, &mut bench));
    chain.scaler = Some(Scaler { growth_interval: 3, ..scaler() });
    twin.retune_chain(chain.clone()).unwrap();
    bench.optimizer.retune_chain(chain).unwrap();
    assert_eq!(step(&mut twin, &mut bench), (2048.0, 0));
}

/// The scale as a kernel of the caller's sees it, bound as a uniform in the encoder of the step.
#[test]
fn a_kernel_of_the_callers_reads_the_scale() {
    let Some(gpu) = support::gpu() else { return };
    let chain = Chain { scaler: Some(Scaler { growth_interval: 1, ..scaler() }), ..Chain::default() };
    let mut bench = Bench::new(&gpu, &chain, &[Adam::PYTORCH], &SPEC);
    let device = &gpu.device;
    let source = wgpu::ShaderSource::Wgsl(
        "@group(0) @binding(0) var<uniform> scale: f32;
         @group(0) @binding(1) var<storage, read_write> loss: array<f32>;
         @compute @workgroup_size(1) fn main() { loss[0] = 3.0 * scale; }"
            .into(),
    );
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let descriptor = wgpu::BufferDescriptor { label: None, size: 4, usage, mapped_at_creation: false };
    let losses = [(); 3].map(|()| device.create_buffer(&descriptor));
    bench.write_grads(&[vec![1.0; 5]]);
    let mut encoder = bench.encoder();
    for loss in &losses {
        let scale = bench.optimizer.scale().unwrap();
        let entries = [scale, loss].map(|buffer| buffer.as_entire_binding());
        let mut binding = 0..;
        let entries = entries.map(|resource| wgpu::BindGroupEntry { binding: binding.next().unwrap(), resource });
        let layout = &pipeline.get_bind_group_layout(0);
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries });
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
        drop(pass);
        bench.record(&mut encoder);
    }
    gpu.queue.submit([encoder.finish()]);
    let seen = losses.each_ref().map(|loss| f32::from_bits(download(&gpu, &loss.into())[0]));
    assert_eq!(seen, [3072.0, 6144.0, 12288.0]);
}
