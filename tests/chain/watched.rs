//! What steps tell of their updates: that of the parameters as they lie before and after, the twin's, and at no price in bits.

use std::time::Instant;

use wgpu_optim::{
    Adam, Arena, Chain, Clamp, Clip, Ema, Error, Group, Kernels, Optimizer, RmsProp, Rule, Scaler, Telemetry, Update,
    Watch, cpu, readback, wgpu,
};

use crate::bench::{Bench, SPECS, Spec, grads, scaler, small, twin};
use crate::shown::Shown;
use crate::support::{self, Gpu};

const UPDATES: Watch = Watch { depth: 4, updates: true };

/// What has become of the steps that are submitted, once as many have come as are expected.
fn told<R: Rule>(gpu: &Gpu, optimizer: &mut Optimizer<R>, expected: usize) -> Vec<Telemetry> {
    let (mut told, start) = (Vec::new(), Instant::now());
    // The device is shared: another test's poll may have taken what is about to be told.
    while told.len() < expected && start.elapsed().as_secs() < 10 {
        gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        told.extend(optimizer.telemetry());
    }
    told
}

/// What lies in `f64` between two states of the parameters.
fn between(before: &[Vec<f32>], after: &[Vec<f32>]) -> Update {
    let pairs = before.iter().flatten().zip(after.iter().flatten());
    let by: Vec<f64> = pairs.map(|(before, after)| f64::from(*after) - f64::from(*before)).collect();
    let norm = by.iter().map(|by| by * by).sum::<f64>().sqrt();
    Update { norm, largest: by.iter().fold(0.0, |most, by| by.abs().max(most)) }
}

fn close(told: &Telemetry, expected: Update, within: f64, what: &str) {
    let (norm, largest) = (f64::from(told.update_norm.unwrap()), f64::from(told.largest_update.unwrap()));
    let near = |told: f64, expected: f64| (told - expected).abs() <= within * expected.abs();
    assert!(near(norm, expected.norm), "{what}: a norm of {norm:e} for {:e}", expected.norm);
    assert!(near(largest, expected.largest), "{what}: {largest:e} is largest, for {:e}", expected.largest);
}

fn params<R: Rule>(bench: &Bench<R>) -> Vec<Vec<f32>> {
    (0..bench.specs.len()).map(|i| bench.params_of(i)).collect()
}

fn chains() -> Vec<Chain> {
    let none = Chain::default();
    let ema = Some(Ema { decay: 0.9, overwrite_every: 2 });
    let clamp = Some(Clamp { min: 0.1, max: 0.4 });
    vec![
        none.clone(),
        Chain { clip: Some(Clip::value(0.1)), ..none.clone() },
        Chain { clamp, ema: ema.clone(), ..none.clone() },
        Chain { clip: Some(Clip::global_norm(0.5)), ..none.clone() },
        Chain { clip: Some(Clip::tensor_norm(0.5)), zero_grads: true, ..none.clone() },
        Chain { scaler: Some(scaler()), ema, ..none },
    ]
}

/// Steps with and without being watched, on quads, words and tails: same bits, and what is told lies between them.
fn watches<R: Rule>(gpu: &Gpu, chain: &Chain, groups: &[R], specs: &[Spec]) {
    let mut bench = Bench::new(gpu, chain, groups, specs);
    let mut plain = Bench::new(gpu, chain, groups, specs);
    bench.optimizer.watch(&gpu.device, UPDATES).unwrap();
    let scale = if chain.scaler.is_some() { 1024.0 } else { 1.0 };
    for step in 0..4 {
        let mut grads = grads(specs, step, if step > 2 { scale / 2.0 } else { scale });
        let skipped = step == 2 && chain.scaler.is_some();
        if skipped {
            grads[1][2] = f32::NAN;
        }
        let before = params(&bench);
        bench.step(&grads);
        plain.step(&grads);
        let told = told(gpu, &mut bench.optimizer, 1);
        let what = format!("{} {chain:?}, step {step}", R::NAME);
        let [told] = told.as_slice() else { panic!("{what}: {told:?}") };
        assert_eq!((told.number, told.skipped), (step, skipped), "{what}");
        assert_eq!(told.grad_norm.is_some(), chain.scaler.is_some() || measures(chain), "{what}");
        let expected = between(&before, &params(&bench));
        assert_eq!(expected == Update::default(), skipped, "{what}");
        close(told, expected, 1e-6, &what);
        bench.check_canaries();
    }
    assert!(bench.world() == plain.world(), "{} {chain:?}: watching left a trace", R::NAME);
}

