//! What a chain refuses, by its message, and what it takes although there is nothing to do.

use wgpu_optim::chain::control::Control;
use wgpu_optim::{
    Adam, Chain, Clamp, Clip, ClipForm, Ema, Error, Group, Kernels, Norm, Optimizer, Over, Scaler, cpu, wgpu,
};

use crate::bench::{Bench, SPECS, grads, scaler};
use crate::support::{self, Gpu};

fn refusal(chain: &Chain) -> String {
    let error = cpu::Optimizer::<Adam, f32>::with_chain(chain.clone()).unwrap_err();
    assert_eq!(chain.check().unwrap_err(), error);
    if let Some(gpu) = support::gpu() {
        let kernels = Kernels::new(&gpu.device).unwrap();
        let groups: [Group<Adam>; 0] = [];
        let there = Optimizer::with_chain(&gpu.device, &kernels, chain.clone(), groups).unwrap_err();
        assert_eq!(there, error);
    }
    error.to_string()
}

#[test]
fn a_clip_holds_to_something() {
    for (max, told) in [(0.0, "0"), (-1.0, "-1"), (f64::NAN, "NaN"), (f64::INFINITY, "inf"), (1e-60, "1e-60")] {
        for clip in [Clip::global_norm(max), Clip::value(max), Clip::tensor_norm(max)] {
            let message = refusal(&Chain { clip: Some(clip), ..Chain::default() });
            assert_eq!(message, format!("chain: clip.max is {told}, expected clip.max > 0 that f32 can hold"));
        }
    }
}

#[test]
fn a_scaler_scales() {
    let refused = |scaler: Scaler| refusal(&Chain { scaler: Some(scaler), ..Chain::default() });
    for (init_scale, told) in [(0.0, "0"), (f64::NAN, "NaN"), (1e300, "1e300"), (1e-300, "1e-300")] {
        let message = refused(Scaler { init_scale, ..Scaler::PYTORCH });
        assert_eq!(
            message,
            format!("chain: scaler.init_scale is {told}, expected scaler.init_scale > 0 that f32 can hold")
        );
    }
    for growth_factor in [0.5, f64::NAN, f64::INFINITY] {
        let message = refused(Scaler { growth_factor, ..Scaler::PYTORCH });
        assert!(message.starts_with("chain: scaler.growth_factor is "), "{message}");
        assert!(message.contains("expected 1 <= scaler.growth_factor <= "), "{message}");
    }
    for (backoff_factor, expected) in [(1.5, "0 <= scaler.backoff_factor <= 1"), (0.0, "scaler.backoff_factor > 0")] {
        let message = refused(Scaler { backoff_factor, ..Scaler::PYTORCH });
        assert!(message.contains(expected), "{message}");
    }
    let message = refused(Scaler { growth_interval: 0, ..Scaler::PYTORCH });
    assert!(
        message.starts_with("chain: scaler.growth_interval is 0, expected scaler.growth_interval > 0"),
        "{message}"
    );
}

#[test]
fn a_clamp_has_two_ends_and_an_average_forgets() {
    for (min, max, setting) in
        [(1.0, -1.0, "max"), (f64::NAN, 0.0, "min"), (f64::NEG_INFINITY, 0.0, "min"), (0.0, 1e39, "max")]
    {
        let message = refusal(&Chain { clamp: Some(Clamp { min, max }), ..Chain::default() });
        assert!(message.starts_with(&format!("chain: clamp.{setting} is ")), "{message}");
    }
    for decay in [1.0, -0.1, f64::NAN] {
        let message = refusal(&Chain { ema: Some(Ema { decay, overwrite_every: 0 }), ..Chain::default() });
        assert!(message.ends_with("expected 0 <= ema.decay < 1"), "{message}");
    }
}

