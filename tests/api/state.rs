//! State by name: what checkpoints and callers read, write and copy.

use wgpu_optim::{Adam, Arena, RmsProp, Tensor, wgpu};

use crate::stand::{Draw, Stand, at, buffer, download, encoder, floats, own, running, words};
use crate::support::{Gpu, gpu};

fn read<R: wgpu_optim::Rule>(stand: &Stand<R>, name: &str, slot: &str) -> Vec<f32> {
    stand.optimizer.read_state_blocking(&stand.gpu.device, &stand.gpu.queue, name, slot).unwrap()
}

fn write<R: wgpu_optim::Rule>(stand: &Stand<R>, name: &str, slot: &str, values: &[f32]) {
    stand.optimizer.write_state_blocking(&stand.gpu.device, &stand.gpu.queue, name, slot, values).unwrap();
}

/// Three tensors that keep three slots each, in one window.
fn three(gpu: &Gpu) -> Stand<RmsProp> {
    let settings = RmsProp { momentum: 0.9, centered: true, ..RmsProp::KERAS };
    let buffers = [buffer(&gpu.device, 2048), buffer(&gpu.device, 2048)];
    let tensors = vec![at("a", &buffers, 0, 101), at("b", &buffers, 128, 1), at("c", &buffers, 200, 1000)];
    Stand::new(gpu, settings, tensors)
}

const SLOTS: [&str; 3] = ["square_avg", "grad_avg", "momentum_buffer"];

#[test]
fn what_is_written_by_name_is_read_by_name_and_nothing_else_moves() {
    let Some(gpu) = gpu() else { return };
    let stand = three(&gpu);
    assert_eq!(stand.optimizer.slots("b").unwrap(), SLOTS);
    let mut draw = Draw(3);
    let mut expected = Vec::new();
    for (name, len) in [("a", 101), ("b", 1), ("c", 1000)] {
        for slot in SLOTS {
            assert_eq!(read(&stand, name, slot), vec![0.0; len]);
            let values = draw.values(len as u64, -20.0, 20.0);
            write(&stand, name, slot, &values);
            expected.push((name, slot, values));
        }
    }
    for (name, slot, values) in expected {
        assert_eq!(read(&stand, name, slot), values, "{slot} of {name}");
    }
}

#[test]
fn every_bit_of_the_state_survives_the_round_trip() {
    let Some(gpu) = gpu() else { return };
    let stand = three(&gpu);
    let bits: Vec<u32> = [0x7fc0_dead, 0xffff_ffff, 0x7f80_0000, 0x8000_0000, 1, 0x807f_ffff].repeat(17)[..101].into();
    write(&stand, "a", "grad_avg", &floats(&bits));
    let back: Vec<u32> = read(&stand, "a", "grad_avg").into_iter().map(f32::to_bits).collect();
    assert_eq!(back, bits);
}

#[test]
fn written_state_is_what_the_next_step_starts_from() {
    let Some(gpu) = gpu() else { return };
    let mut stand = three(&gpu);
    let mut draw = Draw(4);
    let average = draw.values(1000, -3.0, 0.0);
    write(&stand, "c", "square_avg", &average.iter().map(|a| a * a + 0.5).collect::<Vec<_>>());
    write(&stand, "c", "grad_avg", &average);
    write(&stand, "c", "momentum_buffer", &draw.values(1000, -3.0, 0.0));
    stand.optimizer.set_step("c", 17).unwrap();
    stand.verified_step();
    assert_eq!(stand.optimizer.step_of("c").unwrap(), 18);
}

/// Save, load into another optimizer, go on: equal to never having stopped, bit for bit.
#[test]
fn a_run_that_was_saved_and_restored_is_the_run_that_was_not_stopped() {
    let Some(gpu) = gpu() else { return };
    let mut kept = running(&gpu);
    let mut restored = running(&gpu);
    for _ in 0..3 {
        kept.verified_step();
    }
    for tensor in kept.optimizer.tensors() {
        let name = tensor.name();
        for slot in kept.optimizer.slots(name).unwrap() {
            write(&restored, name, slot, &read(&kept, name, slot));
        }
        restored.optimizer.set_step(name, kept.optimizer.step_of(name).unwrap()).unwrap();
        let target = restored.optimizer.tensors().iter().find(|t| t.name() == name).unwrap();
        crate::stand::write(&gpu, target.params(), &floats(&download(&gpu, tensor.params())));
    }
    // Both draw the same gradients from here on.
    (kept.draw, restored.draw) = (Draw(12), Draw(12));
    for _ in 0..3 {
        kept.verified_step();
        restored.verified_step();
    }
    assert!(kept.world() == restored.world());
}