fn measures(chain: &Chain) -> bool {
    chain.clip.as_ref().is_some_and(|clip| clip.over != wgpu_optim::Over::Value)
}

#[test]
fn what_is_told_lies_between_the_parameters_before_and_after_and_leaves_no_trace() {
    let Some(gpu) = support::gpu() else { return };
    for chain in chains() {
        watches(&gpu, &chain, &[Adam { lr: 0.01, ..Adam::PYTORCH }, Adam { lr: 0.1, ..Adam::KERAS }], &SPECS);
        let rmsprop = RmsProp { momentum: 0.9, centered: true, ..RmsProp::KERAS };
        watches(&gpu, &chain, &[rmsprop.clone(), rmsprop], &SPECS);
    }
}

#[test]
fn windows_and_folded_grids_are_summed_up() {
    let Some(gpu) = small() else { return };
    watches(&gpu, &Chain::default(), &[Adam::PYTORCH], &[(0, 0, 100_003), (0, 1, 90_001), (0, 0, 257)]);
}

/// The CPU's numbers, by both of its steps, are those of the device.
#[test]
fn the_twin_tells_the_same() {
    let Some(gpu) = support::gpu() else { return };
    for chain in chains().into_iter().filter(|chain| !chain.zero_grads) {
        let groups = [Adam { lr: 0.01, ..Adam::PYTORCH }, Adam { lr: 0.1, ..Adam::KERAS }];
        let mut bench = Bench::new(&gpu, &chain, &groups, &SPECS);
        let mut twin = twin(&chain, &groups, &SPECS);
        assert_eq!(twin.update(), None);
        let mut own = params(&bench);
        twin.watch_updates(true);
        bench.optimizer.watch(&gpu.device, UPDATES).unwrap();
        for step in 0..4 {
            let mut grads = grads(&SPECS, step, if chain.scaler.is_some() { 1024.0 } else { 1.0 });
            if step == 3 && chain.scaler.is_some() {
                grads[1][2] = f32::NAN;
            }
            bench.step(&grads);
            let mut slices: Vec<&mut [f32]> = own.iter_mut().map(Vec::as_mut_slice).collect();
            let grads: Vec<&[f32]> = grads.iter().map(Vec::as_slice).collect();
            twin.step(&mut slices, &grads).unwrap();
            let [told] = told(&gpu, &mut bench.optimizer, 1).try_into().unwrap();
            close(&told, twin.update().unwrap(), 2e-5, &format!("{chain:?}, step {step}"));
        }
    }
}

#[cfg(feature = "parallel")]
#[test]
fn both_steps_of_the_cpu_tell_the_same_bits() {
    let specs: [Spec; 3] = [(0, 0, 200_001), (0, 0, 3), (0, 0, 65_536)];
    let tell = |threads: usize| {
        let mut twin = twin(&Chain::default(), &[Adam::PYTORCH], &specs);
        twin.watch_updates(true);
        let mut own: Vec<Vec<f32>> = specs.iter().map(|&(_, _, len)| vec![0.25; len]).collect();
        let mut slices: Vec<&mut [f32]> = own.iter_mut().map(Vec::as_mut_slice).collect();
        let grads = grads(&specs, 0, 1.0);
        let grads: Vec<&[f32]> = grads.iter().map(Vec::as_slice).collect();
        match threads {
            0 => twin.step(&mut slices, &grads).unwrap(),
            _ => {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| twin.step_parallel(&mut slices, &grads)).unwrap();
            }
        }
        let before: Vec<Vec<f32>> = specs.iter().map(|&(_, _, len)| vec![0.25; len]).collect();
        let (update, expected) = (twin.update().unwrap(), between(&before, &own));
        assert!((update.norm / expected.norm - 1.0).abs() < 1e-12 && update.largest == expected.largest);
        update
    };
    assert_eq!([tell(1), tell(2), tell(5)], [tell(0); 3]);
}

/// Squares of these fit no `f32`; nor do 0 and an infinity hide among them.
#[test]
fn updates_of_any_size_are_told() {
    let Some(gpu) = support::gpu() else { return };
    for size in [1e-20f32, 1e-12, 1.0, 1e12, 1e19, 3e38] {
        let mut bench = Bench::new(&gpu, &Chain::default(), &[Shown::GRADIENT], &[(0, 0, 1027), (0, 1, 5)]);
        bench.optimizer.watch(&gpu.device, UPDATES).unwrap();
        gpu.queue.write_buffer(&bench.params, 0, &vec![0; bench.params.size() as usize]);
        bench.step(&[vec![size; 1027], vec![0.5 * size; 5]]);
        let [told] = told(&gpu, &mut bench.optimizer, 1).try_into().unwrap();
        let norm = f64::from(size) * (1027.0f64 + 0.25 * 5.0).sqrt();
        if norm > f64::from(f32::MAX) {
            assert_eq!((told.update_norm, told.largest_update), (Some(f32::INFINITY), Some(size)));
        } else {
            close(&told, Update { norm, largest: size.into() }, 1e-6, &format!("{size:e}"));
        }
        assert_eq!((told.lr, told.grad_norm, told.nonfinite, told.clip, told.scale), (None, None, None, 1.0, 1.0));
    }
}

