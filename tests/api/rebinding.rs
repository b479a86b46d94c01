//! Gradients that come from elsewhere at each step.

use wgpu_optim::{Adam, BufferRange, Optimizer, Tensor, wgpu};

use crate::stand::{Draw, Stand, buffer, encoder, noop_of, own, running, words, write};
use crate::support::{Gpu, gpu};

/// Moves the gradients of both tensors of [`running`] to elements `firsts` of a buffer.
fn rebind(stand: &mut Stand<Adam>, buffer: &wgpu::Buffer, firsts: [usize; 2]) {
    let ranges = [("fc1.weight", words(buffer, firsts[0], 100)), ("fc1.bias", words(buffer, firsts[1], 9))];
    stand.optimizer.rebind_grads(&stand.gpu.device, ranges).unwrap();
}

#[test]
fn gradients_go_back_and_forth_between_buffers() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    let others = [(); 3].map(|()| buffer(&gpu.device, 300));
    others.iter().for_each(|other| stand.watch_buffer(other));
    for other in others.iter().chain(&others).chain(&others) {
        rebind(&mut stand, other, [3, 111]);
        stand.verified_step();
    }
    assert_eq!(stand.optimizer.step_of("fc1.bias").unwrap(), 11);
}

#[test]
fn gradients_move_to_places_of_another_alignment() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    let other = buffer(&gpu.device, 1024);
    stand.watch_buffer(&other);
    for firsts in [[0, 128], [1, 128], [0, 103], [2, 777], [64, 0], [900, 3], [3, 1015]] {
        rebind(&mut stand, &other, firsts);
        stand.verified_step();
    }
}

#[test]
fn aligned_tensors_take_gradients_that_are_not_and_the_reverse() {
    let Some(gpu) = gpu() else { return };
    let other = buffer(&gpu.device, 2048);
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, vec![own(&gpu.device, "w", 1021)]);
    stand.watch_buffer(&other);
    for first in [0, 1, 4, 5, 1024, 1027, 1023] {
        stand.optimizer.rebind_grads(&gpu.device, [("w", words(&other, first, 1021))]).unwrap();
        stand.verified_step();
    }
}

#[test]
fn one_of_several_gradients_moves_and_the_rest_stay() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    let other = buffer(&gpu.device, 9);
    stand.watch_buffer(&other);
    stand.optimizer.rebind_grads(&gpu.device, [("fc1.bias", BufferRange::from(&other))]).unwrap();
    stand.verified_step();
    assert_eq!(stand.optimizer.tensors()[1].grads(), &BufferRange::from(&other));
}

#[test]
fn gradients_move_into_the_buffer_of_the_parameters() {
    let Some(gpu) = gpu() else { return };
    let one = buffer(&gpu.device, 4096);
    let tensor = Tensor::new("w", words(&one, 0, 1000), &buffer(&gpu.device, 1000));
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, vec![tensor]);
    stand.verified_step();
    for first in [1024, 3001, 2048] {
        stand.optimizer.rebind_grads(&gpu.device, [("w", words(&one, first, 1000))]).unwrap();
        stand.verified_step();
    }
}

#[test]
fn a_step_that_is_recorded_keeps_the_places_it_was_recorded_with() {
    let Some(gpu) = gpu() else { return };
    let [mut stand, mut twin] = [running(&gpu), running(&gpu)];
    let values = Draw(5).values(109, -3.0, 0.0);
    let grads = [(); 20].map(|()| buffer(&gpu.device, 300));
    for (i, other) in grads.iter().enumerate() {
        let scaled: Vec<f32> = values.iter().map(|value| value * (1.0 + i as f32)).collect();
        write(&gpu, &words(other, 0, 100), &scaled[..100]);
        write(&gpu, &words(other, 111, 9), &scaled[100..]);
    }
    // One encoder over more sets of gradients than are cached, none of it submitted until the last is recorded.
    let mut recorded = encoder(&gpu);
    for other in &grads {
        rebind(&mut stand, other, [0, 111]);
        stand.optimizer.record(&gpu.device, &mut recorded).unwrap();
    }
    gpu.queue.submit([recorded.finish()]);
    for other in &grads {
        rebind(&mut twin, other, [0, 111]);
        twin.step();
    }
    assert!(stand.world() == twin.world());
}

#[test]
fn a_tensor_is_frozen_and_thawed_around_a_move() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    let other = buffer(&gpu.device, 300);
    stand.watch_buffer(&other);
    stand.freeze(&["fc1.weight"]);
    rebind(&mut stand, &other, [1, 120]);
    stand.verified_step();
    stand.thaw(&["fc1.weight"]);
    stand.verified_step();
}

#[test]
fn gradients_of_tensors_added_later_move_too() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    let other = buffer(&gpu.device, 400);
    stand.watch_buffer(&other);
    let late = [own(&gpu.device, "late", 50)];
    rebind(&mut stand, &other, [0, 128]);
    stand.optimizer.add_tensors(&gpu.device, 0, late.clone()).unwrap();
    stand.watch(0, &late);
    stand.verified_step();
    stand.optimizer.rebind_grads(&gpu.device, [("late", words(&other, 301, 50))]).unwrap();
    stand.verified_step();
}