#[test]
fn gradients_of_the_cpu_are_not_zeroed() {
    let chain = Chain { zero_grads: true, ..Chain::default() };
    let error = cpu::Optimizer::<Adam, f32>::with_chain(chain.clone()).unwrap_err();
    let message = "chain: zero_grads is true, expected false on the CPU, where gradients are only read";
    assert_eq!(error.to_string(), message);
    let mut optimizer = cpu::Optimizer::<Adam, f32>::new(Adam::PYTORCH, [("w", 1)]).unwrap();
    assert_eq!(optimizer.retune_chain(chain).unwrap_err().to_string(), message);
    assert_eq!(optimizer.chain(), &Chain::default());
}

/// Every pair of chains of which one would need what the other has not.
fn apart() -> Vec<(Chain, Chain, &'static str)> {
    let none = Chain::default();
    let ema = Chain { ema: Some(Ema::KERAS), ..none.clone() };
    let sums = Chain { accumulate: true, ..none.clone() };
    let scaled = Chain { scaler: Some(Scaler::PYTORCH), ..none.clone() };
    let by = |clip: Clip| Chain { clip: Some(clip), ..none.clone() };
    let (value, norm) = (by(Clip::value(1.0)), by(Clip::tensor_norm(1.0)));
    vec![
        (none.clone(), ema, "ema cannot go from off to on"),
        (none.clone(), sums, "accumulate cannot go from off to on"),
        (none.clone(), scaled, "scaler cannot go from off to on"),
        (none.clone(), norm.clone(), "clip cannot go from off to by norm"),
        (none.clone(), value.clone(), "clip cannot go from off to by value"),
        (value, norm, "clip cannot go from by value to by norm"),
    ]
}

#[test]
fn what_needs_other_state_is_refused_both_ways() {
    let gpu = support::gpu();
    for (from, to, told) in apart() {
        let refused = |from: &Chain, to: &Chain| {
            let mut optimizer = cpu::Optimizer::<Adam, f32>::with_chain(from.clone()).unwrap();
            let error = optimizer.retune_chain(to.clone()).unwrap_err();
            assert!(matches!(error, Error::Chain { .. }));
            assert_eq!(optimizer.chain(), from);
            if let Some(gpu) = &gpu {
                let mut bench = Bench::new(gpu, from, &[Adam::PYTORCH, Adam::PYTORCH], &SPECS);
                assert_eq!(bench.optimizer.retune_chain(to.clone()).unwrap_err(), error);
                assert_eq!(bench.optimizer.chain(), from);
                bench.step(&grads(&SPECS, 0, 1.0));
            }
            error.to_string()
        };
        assert_eq!(refused(&from, &to), format!("chain: {told} between steps; build a new optimizer"));
        refused(&to, &from);
    }
}

/// Where a scaler measures anyway, the kind of clip is a number like another.
#[test]
fn under_a_scaler_a_clip_may_change_its_kind() {
    let Some(gpu) = support::gpu() else { return };
    let chain = |clip| Chain { clip: Some(clip), scaler: Some(scaler()), ..Chain::default() };
    let groups = [Adam::PYTORCH, Adam::PYTORCH];
    let by_norm = chain(Clip { max: 1e-3, over: Over::All, norm: Norm::Inf, form: ClipForm::Optax });
    let mut bench = Bench::new(&gpu, &chain(Clip::value(1.0)), &groups, &SPECS);
    bench.optimizer.retune_chain(by_norm.clone()).unwrap();
    let mut expected = Bench::new(&gpu, &by_norm, &groups, &SPECS);
    let grads = grads(&SPECS, 0, 1024.0);
    bench.step(&grads);
    expected.step(&grads);
    assert!(bench.world() == expected.world());
}

pub fn noop(limits: wgpu::Limits) -> Gpu {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::NOOP,
        backend_options: wgpu::BackendOptions { noop: wgpu::NoopBackendOptions::enabled(), ..Default::default() },
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    Gpu { device, queue }
}