#[test]
fn an_update_that_is_not_finite_is_infinite() {
    let Some(gpu) = support::gpu() else { return };
    for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::from_bits(0x7f80_0001)] {
        for (tensor, element) in [(0, 0), (0, 1026), (1, 4)] {
            let specs = [(0, 0, 1027), (0, 1, 5)];
            let mut bench = Bench::new(&gpu, &Chain::default(), &[Shown::GRADIENT], &specs);
            let mut twin = twin(&Chain::default(), &[Shown::GRADIENT], &specs);
            twin.watch_updates(true);
            bench.optimizer.watch(&gpu.device, UPDATES).unwrap();
            let mut grads = [vec![0.5; 1027], vec![0.5; 5]];
            grads[tensor][element] = bad;
            bench.step(&grads);
            let [told] = told(&gpu, &mut bench.optimizer, 1).try_into().unwrap();
            let infinite = (Some(f32::INFINITY), Some(f32::INFINITY));
            assert_eq!((told.update_norm, told.largest_update), infinite, "{bad} at {element}");
            twin.step(&mut [&mut [0.0; 1027], &mut [0.0; 5]], &[&grads[0], &grads[1]]).unwrap();
            assert_eq!(twin.update(), Some(Update { norm: f64::INFINITY, largest: f64::INFINITY }));
        }
    }
}

/// In an arena a quad reaches over the end of a tensor. What a step makes of what lies there is nobody's update: a clamp lifts
/// it from 0, and without an eps it is 0 / 0.
#[test]
fn padding_is_nobodys_update() {
    let Some(gpu) = support::gpu() else { return };
    let cases = [
        (Adam::PYTORCH, Chain { clamp: Some(Clamp { min: 2.0, max: 9.0 }), ..Chain::default() }),
        (Adam { eps: 0.0, ..Adam::PYTORCH }, Chain::default()),
    ];
    for (settings, chain) in cases {
        let arena = Arena::new(&gpu.device, [("a", 5), ("b", 1), ("c", 1023)]).unwrap();
        let kernels = Kernels::new(&gpu.device).unwrap();
        let group = [Group::new(settings, arena.tensors())];
        let mut optimizer = Optimizer::with_chain(&gpu.device, &kernels, chain.clone(), group).unwrap();
        optimizer.watch(&gpu.device, UPDATES).unwrap();
        let read = |name: &str| -> Vec<f32> {
            let range = arena.params(name).unwrap();
            bytemuck::pod_collect_to_vec(&readback::download_blocking(&gpu.device, &gpu.queue, range).unwrap())
        };
        for (name, len) in [("a", 5), ("b", 1), ("c", 1023)] {
            for (range, value) in [(arena.params(name), 3.0f32), (arena.grads(name), 0.5)] {
                let range = range.unwrap();
                gpu.queue.write_buffer(range.buffer(), range.offset(), bytemuck::cast_slice(&vec![value; len]));
            }
        }
        for step in 0..2 {
            let before = ["a", "b", "c"].map(read);
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            optimizer.record(&gpu.device, &mut encoder).unwrap();
            gpu.queue.submit([encoder.finish()]);
            let [told] = told(&gpu, &mut optimizer, 1).try_into().unwrap();
            let expected = between(&before, &["a", "b", "c"].map(read));
            assert!(expected.norm > 0.0);
            close(&told, expected, 1e-6, &format!("{chain:?}, step {step}"));
        }
    }
}

