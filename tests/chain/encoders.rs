//! Steps recorded ahead, beside other optimizers, into passes of the caller's, or in vain.

use wgpu_optim::{Adam, Chain, Clip, Ema, RmsProp, Tensor, wgpu};

use crate::bench::{Bench, SPECS, World, download, grads, scaler};
use crate::support::{self, Gpu};

fn chain() -> Chain {
    let ema = Some(Ema { decay: 0.9, overwrite_every: 3 });
    Chain { clip: Some(Clip::global_norm(0.5)), scaler: Some(scaler()), ema, ..Chain::default() }
}

fn adam() -> [Adam; 2] {
    [Adam { lr: 0.01, ..Adam::PYTORCH }, Adam { lr: 0.02, ..Adam::KERAS }]
}

fn bench(gpu: &Gpu) -> Bench<Adam> {
    Bench::new(gpu, &chain(), &adam(), &SPECS)
}

/// Gradients of five steps, the third of which is to be skipped.
fn five() -> [Vec<Vec<f32>>; 5] {
    [0, 1, 2, 3, 4].map(|step| {
        let mut grads = grads(&SPECS, step, if step < 3 { 1024.0 } else { 512.0 });
        if step == 2 {
            grads[4][4999] = f32::INFINITY;
        }
        grads
    })
}

/// What five steps submitted one by one come to.
fn one_by_one(gpu: &Gpu) -> (World, (f32, u32, u32)) {
    let mut bench = bench(gpu);
    five().iter().for_each(|grads| bench.step(grads));
    assert_eq!(bench.scaler(), (512.0, 2, 1));
    (bench.world(), bench.scaler())
}

fn same(bench: &Bench<Adam>, (world, scaler): &(World, (f32, u32, u32))) {
    let own = bench.world();
    assert!(own.params == world.params && own.slots == world.slots, "another way of recording made other bits");
    assert_eq!(bench.scaler(), *scaler);
}

/// Records a step with gradients that are copied to their place in the encoder.
fn record_with<R: wgpu_optim::Rule>(bench: &mut Bench<R>, encoder: &mut wgpu::CommandEncoder, from: &wgpu::Buffer) {
    encoder.copy_buffer_to_buffer(from, 0, &bench.grads, 0, from.size());
    bench.record(encoder);
}

#[test]
fn five_steps_in_one_encoder_are_five_submits() {
    let Some(gpu) = support::gpu() else { return };
    let expected = one_by_one(&gpu);
    for split in [0, 2, 3] {
        let mut bench = bench(&gpu);
        let staged = five().map(|grads| bench.more_grads(&grads));
        for part in [&staged[..split], &staged[split..]] {
            let mut encoder = bench.encoder();
            part.iter().for_each(|grads| record_with(&mut bench, &mut encoder, grads));
            gpu.queue.submit([encoder.finish()]);
        }
        same(&bench, &expected);
    }
}

#[test]
fn steps_in_a_pass_of_the_callers_are_those_of_submits() {
    let Some(gpu) = support::gpu() else { return };
    let expected = one_by_one(&gpu);
    let mut bench = bench(&gpu);
    let staged = five().map(|grads| bench.more_grads(&grads));
    let mut encoder = bench.encoder();
    let mut pass = encoder.begin_compute_pass(&Default::default());
    for grads in &staged {
        bench.rebind(grads);
        bench.optimizer.record_in(&gpu.device, &mut pass).unwrap();
    }
    drop(pass);
    gpu.queue.submit([encoder.finish()]);
    same(&bench, &expected);
}

#[test]
fn blocking_steps_are_those_of_submits() {
    let Some(gpu) = support::gpu() else { return };
    let expected = one_by_one(&gpu);
    let mut bench = bench(&gpu);
    for grads in five() {
        bench.write_grads(&grads);
        bench.optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
    }
    same(&bench, &expected);
}

#[test]
fn two_optimizers_in_one_encoder_do_not_meet() {
    let Some(gpu) = support::gpu() else { return };
    let expected = one_by_one(&gpu);
    let other_grads = [5, 6, 7, 8, 9].map(|step| grads(&SPECS, step, 1024.0));
    let rmsprop = [RmsProp::KERAS, RmsProp::KERAS];
    let mut alone = Bench::new(&gpu, &chain(), &rmsprop, &SPECS);
    other_grads.iter().for_each(|grads| alone.step(grads));
    let (mut bench, mut other) = (bench(&gpu), Bench::new(&gpu, &chain(), &rmsprop, &SPECS));
    let staged = five().map(|grads| bench.more_grads(&grads));
    let other_staged = other_grads.each_ref().map(|grads| other.more_grads(grads));
    let mut encoder = bench.encoder();
    for (grads, other_grads) in staged.iter().zip(&other_staged) {
        record_with(&mut bench, &mut encoder, grads);
        record_with(&mut other, &mut encoder, other_grads);
    }
    gpu.queue.submit([encoder.finish()]);
    same(&bench, &expected);
    assert!(other.world() == alone.world());
    assert_eq!(other.scaler(), (1024.0, 5, 0));
}

