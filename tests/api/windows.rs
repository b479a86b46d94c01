//! Tensors past the limits of a small device: state in windows, windows in pages, grids folded.

use wgpu_optim::{Adam, AdamW, Arena, Error, Optimizer, RmsProp, Rule, Tensor, wgpu};

use crate::stand::{Draw, Stand, at, buffer, own, words};
use crate::support::{Gpu, gpu_with};

/// Windows and folds are met at a hundred thousand elements here.
fn small() -> Option<Gpu> {
    gpu_with(|adapter| wgpu::Limits {
        max_storage_buffer_binding_size: 1 << 20,
        max_buffer_size: 4 << 20,
        max_compute_workgroups_per_dimension: 7,
        ..wgpu_optim::required_limits(adapter)
    })
}

/// As small as the library takes it.
fn tiniest() -> Option<Gpu> {
    gpu_with(|adapter| wgpu::Limits {
        max_storage_buffer_binding_size: 16 << 10,
        max_buffer_size: 1 << 20,
        max_compute_workgroups_per_dimension: 1,
        ..wgpu_optim::required_limits(adapter)
    })
}

fn three_steps<R: Rule>(gpu: &Gpu, settings: R, tensors: Vec<Tensor>) -> Stand<R> {
    let mut stand = Stand::new(gpu, settings, tensors);
    for _ in 0..3 {
        stand.verified_step();
    }
    stand
}

#[test]
fn a_tensor_of_100_003_elements_is_stepped_whole() {
    let Some(gpu) = small() else { return };
    let stand = three_steps(&gpu, Adam::PYTORCH, vec![own(&gpu.device, "w", 100_003)]);
    assert!(stand.optimizer.state_ranges("w", "exp_avg").unwrap().len() > 1, "no window was met");
    three_steps(&gpu, RmsProp::PYTORCH, vec![own(&gpu.device, "w", 100_003)]);
    let all = RmsProp { momentum: 0.9, centered: true, clamp_centered: true, ..RmsProp::PYTORCH };
    three_steps(&gpu, all, vec![own(&gpu.device, "w", 100_003)]);
}

#[test]
fn large_tensors_at_odd_places_between_small_ones() {
    let Some(gpu) = small() else { return };
    let buffers = [buffer(&gpu.device, 1 << 20), buffer(&gpu.device, 1 << 20)];
    let lens = [5, 100_003, 1, 12_544, 12_545, 3, 300_001, 255, 200_000, 64];
    for (first, gap) in [(0, 0), (1, 3), (2, 64)] {
        let mut next = first;
        let mut tensors = Vec::new();
        for (i, len) in lens.into_iter().enumerate() {
            tensors.push(at(&format!("{i}"), &buffers, next, len));
            next += len + gap;
        }
        three_steps(&gpu, AdamW::PYTORCH, tensors);
    }
}

#[test]
fn parameters_and_gradients_of_a_large_tensor_in_one_buffer() {
    let Some(gpu) = small() else { return };
    let one = buffer(&gpu.device, 1 << 20);
    let tensors = vec![
        Tensor::new("a", words(&one, 0, 400_001), words(&one, 500_032, 400_001)),
        Tensor::new("b", words(&one, 400_064, 1001), words(&one, 450_003, 1001)),
    ];
    three_steps(&gpu, Adam::PYTORCH, tensors);
}

#[test]
fn an_arena_of_several_pages() {
    let Some(gpu) = small() else { return };
    let lens = [("a", 700_001), ("b", 700_000), ("c", 5), ("d", 340_000), ("e", 100_003)];
    let arena = Arena::new(&gpu.device, lens).unwrap();
    assert!(arena.pages().len() > 1);
    let mut stand = Stand::over_arena(&gpu, Adam::PYTORCH, &arena);
    stand.verified_step();
    stand.freeze(&["b", "c"]);
    stand.verified_step();
}

#[test]
fn state_in_windows_is_written_and_read_as_one_tensor() {
    let Some(gpu) = small() else { return };
    let mut stand = Stand::new(&gpu, Adam { amsgrad: true, ..Adam::PYTORCH }, vec![own(&gpu.device, "w", 250_007)]);
    let mut draw = Draw(1);
    for slot in ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"] {
        let values: Vec<f32> = draw.values(250_007, -4.0, 1.0).into_iter().map(f32::abs).collect();
        stand.optimizer.write_state_blocking(&gpu.device, &gpu.queue, "w", slot, &values).unwrap();
        let read = stand.optimizer.read_state_blocking(&gpu.device, &gpu.queue, "w", slot).unwrap();
        assert!(read == values, "{slot}");
        let ranges = stand.optimizer.state_ranges("w", slot).unwrap();
        assert!(ranges.len() > 1);
        assert_eq!(ranges.iter().map(|range| range.len()).sum::<u64>(), 250_007);
    }
    stand.optimizer.set_step("w", 3).unwrap();
    stand.verified_step();
}