#[test]
fn steps_of_one_encoder_each_tell_their_own_and_tell_it_again() {
    let Some(gpu) = support::gpu() else { return };
    let chain = Chain { clip: Some(Clip::global_norm(0.5)), ..Chain::default() };
    let groups = [Adam { lr: 0.01, ..Adam::PYTORCH }, Adam { lr: 0.1, ..Adam::KERAS }];
    let grads = grads(&SPECS, 0, 1.0);
    let mut single = Bench::new(&gpu, &chain, &groups, &SPECS);
    single.optimizer.watch(&gpu.device, UPDATES).unwrap();
    (0..3).for_each(|_| single.step(&grads));
    let mut ahead = Bench::new(&gpu, &chain, &groups, &SPECS);
    ahead.optimizer.watch(&gpu.device, UPDATES).unwrap();
    ahead.write_grads(&grads);
    let mut encoder = ahead.encoder();
    (0..3).for_each(|_| ahead.record(&mut encoder));
    gpu.queue.submit([encoder.finish()]);
    let (single, ahead) = (told(&gpu, &mut single.optimizer, 3), told(&gpu, &mut ahead.optimizer, 3));
    assert_eq!(single, ahead, "to the bit");
    assert_eq!(
        single.iter().map(|told| (told.number, told.lr)).collect::<Vec<_>>(),
        [0, 1, 2].map(|n| (n, Some(0.01)))
    );
    assert!(single[0].update_norm != single[1].update_norm);
}

/// What is bound follows tensors: frozen, moved, added.
#[test]
fn tensors_that_are_frozen_moved_or_added_are_followed() {
    let Some(gpu) = support::gpu() else { return };
    for chain in [Chain::default(), Chain { clip: Some(Clip::tensor_norm(0.5)), ..Chain::default() }] {
        let later: [Spec; 1] = [(1, 0, 1026)];
        let mut bench = Bench::with_later(&gpu, &chain, &[Adam::PYTORCH, Adam::PYTORCH], &SPECS, &later);
        bench.optimizer.watch(&gpu.device, UPDATES).unwrap();
        let holds = |bench: &mut Bench<Adam>, what: &str, step: u64| {
            let before = params(bench);
            let specs = bench.specs.clone();
            let buffer = bench.more_grads(&grads(&specs, step, 1.0));
            if what == "moved" {
                bench.rebind(&buffer);
            }
            bench.write_grads(&grads(&specs, step, 1.0));
            let mut encoder = bench.encoder();
            bench.record(&mut encoder);
            gpu.queue.submit([encoder.finish()]);
            let [told] = told(&gpu, &mut bench.optimizer, 1).try_into().unwrap();
            let expected = between(&before, &params(bench));
            assert!(expected.norm > 0.0, "{what}");
            close(&told, expected, 1e-6, what);
        };
        holds(&mut bench, "first", 0);
        bench.optimizer.freeze(["t1", "t4"]).unwrap();
        holds(&mut bench, "frozen", 1);
        bench.optimizer.thaw(["t1"]).unwrap();
        holds(&mut bench, "thawed", 2);
        holds(&mut bench, "moved", 3);
        let [tensor] = bench.later(&later).try_into().unwrap();
        bench.optimizer.add_tensors(&gpu.device, 1, [tensor]).unwrap();
        holds(&mut bench, "added", 4);
    }
}

#[test]
fn what_is_not_asked_for_is_not_told() {
    let Some(gpu) = support::gpu() else { return };
    let chain = Chain { clip: Some(Clip::global_norm(0.5)), ..Chain::default() };
    let mut bench = Bench::new(&gpu, &chain, &[Adam::PYTORCH, Adam::PYTORCH], &SPECS);
    let step = |bench: &mut Bench<Adam>, expected: usize| {
        bench.step(&grads(&SPECS, 0, 1.0));
        told(&gpu, &mut bench.optimizer, expected)
            .into_iter()
            .map(|told| told.update_norm.is_some())
            .collect::<Vec<_>>()
    };
    assert!(step(&mut bench, 0).is_empty());
    bench.optimizer.watch(&gpu.device, 2).unwrap();
    assert_eq!(step(&mut bench, 1), [false]);
    bench.optimizer.watch(&gpu.device, UPDATES).unwrap();
    assert_eq!(step(&mut bench, 1), [true]);
    // A pass has no copies, and so no telemetry: what comes next is that of the step after it.
    let mut encoder = bench.encoder();
    let mut pass = encoder.begin_compute_pass(&Default::default());
    bench.optimizer.record_in(&gpu.device, &mut pass).unwrap();
    drop(pass);
    gpu.queue.submit([encoder.finish()]);
    assert_eq!(step(&mut bench, 1), [true]);
    bench.optimizer.watch(&gpu.device, 0).unwrap();
    assert!(step(&mut bench, 0).is_empty());
}

