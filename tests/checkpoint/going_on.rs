//! Save at step k, load into a fresh optimizer, go on: the same as never having stopped.

use wgpu_optim::checkpoint::{Checkpoint, Extras, Load};
use wgpu_optim::envelope::{Device, Snapshot, Trial};
use wgpu_optim::{Adam, Rule, wgpu};

use crate::run::{OnCpu, OnGpu, Run, TENSORS, World, adam, folder, rmsprop, values};
use crate::support::{Gpu, gpu, gpu_with};

/// A device on which a tensor's state is cut into windows.
pub fn small_gpu() -> Option<Gpu> {
    gpu_with(|adapter| wgpu::Limits {
        max_storage_buffer_binding_size: 32 << 10,
        max_buffer_size: 1 << 20,
        max_compute_workgroups_per_dimension: 7,
        ..wgpu_optim::required_limits(adapter)
    })
}

/// Step counts that differ, a tensor that is frozen, numbers that were changed on the way.
fn before<R: Rule>(run: &mut impl Run<R>, groups: &[R]) {
    run.step(1);
    run.freeze("state.emb");
    run.step(2);
    run.retune(1, tuned(groups));
    run.set_step("scale", (1 << 53) + 1);
    run.step(3);
}

fn tuned<R: Rule>(groups: &[R]) -> R {
    let mut settings = groups[1].clone();
    settings.set("lr", wgpu_optim::rule::Value::Number(7e-4)).unwrap();
    settings
}

fn after<R: Rule>(run: &mut impl Run<R>) {
    run.step(4);
    run.thaw("state.emb");
    run.step(5);
    run.step(6);
}

fn goes_on<R: Rule, S: Run<R>>(make: impl Fn() -> S, groups: &[R]) {
    let (_folder, path) = folder();
    let mut kept = make();
    before(&mut kept, groups);
    kept.save(&path, true, Extras::default()).unwrap();
    let saved = kept.world();
    assert!(saved.state.iter().any(|(_, _, values)| values.iter().any(|&x| x != 0)), "the state is nothing");

    // Once with the file's numbers, once with settings that are already what they were.
    let (mut taken, mut tuned_by_hand) = (make(), make());
    assert!(taken.world() != saved);
    let load = Load { params: true, retune: true, ..Default::default() };
    let report = taken.load_with(&Checkpoint::open(&path).unwrap(), load, false).unwrap();
    assert!(report.left.is_empty() && report.ignored.is_empty(), "{report:?}");
    tuned_by_hand.retune(1, tuned(groups));
    tuned_by_hand.load(&path).unwrap();
    after(&mut kept);
    for mut restored in [taken, tuned_by_hand] {
        assert_eq!(restored.world(), saved, "loaded");
        after(&mut restored);
        assert_eq!(restored.world(), kept.world(), "went on");
    }
    // It was frozen for one of the steps, which a file that did not tell would have lost.
    assert_eq!(kept.world().steps[1], saved.steps[1] + 2);
}

#[test]
fn on_the_cpu_it_is_the_same_to_the_bit() {
    goes_on(|| OnCpu::new(&adam(), &TENSORS), &adam());
    goes_on(|| OnCpu::new(&rmsprop(), &TENSORS), &rmsprop());
}

#[test]
fn on_the_gpu_it_is_the_same_to_the_bit() {
    let Some(gpu) = gpu() else { return };
    goes_on(|| OnGpu::new(&gpu, &adam(), &TENSORS), &adam());
    goes_on(|| OnGpu::new(&gpu, &rmsprop(), &TENSORS), &rmsprop());
}

#[test]
fn on_a_gpu_that_cuts_tensors_into_windows_too() {
    let Some(gpu) = small_gpu() else { return };
    let run = OnGpu::new(&gpu, &adam(), &TENSORS);
    assert!(run.optimizer.state_ranges("fc1.weight", "exp_avg").unwrap().len() > 1, "no window was met");
    goes_on(|| OnGpu::new(&gpu, &adam(), &TENSORS), &adam());
}

/// The files of both are one format, and what is loaded is what was saved, to the bit, whichever it was saved on.
#[test]
fn cpu_and_gpu_read_each_other_and_step_on_within_the_envelope() {
    let Some(gpu) = small_gpu() else { return };
    crosses(&gpu, &adam());
    crosses(&gpu, &rmsprop());
}