#[test]
fn a_large_tensor_is_added_to_a_running_optimizer() {
    let Some(gpu) = small() else { return };
    let mut stand = three_steps(&gpu, Adam::PYTORCH, vec![own(&gpu.device, "w", 100_003)]);
    let before = stand.world();
    let late = [own(&gpu.device, "late", 150_001)];
    stand.optimizer.add_tensors(&gpu.device, 0, late.clone()).unwrap();
    assert!(before.is_start_of(&stand.world()));
    stand.watch(0, &late);
    stand.verified_step();
}

#[test]
fn gradients_of_a_large_tensor_move_to_another_alignment() {
    let Some(gpu) = small() else { return };
    let mut stand = three_steps(&gpu, Adam::PYTORCH, vec![own(&gpu.device, "w", 300_001)]);
    let other = buffer(&gpu.device, 400_000);
    stand.watch_buffer(&other);
    for first in [1, 0, 99_999] {
        stand.optimizer.rebind_grads(&gpu.device, [("w", words(&other, first, 300_001))]).unwrap();
        stand.verified_step();
    }
}

#[test]
fn the_smallest_limits_that_are_taken_are_enough() {
    let Some(gpu) = tiniest() else { return };
    let tensors = || vec![own(&gpu.device, "a", 5003), own(&gpu.device, "b", 1), own(&gpu.device, "c", 700)];
    three_steps(&gpu, Adam { amsgrad: true, ..Adam::PYTORCH }, tensors());
    three_steps(&gpu, RmsProp::PYTORCH, tensors());
}

/// Steps on a device with such a binding limit, or the device is refused by the limit's name. wgpu's own refusal would
/// come too late, and tell the caller nothing.
fn stepped_or_refused_by_the_limit(binding: u64, buffer: u64, tensors: impl FnOnce(&Gpu) -> Vec<Tensor>) {
    let limits = |adapter: &wgpu::Adapter| wgpu::Limits {
        max_storage_buffer_binding_size: binding,
        max_buffer_size: buffer,
        ..wgpu_optim::required_limits(adapter)
    };
    let Some(gpu) = gpu_with(limits) else { return };
    let tensors = tensors(&gpu);
    // One slot leaves room for the most tensors in a window.
    match Optimizer::new(&gpu.device, RmsProp::PYTORCH, tensors.clone()) {
        // Looking at every word of very many is quadratic, and was done for fewer.
        Ok(mut optimizer) if tensors.len() > 5000 => optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap(),
        Ok(_) => drop(three_steps(&gpu, RmsProp::PYTORCH, tensors)),
        Err(Error::Limits { .. }) => {}
        Err(other) => panic!("{other}"),
    }
}

fn tiny_tensors(gpu: &Gpu, count: usize) -> Vec<Tensor> {
    let buffers = [buffer(&gpu.device, count * 4), buffer(&gpu.device, count * 4)];
    (0..count).map(|i| at(&format!("{i}"), &buffers, i * 4, 3)).collect()
}

/// The tables of a launch are bound as well, and grow with the tensors in it.
#[test]
fn tables_of_many_small_tensors_fit_a_small_binding() {
    stepped_or_refused_by_the_limit(32 << 10, 1 << 20, |gpu| tiny_tensors(gpu, 2000));
    stepped_or_refused_by_the_limit(1 << 20, 4 << 20, |gpu| tiny_tensors(gpu, 50_000));
}

#[test]
fn tables_of_many_launches_fit_small_buffers() {
    let owners = |gpu: &Gpu| (0..200).map(|i| own(&gpu.device, &format!("{i}"), 1 + i)).collect();
    stepped_or_refused_by_the_limit(16 << 10, 16 << 10, owners);
}

/// A class of tensors for each step count, and scalars for each class.
#[test]
fn scalars_of_many_step_counts_fit_a_small_binding_or_the_step_is_refused() {
    let limits = |adapter: &wgpu::Adapter| wgpu::Limits {
        max_storage_buffer_binding_size: 16 << 10,
        ..wgpu_optim::required_limits(adapter)
    };
    let Some(gpu) = gpu_with(limits) else { return };
    let tensors = tiny_tensors(&gpu, 400);
    let mut optimizer = match Optimizer::new(&gpu.device, Adam::PYTORCH, tensors) {
        Ok(optimizer) => optimizer,
        Err(Error::Limits { .. }) => return,
        Err(other) => panic!("{other}"),
    };
    for i in 0..400 {
        optimizer.set_step(&i.to_string(), i).unwrap();
    }
    let mut encoder = crate::stand::encoder(&gpu);
    let recorded = optimizer.record(&gpu.device, &mut encoder).is_ok();
    assert_eq!(optimizer.step_of("7").unwrap(), 7 + u64::from(recorded));
}