/// Counts what lives on a device of its own, which executes nothing.
struct Counted {
    instance: wgpu::Instance,
    gpu: Gpu,
}

impl Counted {
    fn new() -> Self {
        let (instance, gpu) = noop_of(wgpu::Limits::default());
        Self { instance, gpu }
    }

    /// Buffers, bind groups.
    fn alive(&self) -> (usize, usize) {
        self.gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        let hub = self.instance.generate_report().unwrap().hub;
        (hub.buffers.num_kept_from_user, hub.bind_groups.num_kept_from_user)
    }
}

#[test]
fn gradients_that_are_new_at_every_step_are_let_go_of() {
    let counted = Counted::new();
    let Gpu { device, queue } = &counted.gpu;
    let mut optimizer = Optimizer::new(device, Adam::PYTORCH, [own(device, "w", 1000)]).unwrap();
    let mut most = (0, 0);
    let first = counted.alive();
    for _ in 0..200 {
        let fresh = buffer(device, 1000);
        optimizer.rebind_grads(device, [("w", (&fresh).into())]).unwrap();
        drop(fresh);
        optimizer.step_blocking(device, queue).unwrap();
        let alive = counted.alive();
        most = (most.0.max(alive.0), most.1.max(alive.1));
    }
    // The gradient and its tables, for each set that is kept: far from 200 of each.
    assert!(most.0 - first.0 <= 40, "{} buffers, {} at first", most.0, first.0);
    assert!(most.1 - first.1 <= 20, "{} bind groups, {} at first", most.1, first.1);
}

#[test]
fn going_back_and_forth_makes_nothing_new() {
    let counted = Counted::new();
    let Gpu { device, .. } = &counted.gpu;
    let sets = [(); 4].map(|()| buffer(device, 1000));
    let mut optimizer = Optimizer::new(device, Adam::PYTORCH, [own(device, "w", 1000)]).unwrap();
    for set in &sets {
        optimizer.rebind_grads(device, [("w", set.into())]).unwrap();
    }
    // The bind group of the gradient that came with the tensor is let go of after a while; the rest stay.
    let before = counted.alive();
    for set in sets.iter().cycle().take(100) {
        optimizer.rebind_grads(device, [("w", set.into())]).unwrap();
    }
    let after = counted.alive();
    assert!(after.0 <= before.0 + 1 && after.1 <= before.1, "{before:?} to {after:?}");
}

#[test]
fn a_refused_rebind_keeps_no_buffer_alive() {
    let counted = Counted::new();
    let Gpu { device, .. } = &counted.gpu;
    let one = buffer(device, 1000);
    let mut optimizer = Optimizer::new(
        device,
        Adam::PYTORCH,
        [Tensor::new("w", words(&one, 0, 500), &buffer(device, 500)), own(device, "v", 8)],
    )
    .unwrap();
    let before = counted.alive();
    for _ in 0..50 {
        // Refused for the second, after the first has been looked at.
        let fresh = buffer(device, 8);
        let grads = [("v", (&fresh).into()), ("w", words(&one, 400, 500))];
        optimizer.rebind_grads(device, grads).unwrap_err();
    }
    assert_eq!(counted.alive(), before);
}

#[test]
fn refused_tensors_keep_no_buffer_alive() {
    let counted = Counted::new();
    let Gpu { device, .. } = &counted.gpu;
    let mut optimizer = Optimizer::new(device, Adam::PYTORCH, [own(device, "w", 8)]).unwrap();
    let before = counted.alive();
    for _ in 0..50 {
        let fresh = buffer(device, 1024);
        let overlapping = Tensor::new("late", words(&fresh, 0, 8), words(&fresh, 4, 8));
        optimizer.add_tensors(device, 0, [overlapping]).unwrap_err();
    }
    assert_eq!(counted.alive(), before);
}

#[test]
fn a_dropped_optimizer_lets_go_of_everything() {
    let counted = Counted::new();
    let Gpu { device, queue } = &counted.gpu;
    let before = counted.alive();
    for _ in 0..3 {
        let tensors = [own(device, "v", 1000), own(device, "w", 1001)];
        let mut optimizer = Optimizer::new(device, Adam::PYTORCH, tensors).unwrap();
        optimizer.step_blocking(device, queue).unwrap();
        drop(optimizer);
        assert_eq!(counted.alive(), before);
    }
}

#[test]
fn a_name_given_twice_in_one_rebind_is_refused() {
    let Some(gpu) = gpu() else { return };
    let mut optimizer = Optimizer::new(&gpu.device, Adam::PYTORCH, [own(&gpu.device, "w", 8)]).unwrap();
    let fresh = || wgpu_optim::BufferRange::from(&buffer(&gpu.device, 8));
    let error = optimizer.rebind_grads(&gpu.device, [("w", fresh()), ("w", fresh())]).unwrap_err();
    assert_eq!(error, wgpu_optim::Error::DuplicateName { name: "w".into() });
}