#[test]
fn ranges_of_the_state_can_be_copied_by_the_caller() {
    let Some(gpu) = gpu() else { return };
    let stand = running(&gpu);
    let from = stand.optimizer.state_ranges("fc1.weight", "exp_avg_sq").unwrap();
    assert_eq!(from.len(), 1);
    assert_eq!(from[0].len(), 100);
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    assert!(from[0].buffer().usage().contains(usage));
    let copy = buffer(&gpu.device, 100);
    let mut copying = encoder(&gpu);
    copying.copy_buffer_to_buffer(from[0].buffer(), from[0].offset(), &copy, 0, 400);
    // And back, into the other slot.
    let to = &stand.optimizer.state_ranges("fc1.weight", "exp_avg").unwrap()[0];
    copying.copy_buffer_to_buffer(&copy, 0, to.buffer(), to.offset(), 400);
    gpu.queue.submit([copying.finish()]);
    let expected = read(&stand, "fc1.weight", "exp_avg_sq");
    assert!(expected.iter().any(|&x| x != 0.0));
    assert_eq!(floats(&download(&gpu, &(&copy).into())), expected);
    assert_eq!(read(&stand, "fc1.weight", "exp_avg"), expected);
}

#[test]
fn ranges_of_the_state_do_not_meet() {
    let Some(gpu) = gpu() else { return };
    let stand = three(&gpu);
    let mut ranges = Vec::new();
    for name in ["a", "b", "c"] {
        for slot in SLOTS {
            ranges.extend(stand.optimizer.state_ranges(name, slot).unwrap());
        }
    }
    assert_eq!(ranges.iter().map(|range| range.len()).sum::<u64>(), 3 * 1102);
    for (i, a) in ranges.iter().enumerate() {
        for b in &ranges[..i] {
            let apart = a.offset() + a.size() <= b.offset() || b.offset() + b.size() <= a.offset();
            assert!(a.buffer() != b.buffer() || apart, "{a:?} {b:?}");
        }
    }
}

#[test]
fn state_is_what_is_known_at_step_zero() {
    let Some(gpu) = gpu() else { return };
    let settings = RmsProp { initial_scale: 1.0, centered: true, momentum: 0.5, ..RmsProp::KERAS };
    let stand = Stand::new(&gpu, settings, vec![own(&gpu.device, "w", 77)]);
    assert_eq!(read(&stand, "w", "square_avg"), [1.0; 77]);
    assert_eq!(read(&stand, "w", "grad_avg"), [0.0; 77]);
    assert_eq!(read(&stand, "w", "momentum_buffer"), [0.0; 77]);
}

#[test]
fn state_written_while_steps_are_recorded_goes_ahead_of_them() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    stand.draw_grads();
    let mut recorded = encoder(&gpu);
    stand.optimizer.record(&gpu.device, &mut recorded).unwrap();
    write(&stand, "fc1.bias", "exp_avg", &[0.125; 9]);
    stand.optimizer.set_all_steps(2);
    let before = stand.world();
    stand.optimizer.set_all_steps(3);
    gpu.queue.submit([recorded.finish()]);
    stand.verify(&before, &stand.world());
}

/// `async` callers have no `_blocking`.
#[test]
fn state_is_read_and_written_by_futures_too() {
    let Some(gpu) = gpu() else { return };
    let stand = running(&gpu);
    let Gpu { device, queue } = &gpu;
    let (write, read) = pollster::block_on(async {
        let values = [0.5; 9];
        let write = stand.optimizer.write_state(device, queue, "fc1.bias", "exp_avg", &values).await;
        (write, stand.optimizer.read_state(device, queue, "fc1.bias", "exp_avg").await)
    });
    write.unwrap();
    assert_eq!(read.unwrap(), [0.5; 9]);
}

#[test]
fn names_of_tensors_may_be_any_text() {
    let Some(gpu) = gpu() else { return };
    let names = ["", " ", "a.b/c", "ä\u{301}\n", "state.w.exp_avg"];
    let arena = Arena::new(&gpu.device, names.map(|name| (name, 5))).unwrap();
    let mut stand = Stand::over_arena(&gpu, Adam::PYTORCH, &arena);
    stand.verified_step();
    for name in names {
        assert_eq!(read(&stand, name, "exp_avg").len(), 5);
    }
}

/// State of another tensor for a gradient (say, to look at it) is not the optimizer's to forbid, but what it writes
/// must not be what it reads as a gradient.
#[test]
fn the_optimizers_own_state_is_no_place_for_a_gradient() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    let own_state = stand.optimizer.state_ranges("fc1.bias", "exp_avg").unwrap()[0].clone();
    let answer = stand.optimizer.rebind_grads(&gpu.device, [("fc1.bias", own_state.clone())]);
    assert!(answer.is_err(), "a gradient in the state that the step writes was taken");
    let params = Tensor::new("late", own_state, words(&buffer(&gpu.device, 9), 0, 9));
    let answer = stand.optimizer.add_tensors(&gpu.device, 0, [params]);
    assert!(answer.is_err(), "parameters in the state that the step writes were taken");
    stand.verified_step();
}