#[test]
fn a_decision_needs_seven_storage_buffers_and_nothing_else_does() {
    let gpu = noop(wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..wgpu::Limits::default() });
    let kernels = Kernels::new(&gpu.device).unwrap();
    let groups: [Group<Adam>; 0] = [];
    for measures in [
        Chain { scaler: Some(Scaler::PYTORCH), ..Chain::default() },
        Chain { clip: Some(Clip::global_norm(1.0)), ..Chain::default() },
    ] {
        let error = Optimizer::with_chain(&gpu.device, &kernels, measures, groups.clone()).unwrap_err();
        let message = "the device's limit max_storage_buffers_per_shader_stage is 4, at least 7 is needed";
        assert_eq!(error.to_string(), message);
    }
    let undecided = Chain {
        clip: Some(Clip::value(1.0)),
        clamp: Some(Clamp { min: -1.0, max: 1.0 }),
        ema: Some(Ema::KERAS),
        zero_grads: true,
        ..Chain::default()
    };
    for chain in [Chain::default(), undecided] {
        let mut bench = Bench::new(&gpu, &chain, &[Adam::PYTORCH, Adam::PYTORCH], &SPECS);
        bench.optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
    }
}

#[test]
fn an_optimizer_of_nothing_waits_for_its_tensors() {
    let Some(gpu) = support::gpu() else { return };
    let chain = Chain { clip: Some(Clip::global_norm(0.5)), scaler: Some(scaler()), ..Chain::default() };
    let groups = [Adam::PYTORCH, Adam::PYTORCH];
    let mut bench = Bench::with_later(&gpu, &chain, &groups, &[], &SPECS);
    let mut expected = Bench::new(&gpu, &chain, &groups, &SPECS);
    let mut encoder = bench.encoder();
    bench.record(&mut encoder);
    gpu.queue.submit([encoder.finish()]);
    assert_eq!(bench.scaler(), (1024.0, 0, 0));
    for (tensor, (group, ..)) in bench.later(&SPECS).into_iter().zip(SPECS) {
        bench.optimizer.add_tensors(&gpu.device, group, [tensor]).unwrap();
    }
    let grads = grads(&SPECS, 0, 1024.0);
    bench.step(&grads);
    expected.step(&grads);
    assert!(bench.world().params == expected.world().params);
}

#[test]
fn where_all_are_frozen_there_is_no_step_and_the_scale_stays() {
    let chain =
        Chain { scaler: Some(Scaler { growth_interval: 1, ..scaler() }), zero_grads: false, ..Chain::default() };
    let mut twin = cpu::Optimizer::<Adam, f32>::with_chain(chain.clone()).unwrap();
    twin.add_group(Adam::PYTORCH, [("w", 2)]).unwrap();
    twin.freeze(["w"]).unwrap();
    let before = *twin.control();
    twin.step(&mut [&mut [1.0, 2.0]], &[&[f32::NAN, 1.0]]).unwrap();
    assert_eq!((*twin.control(), twin.step_of("w").unwrap()), (before, 0));
    let Some(gpu) = support::gpu() else { return };
    let mut bench = Bench::new(&gpu, &chain, &[Adam::PYTORCH, Adam::PYTORCH], &SPECS);
    bench.optimizer.freeze((0..6).map(|i| format!("t{i}"))).unwrap();
    bench.write_grads(&[vec![f32::NAN]]);
    let before = bench.world();
    bench.optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
    assert!(bench.world() == before);
    assert_eq!(bench.scaler(), (1024.0, 0, 0));
}

/// Memories of a scaler of interval 3 that it cannot have come to, with what is told of them.
const NEVER: [(f32, u32, &str); 6] = [
    (f32::NAN, 0, "scaler.scale is NaN, expected a finite number > 0"),
    (f32::INFINITY, 0, "scaler.scale is inf, expected a finite number > 0"),
    (0.0, 0, "scaler.scale is 0, expected a finite number > 0"),
    (-8.0, 0, "scaler.scale is -8, expected a finite number > 0"),
    (8.0, 3, "scaler.growth_tracker is 3, expected scaler.growth_tracker < scaler.growth_interval, which is 3"),
    (8.0, u32::MAX, "scaler.growth_tracker is 4294967295, expected scaler.growth_tracker < "),
];

