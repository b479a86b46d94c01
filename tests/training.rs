//! What a training loop does around steps, on the device and on the CPU: schedules, micro-batches, telemetry.

mod support;

use support::Gpu;
use wgpu_optim::schedule::{Linear, OneCycle};
use wgpu_optim::{
    Adam, Arena, Chain, Clip, Error, Group, Kernels, Optimizer, RmsProp, Rule, Scaler, Schedule, Telemetry, cpu,
    readback,
};

const LENS: [(&str, u64); 3] = [("a", 5), ("b", 300), ("c", 4099)];

/// An optimizer over an arena on the device, and the twin beside it.
struct Pair<R: Rule> {
    gpu: Gpu,
    arena: Arena,
    device: Optimizer<R>,
    twin: cpu::Optimizer<R, f32>,
    params: Vec<Vec<f32>>,
}

impl<R: Rule> Pair<R> {
    fn new(gpu: &Gpu, settings: R, chain: Chain) -> Self {
        let arena = Arena::new(&gpu.device, LENS).unwrap();
        let kernels = Kernels::new(&gpu.device).unwrap();
        let group = [Group::new(settings.clone(), arena.tensors())];
        let device = Optimizer::with_chain(&gpu.device, &kernels, chain.clone(), group).unwrap();
        let mut twin = cpu::Optimizer::with_chain(chain).unwrap();
        twin.add_group(settings, LENS.map(|(name, len)| (name, len as usize))).unwrap();
        let params: Vec<Vec<f32>> =
            LENS.iter().map(|&(_, len)| (0..len).map(|i| (i % 17) as f32 * 0.1).collect()).collect();
        for ((name, _), params) in LENS.iter().zip(&params) {
            write(gpu, arena.params(name).unwrap(), params);
        }
        Self { gpu: gpu.clone(), arena, device, twin, params }
    }

    fn set_grads(&self, grads: &[Vec<f32>]) {
        LENS.iter().zip(grads).for_each(|((name, _), grads)| write(&self.gpu, self.arena.grads(name).unwrap(), grads));
    }

    fn encode(
        &mut self,
        what: impl FnOnce(&mut Optimizer<R>, &wgpu_optim::wgpu::Device, &mut wgpu_optim::wgpu::CommandEncoder),
    ) {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        what(&mut self.device, &self.gpu.device, &mut encoder);
        self.gpu.queue.submit([encoder.finish()]);
    }

    fn step_twin(&mut self, grads: &[Vec<f32>]) {
        let mut params: Vec<&mut [f32]> = self.params.iter_mut().map(Vec::as_mut_slice).collect();
        let grads: Vec<&[f32]> = grads.iter().map(Vec::as_slice).collect();
        self.twin.step(&mut params, &grads).unwrap();
    }

    /// Within 4e-6 of the furthest that one has gone from 0 to 1.6, and some ULP.
    fn compare(&self, what: &str) {
        for ((name, _), twin) in LENS.iter().zip(&self.params) {
            let device = read(&self.gpu, self.arena.params(name).unwrap());
            for (i, (a, b)) in device.iter().zip(twin).enumerate() {
                assert!((a - b).abs() <= 2e-6 * b.abs().max(0.1), "{what}: {name}[{i}] is {a:e}, the twin's {b:e}");
            }
        }
    }
}

fn write(gpu: &Gpu, range: &wgpu_optim::BufferRange, values: &[f32]) {
    gpu.queue.write_buffer(range.buffer(), range.offset(), bytemuck::cast_slice(values));
}

fn read(gpu: &Gpu, range: &wgpu_optim::BufferRange) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&readback::download_blocking(&gpu.device, &gpu.queue, range).unwrap())
}

/// What has become of the steps that are submitted, once as many have come as are expected.
fn told<R: Rule>(gpu: &Gpu, optimizer: &mut Optimizer<R>, expected: usize) -> Vec<Telemetry> {
    let (mut told, start) = (Vec::new(), std::time::Instant::now());
    // The device is shared: another test's poll may have taken what is about to be told.
    while told.len() < expected && start.elapsed().as_secs() < 10 {
        gpu.device.poll(wgpu_optim::wgpu::PollType::wait_indefinitely()).unwrap();
        told.extend(optimizer.telemetry());
    }
    told
}

fn grads(step: usize) -> Vec<Vec<f32>> {
    let grad = |i: u64| ((i * 7 + step as u64 * 13) % 23) as f32 * 0.1 - 1.1;
    LENS.iter().map(|&(_, len)| (0..len).map(grad).collect()).collect()
}