#[test]
fn an_encoder_that_is_thrown_away_counts_nowhere() {
    let Some(gpu) = support::gpu() else { return };
    let expected = one_by_one(&gpu);
    let mut bench = bench(&gpu);
    for (step, grads) in five().iter().enumerate() {
        // In vain, before and behind the step that is skipped.
        if step % 2 == 1 {
            bench.write_grads(grads);
            let mut encoder = bench.encoder();
            bench.record(&mut encoder);
            drop(encoder.finish());
        }
        bench.step(grads);
    }
    same(&bench, &expected);
}

/// Tensors of two elements each, so many that their step counts need a larger buffer.
fn many(len: usize) -> Vec<(usize, usize, usize)> {
    vec![(0, 0, 2); len]
}

#[test]
fn the_first_step_of_many_tensors_goes_into_a_pass() {
    let Some(gpu) = support::gpu() else { return };
    let specs = many(100);
    let mut bench = Bench::new(&gpu, &chain(), &adam()[..1], &specs);
    let mut expected = Bench::new(&gpu, &chain(), &adam()[..1], &specs);
    let grads = grads(&specs, 0, 1024.0);
    expected.step(&grads);
    bench.write_grads(&grads);
    let mut encoder = bench.encoder();
    let mut pass = encoder.begin_compute_pass(&Default::default());
    bench.optimizer.record_in(&gpu.device, &mut pass).unwrap();
    drop(pass);
    gpu.queue.submit([encoder.finish()]);
    assert!(bench.world() == expected.world());
}

/// Adds more tensors than there is room for to an optimizer that has taken and skipped steps; `between` is what happens
/// before the next step. Both runs must end alike.
fn grown(gpu: &Gpu, between: impl Fn(&mut Bench<Adam>)) -> World {
    let (specs, later) = (many(60), many(40));
    let mut bench = Bench::with_later(gpu, &chain(), &adam()[..1], &specs, &later);
    bench.step(&grads(&specs, 0, 1024.0));
    let mut bad = grads(&specs, 1, 1024.0);
    bad[7][1] = f32::NAN;
    bench.step(&bad);
    bench.step(&grads(&specs, 2, 512.0));
    let tensors: Vec<Tensor> = bench.later(&later);
    bench.optimizer.add_tensors(&gpu.device, 0, tensors).unwrap();
    between(&mut bench);
    bench.step(&grads(&bench.specs, 3, 512.0));
    bench.step(&grads(&bench.specs, 4, 512.0));
    assert_eq!(bench.scaler(), (512.0, 3, 1));
    bench.world()
}

#[test]
fn step_counts_outlive_a_step_that_was_refused() {
    let Some(gpu) = support::gpu() else { return };
    let expected = grown(&gpu, |_| ());
    let refused = grown(&gpu, |bench| {
        let gone = bench.more_grads(&[]);
        bench.rebind(&gone);
        gone.destroy();
        bench.optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap_err();
        let grads = bench.grads.clone();
        bench.rebind(&grads);
    });
    assert!(refused == expected, "a refused step lost step counts");
    // What was there has taken two steps more than what came: a slot of both says so.
    assert_ne!(expected.slots[0], expected.slots[99]);
}

#[test]
fn a_pass_is_refused_where_step_counts_must_be_copied_first() {
    let Some(gpu) = support::gpu() else { return };
    let expected = grown(&gpu, |_| ());
    let refused = grown(&gpu, |bench| {
        let mut encoder = bench.encoder();
        let mut pass = encoder.begin_compute_pass(&Default::default());
        let message = bench.optimizer.record_in(&gpu.device, &mut pass).unwrap_err().to_string();
        let told = "step counts must be copied first, since tensors were added: record this step with `record`";
        assert_eq!(message, format!("wgpu refused recording into a pass: {told}"));
    });
    assert!(refused == expected);
}

#[test]
fn the_memory_of_a_scaler_is_its_own() {
    let Some(gpu) = support::gpu() else { return };
    let (mut one, two) = (bench(&gpu), bench(&gpu));
    let bad = five()[2].clone();
    one.step(&bad);
    assert_eq!((one.scaler().0, two.scaler().0), (512.0, 1024.0));
    assert_eq!(download(&gpu, &two.optimizer.scale().unwrap().into())[2], 0);
}