#[test]
fn where_nothing_is_measured_only_updates_can_be_watched() {
    let Some(gpu) = support::gpu() else { return };
    let mut bench = Bench::new(&gpu, &Chain::default(), &[Adam::PYTORCH, Adam::PYTORCH], &SPECS);
    let error = bench.optimizer.watch(&gpu.device, 4).unwrap_err();
    assert!(matches!(&error, Error::Refused { doing, .. } if doing == "telemetry"), "{error}");
    assert!(error.to_string().ends_with("watch updates, or set one"), "{error}");
    bench.optimizer.watch(&gpu.device, UPDATES).unwrap();
    assert!(bench.optimizer.watch(&gpu.device, 4).is_err());
    bench.step(&grads(&SPECS, 0, 1.0));
    assert_eq!(told(&gpu, &mut bench.optimizer, 1).len(), 1, "what was watched before still is");
}

#[test]
fn updates_need_no_more_than_the_defaults_and_say_what_they_need() {
    let too_few = [
        (wgpu::Limits { max_bind_groups: 2, ..wgpu::Limits::default() }, "max_bind_groups is 2, at least 3"),
        (
            wgpu::Limits { max_uniform_buffers_per_shader_stage: 2, ..wgpu::Limits::default() },
            "max_uniform_buffers_per_shader_stage is 2, at least 3",
        ),
        (
            wgpu::Limits { max_dynamic_uniform_buffers_per_pipeline_layout: 1, ..wgpu::Limits::default() },
            "max_dynamic_uniform_buffers_per_pipeline_layout is 1, at least 2",
        ),
    ];
    for (limits, told) in too_few {
        let gpu = crate::refusals::noop(limits);
        let mut bench = Bench::new(&gpu, &Chain::default(), &[Adam::PYTORCH, Adam::PYTORCH], &SPECS);
        let error = bench.optimizer.watch(&gpu.device, UPDATES).unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
        bench.optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
    }
    let gpu = crate::refusals::noop(wgpu::Limits::default());
    let mut bench = Bench::new(&gpu, &Chain::default(), &[Adam::PYTORCH, Adam::PYTORCH], &SPECS);
    bench.optimizer.watch(&gpu.device, UPDATES).unwrap();
    bench.optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
}

/// What is not stepped is not moved, whatever lies there.
#[test]
fn a_frozen_tensor_of_no_numbers_is_no_update() {
    let specs: [Spec; 2] = [(0, 0, 9), (0, 0, 6)];
    let mut twin = twin(&Chain::default(), &[Shown::GRADIENT], &specs);
    twin.watch_updates(true);
    twin.freeze(["t0"]).unwrap();
    let grads = [vec![1.0; 9], vec![0.5; 6]];
    twin.step(&mut [&mut [f32::NAN; 9], &mut [1.0; 6]], &[&grads[0], &grads[1]]).unwrap();
    let expected = Update { norm: (6.0f64 * 0.25).sqrt(), largest: 0.5 };
    assert_eq!(twin.update(), Some(expected));
    let Some(gpu) = support::gpu() else { return };
    let mut bench = Bench::new(&gpu, &Chain::default(), &[Shown::GRADIENT], &specs);
    let frozen = bench.optimizer.tensors()[0].params().offset();
    gpu.queue.write_buffer(&bench.params, frozen, &[0xff; 36]);
    bench.optimizer.watch(&gpu.device, UPDATES).unwrap();
    bench.optimizer.freeze(["t0"]).unwrap();
    assert!(bench.params_of(0).iter().all(|p| p.is_nan()) && bench.params_of(1).iter().all(|p| p.is_finite()));
    bench.step(&grads);
    let [told] = told(&gpu, &mut bench.optimizer, 1).try_into().unwrap();
    close(&told, expected, 1e-6, "frozen");
}

/// A step of nothing moves nothing.
#[test]
fn a_step_that_is_skipped_or_frozen_out_moves_nothing() {
    let chain = Chain { scaler: Some(Scaler::PYTORCH), ..Chain::default() };
    let mut twin = cpu::Optimizer::<Adam, f64>::with_chain(chain).unwrap();
    twin.add_group(Adam::PYTORCH, [("w", 2)]).unwrap();
    twin.watch_updates(true);
    let mut w = [1.0, 2.0];
    twin.step(&mut [&mut w], &[&[1.0, 1.0]]).unwrap();
    assert!(twin.update().unwrap().norm > 0.0);
    twin.step(&mut [&mut w], &[&[f64::NAN, 1.0]]).unwrap();
    assert_eq!(twin.update(), Some(Update::default()));
    twin.freeze(["w"]).unwrap();
    twin.step(&mut [&mut w], &[&[1.0, 1.0]]).unwrap();
    assert_eq!(twin.update(), Some(Update::default()));
    twin.watch_updates(false);
    assert_eq!(twin.update(), None);
}