#[test]
fn a_schedule_is_followed_by_both_and_by_steps_recorded_ahead() {
    let Some(gpu) = support::gpu() else { return };
    let schedule = Schedule::from(Linear { start_factor: 0.1, total_iters: 3, ..Linear::default() })
        .then(3, OneCycle::new(0.1, 9));
    let mut pair = Pair::new(&gpu, Adam { lr: 0.02, ..Adam::PYTORCH }, Chain::default());
    pair.device.set_schedule(0, Some(schedule.clone())).unwrap();
    let by_hand = Adam { lr: 0.02, ..Adam::PYTORCH };
    pair.set_grads(&grads(0));
    // All of them in one encoder: each has its own lr.
    pair.encode(|optimizer, device, encoder| (0..12).for_each(|_| optimizer.record(device, encoder).unwrap()));
    for step in 0..12 {
        let base = wgpu_optim::schedule::Base { lr: by_hand.lr, momentum: Some(by_hand.beta1) };
        let point = schedule.at(step, base);
        pair.twin.retune(0, Adam { lr: point.lr, beta1: point.momentum.unwrap(), ..by_hand.clone() }).unwrap();
        pair.step_twin(&grads(0));
    }
    pair.compare("scheduled");
    assert_eq!((pair.device.recorded(), pair.device.settings(0).unwrap().lr), (12, 0.02));
}

#[test]
fn the_cpu_follows_a_schedule_as_if_it_were_retuned() {
    let schedule = Schedule::from(OneCycle::new(0.1, 9));
    let new =
        || cpu::Optimizer::<RmsProp, f64>::new(RmsProp { momentum: 0.9, ..RmsProp::PYTORCH }, [("w", 3)]).unwrap();
    let (mut scheduled, mut by_hand) = (new(), new());
    scheduled.set_schedule(0, Some(schedule.clone())).unwrap();
    let (mut p, mut q) = ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]);
    for step in 0..9 {
        let point = schedule.at(step, wgpu_optim::schedule::Base { lr: 1e-2, momentum: Some(0.9) });
        let settings = RmsProp { lr: point.lr, momentum: point.momentum.unwrap(), ..RmsProp::PYTORCH };
        by_hand.retune(0, settings).unwrap();
        scheduled.step(&mut [&mut p], &[&[0.5, -0.25, 1.0]]).unwrap();
        by_hand.step(&mut [&mut q], &[&[0.5, -0.25, 1.0]]).unwrap();
    }
    assert_eq!(p, q);
    assert_ne!(p, [1.0, 2.0, 3.0]);
}

#[test]
fn a_schedule_that_cycles_a_momentum_that_is_not_there_is_refused() {
    let mut optimizer = cpu::Optimizer::<RmsProp, f32>::new(RmsProp::PYTORCH, [("w", 3)]).unwrap();
    let refused = optimizer.set_schedule(0, Some(OneCycle::new(0.1, 9).into()));
    assert!(matches!(refused, Err(Error::Structure { setting: "momentum > 0", .. })), "{refused:?}");
    assert!(optimizer.schedule(0).unwrap().is_none());
    assert!(matches!(optimizer.set_schedule(1, None), Err(Error::UnknownGroup { group: 1, groups: 1 })));
}

#[test]
fn micro_batches_are_one_step_on_their_mean() {
    let Some(gpu) = support::gpu() else { return };
    let clip = Some(Clip::global_norm(0.5));
    for clip in [None, clip] {
        let chain = Chain { accumulate: true, clip, ..Chain::default() };
        let mut pair = Pair::new(&gpu, Adam { lr: 0.01, ..Adam::PYTORCH }, chain);
        for step in 0..3 {
            for batch in 0..4 {
                let grads = grads(4 * step + batch);
                pair.set_grads(&grads);
                pair.encode(|optimizer, device, encoder| optimizer.accumulate(device, encoder, 0.25).unwrap());
                let slices: Vec<&[f32]> = grads.iter().map(Vec::as_slice).collect();
                pair.twin.accumulate(&slices, 0.25).unwrap();
            }
            // What lies there now is no part of the step.
            pair.set_grads(&grads(99));
            pair.encode(|optimizer, device, encoder| optimizer.record(device, encoder).unwrap());
            pair.step_twin(&[]);
            pair.compare("accumulated");
            assert_eq!(pair.device.step_of("b").unwrap(), step as u64 + 1);
        }
        let sums = pair.device.read_state_blocking(&gpu.device, &gpu.queue, "c", "accumulated_grad").unwrap();
        assert!(sums.iter().all(|&sum| sum == 0.0), "the sums were not taken");
    }
}