fn crosses<R: Rule>(gpu: &Gpu, groups: &[R; 2]) {
    let (_folder, path) = folder();
    let (mut cpu, mut device) = (OnCpu::new(groups, &TENSORS), OnGpu::new(gpu, groups, &TENSORS));
    before(&mut cpu, groups);
    device.retune(1, tuned(groups));
    cpu.save(&path, true, Extras::default()).unwrap();
    let of_cpu = std::fs::read(&path).unwrap();
    device.load(&path).unwrap();
    assert_eq!(device.world(), cpu.world());
    device.save(&path, true, Extras::default()).unwrap();
    assert!(of_cpu == std::fs::read(&path).unwrap(), "one state, two files");
    device.thaw("state.emb");
    for seed in 4..7 {
        let start = device.world();
        device.step(seed);
        within_the_envelope(&start, &device.world(), &[groups[0].clone(), tuned(groups)], seed);
    }
    device.save(&path, true, Extras::default()).unwrap();
    cpu.load(&path).unwrap();
    assert_eq!(cpu.world(), device.world());
}

/// Each tensor's step is the twin's and the oracle's from the same bits.
fn within_the_envelope<R: Rule>(start: &World, end: &World, groups: &[R], seed: u64) {
    let order = [("fc1.weight", 0), ("state.emb", 0), ("fc1.bias", 1), ("scale", 1)];
    for (tensor, (name, group)) in order.into_iter().enumerate() {
        let snapshot = |world: &World| {
            let floats = |bits: &Vec<u32>| bits.iter().map(|&x| f32::from_bits(x)).collect::<Vec<f32>>();
            let slot = |slot: &&str| world.state.iter().find(|(of, known, _)| of == name && known == slot);
            let slots = R::SLOTS.iter().map(|name| slot(name).map_or(Vec::new(), |(_, _, values)| floats(values)));
            Snapshot { params: floats(&world.params[tensor]), slots: slots.collect() }
        };
        let (before, after) = (snapshot(start), snapshot(end));
        let grads = values(seed * 16 + tensor as u64, before.params.len());
        let trial = Trial::new(&groups[group], start.steps[tensor] + 1, &before, &grads);
        let (oracle, twin) = (trial.against_oracle(Device(&after)), trial.against_twin(Device(&after)));
        assert!(oracle.holds() && twin.holds(), "{name}: {oracle:?} {twin:?}");
        assert!(before.params != after.params, "{name} was not stepped");
    }
}

#[test]
fn step_counts_are_exact_to_64_bits() {
    for step in [0, 1, (1 << 24) + 1, (1 << 53) + 1, u64::MAX - 1, u64::MAX] {
        let (_folder, path) = folder();
        let mut run = OnCpu::new(&adam(), &TENSORS);
        run.set_step("scale", step);
        run.save(&path, false, Extras::default()).unwrap();
        let mut again = OnCpu::new(&adam(), &TENSORS);
        again.load_with(&Checkpoint::open(&path).unwrap(), Load::default(), false).unwrap();
        assert_eq!(again.optimizer.step_of("scale").unwrap(), step);
        assert_eq!(again.optimizer.step_of("fc1.bias").unwrap(), 0);
    }
}

#[test]
fn every_bit_of_the_state_is_brought_back() {
    let words = [0x7fc0_dead, 0xffff_ffff, 0x7f80_0000, 0x8000_0000, 1, 0x807f_ffff, 0];
    let odd: Vec<f32> = words.map(f32::from_bits).to_vec();
    let (_folder, path) = folder();
    let mut run = OnCpu::new(&adam(), &TENSORS);
    run.set_state("fc1.bias", "exp_avg_sq", &odd);
    run.save(&path, true, Extras::default()).unwrap();
    let mut again = OnCpu::new(&adam(), &TENSORS);
    again.load(&path).unwrap();
    assert_eq!(again.world(), run.world());
    let Some(gpu) = gpu() else { return };
    let mut device = OnGpu::new(&gpu, &adam(), &TENSORS);
    device.load(&path).unwrap();
    assert_eq!(device.world(), run.world());
}

#[test]
fn futures_do_the_same_as_the_blocking_calls() {
    let Some(gpu) = gpu() else { return };
    let (_folder, path) = folder();
    let mut run = OnGpu::new(&gpu, &adam(), &TENSORS);
    run.step(1);
    let mut again = OnGpu::<Adam>::new(&gpu, &adam(), &TENSORS);
    pollster::block_on(async {
        let Gpu { device, queue } = &gpu;
        let save = wgpu_optim::checkpoint::Save { params: true, ..Default::default() };
        run.optimizer.save(device, queue, &path, &save).await.unwrap();
        let load = Load { params: true, ..Default::default() };
        let checkpoint = Checkpoint::open(&path).unwrap();
        again.optimizer.load(device, queue, &checkpoint, load).await.unwrap();
    });
    assert_eq!(again.world(), run.world());
}