#[test]
fn a_memory_that_no_scaler_came_to_is_refused_and_the_old_one_stays() {
    let chain = Chain { scaler: Some(Scaler { growth_interval: 3, ..scaler() }), ..Chain::default() };
    let gpu = support::gpu();
    let bench = gpu.as_ref().map(|gpu| Bench::new(gpu, &chain, &[Adam::PYTORCH, Adam::PYTORCH], &SPECS));
    let mut twin = cpu::Optimizer::<Adam, f32>::with_chain(chain).unwrap();
    for (scale, growth_tracker, told) in NEVER {
        let control = Control { scale, growth_tracker, skipped: 0 };
        let error = twin.set_control(control).unwrap_err();
        assert!(error.to_string().starts_with(&format!("chain: {told}")), "{error}");
        assert_eq!(twin.control().scale, 1024.0);
        if let Some(bench) = &bench {
            assert_eq!(
                bench.optimizer.write_control(&bench.gpu.queue, &control).unwrap_err().to_string(),
                error.to_string()
            );
            assert_eq!(bench.scaler(), (1024.0, 0, 0));
        }
    }
    let taken = Control { scale: 8.0, growth_tracker: 2, skipped: 5 };
    twin.set_control(taken).unwrap();
    assert_eq!(*twin.control(), taken);
    if let Some(bench) = &bench {
        bench.optimizer.write_control(&bench.gpu.queue, &taken).unwrap();
        assert_eq!(bench.scaler(), (8.0, 2, 5));
    }
}

#[test]
fn without_a_scaler_there_is_no_memory_to_put_back() {
    let mut twin = cpu::Optimizer::<Adam, f32>::with_chain(Chain::default()).unwrap();
    let error = twin.set_control(Control { scale: 8.0, growth_tracker: 0, skipped: 0 }).unwrap_err();
    assert_eq!(error.to_string(), "chain: scaler.scale is 8, expected 1, since there is no scaler");
    let error = twin.set_control(Control { scale: 1.0, growth_tracker: 4, skipped: 0 }).unwrap_err();
    assert_eq!(error.to_string(), "chain: scaler.growth_tracker is 4, expected 0, since there is no scaler");
    twin.set_control(*twin.control()).unwrap();
}

/// What is told can always be put back, also where the interval became shorter than the tracker had come.
#[test]
fn a_shorter_interval_leaves_a_memory_that_can_be_put_back() {
    let chain = |growth_interval| Chain { scaler: Some(Scaler { growth_interval, ..scaler() }), ..Chain::default() };
    let mut twin = cpu::Optimizer::<Adam, f32>::with_chain(chain(100)).unwrap();
    twin.add_group(Adam::PYTORCH, [("w", 1)]).unwrap();
    (0..5).for_each(|_| twin.step(&mut [&mut [1.0]], &[&[1.0]]).unwrap());
    twin.retune_chain(chain(3)).unwrap();
    assert_eq!(twin.control().growth_tracker, 2);
    twin.set_control(*twin.control()).unwrap();
    twin.step(&mut [&mut [1.0]], &[&[1.0]]).unwrap();
    assert_eq!((twin.control().scale, twin.control().growth_tracker), (2048.0, 0));
    let Some(gpu) = support::gpu() else { return };
    let mut bench = Bench::new(&gpu, &chain(100), &[Adam::PYTORCH, Adam::PYTORCH], &SPECS);
    (0..5).for_each(|step| bench.step(&grads(&SPECS, step, 1024.0)));
    bench.optimizer.retune_chain(chain(3)).unwrap();
    let control = bench.optimizer.read_control_blocking(&gpu.device, &gpu.queue).unwrap();
    assert_eq!(control.growth_tracker, 2);
    bench.optimizer.write_control(&gpu.queue, &control).unwrap();
    bench.step(&grads(&SPECS, 5, 1024.0));
    assert_eq!(bench.scaler(), (2048.0, 0, 0));
}