/// Groups that keep other slots have their sums in other planes.
#[test]
fn the_norm_of_sums_is_taken_where_each_group_keeps_them() {
    let Some(gpu) = support::gpu() else { return };
    let arena = Arena::new(&gpu.device, [("a", 40), ("b", 30)]).unwrap();
    let [a, b] = arena.tensors().try_into().unwrap();
    let groups = [Group::new(Adam { amsgrad: true, ..Adam::PYTORCH }, [a]), Group::new(Adam::PYTORCH, [b])];
    let chain = Chain { accumulate: true, clip: Some(Clip::global_norm(1.0)), ..Chain::default() };
    let kernels = Kernels::new(&gpu.device).unwrap();
    let mut optimizer = Optimizer::with_chain(&gpu.device, &kernels, chain, groups).unwrap();
    optimizer.watch(&gpu.device, 1).unwrap();
    write(&gpu, arena.grads("a").unwrap(), &[0.5; 40]);
    write(&gpu, arena.grads("b").unwrap(), &[2.0; 30]);
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    optimizer.accumulate(&gpu.device, &mut encoder, 1.0).unwrap();
    optimizer.record(&gpu.device, &mut encoder).unwrap();
    gpu.queue.submit([encoder.finish()]);
    let norm = f64::from(told(&gpu, &mut optimizer, 1)[0].grad_norm.unwrap());
    assert!((norm / (40.0 * 0.25 + 30.0 * 4.0f64).sqrt() - 1.0).abs() < 1e-6, "{norm}");
}

#[test]
fn a_chain_that_does_not_accumulate_says_so() {
    let Some(gpu) = support::gpu() else { return };
    let mut pair = Pair::new(&gpu, Adam::PYTORCH, Chain::default());
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let refused = pair.device.accumulate(&gpu.device, &mut encoder, 1.0);
    assert!(matches!(refused, Err(Error::UnknownSlot { .. })), "{refused:?}");
    assert!(matches!(pair.device.watch(&gpu.device, 2), Err(Error::Refused { .. })));
    assert_eq!(pair.device.telemetry(), []);
}

#[test]
fn telemetry_tells_norms_scales_and_skips_and_drops_what_it_has_no_room_for() {
    let Some(gpu) = support::gpu() else { return };
    let scaler = Some(Scaler { init_scale: 8.0, ..Scaler::PYTORCH });
    let chain = Chain { scaler, clip: Some(Clip::global_norm(1.0)), ..Chain::default() };
    let mut pair = Pair::new(&gpu, Adam::PYTORCH, chain);
    pair.device.watch(&gpu.device, 3).unwrap();
    for step in 0..3 {
        let mut grads = grads(step);
        grads.iter_mut().flatten().for_each(|g| *g *= 8.0);
        if step == 1 {
            grads[1][7] = f32::INFINITY;
        }
        pair.set_grads(&grads);
        pair.encode(|optimizer, device, encoder| optimizer.record(device, encoder).unwrap());
    }
    let first = told(&gpu, &mut pair.device, 3);
    assert_eq!(
        first.iter().map(|t| (t.number, t.skipped, t.scale, t.nonfinite.unwrap(), t.all_skipped)).collect::<Vec<_>>(),
        [(0, false, 8.0, 0, 0), (1, true, 8.0, 1, 1), (2, false, 4.0, 0, 1),]
    );
    let norm = grads(0).iter().flatten().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
    let grad_norm = f64::from(first[0].grad_norm.unwrap());
    assert!((grad_norm / norm - 1.0).abs() < 1e-6, "{grad_norm} for {norm}");
    assert!((f64::from(first[0].clip) * (norm + 1e-6) - 1.0).abs() < 1e-6, "{first:?}");
    // Five steps in one encoder find room for three readings; an encoder that is thrown away keeps none.
    let mut thrown = gpu.device.create_command_encoder(&Default::default());
    pair.device.record(&gpu.device, &mut thrown).unwrap();
    drop(thrown);
    pair.encode(|optimizer, device, encoder| (0..5).for_each(|_| optimizer.record(device, encoder).unwrap()));
    assert_eq!(told(&gpu, &mut pair.device, 3).iter().map(|t| t.number).collect::<Vec<_>>(), [4, 5, 6]);
}
