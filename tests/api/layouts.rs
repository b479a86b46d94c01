//! Where tensors may lie: alone, flat, in pages, beside their gradients, misaligned, and tiny.

use wgpu_optim::rule::{Rule, Visitor, visit};
use wgpu_optim::{Adam, AdamW, AmsgradOver, Arena, Optimizer, RmsProp, Tensor, wgpu};

use crate::stand::{Draw, Stand, at, buffer, own, words};
use crate::support::{Gpu, gpu, gpu_with};

fn two_steps<R: Rule>(gpu: &Gpu, settings: R, tensors: Vec<Tensor>) -> Stand<R> {
    let mut stand = Stand::new(gpu, settings, tensors);
    stand.verified_step();
    stand.verified_step();
    stand
}

const LENS: [usize; 12] = [1, 2, 3, 4, 5, 63, 64, 255, 256, 257, 1021, 1024];

#[test]
fn each_tensor_in_buffers_of_its_own() {
    let Some(gpu) = gpu() else { return };
    let tensors: Vec<Tensor> = LENS.iter().map(|&len| own(&gpu.device, &format!("{len}"), len)).collect();
    two_steps(&gpu, Adam::PYTORCH, tensors.clone());
    two_steps(&gpu, RmsProp { momentum: 0.9, ..RmsProp::PYTORCH }, tensors);
}

/// Tensors one after another, `gap` elements apart, from element `first` on.
fn packed(gpu: &Gpu, first: usize, gap: usize) -> Vec<Tensor> {
    let buffers = [buffer(&gpu.device, 8192), buffer(&gpu.device, 8192)];
    let mut next = first;
    let mut tensors = Vec::new();
    for len in LENS {
        tensors.push(at(&format!("{len}"), &buffers, next, len));
        next += len + gap;
    }
    tensors
}

#[test]
fn flat_buffers_packed_without_a_gap() {
    let Some(gpu) = gpu() else { return };
    two_steps(&gpu, Adam::PYTORCH, packed(&gpu, 0, 0));
    two_steps(&gpu, RmsProp { centered: true, clamp_centered: true, ..RmsProp::PYTORCH }, packed(&gpu, 0, 0));
}

#[test]
fn flat_buffers_from_odd_elements_on_with_odd_gaps() {
    let Some(gpu) = gpu() else { return };
    for (first, gap) in [(1, 0), (2, 1), (3, 2), (5, 7), (63, 64)] {
        two_steps(&gpu, AdamW::PYTORCH, packed(&gpu, first, gap));
    }
}

#[test]
fn params_and_gradients_of_different_misalignment() {
    let Some(gpu) = gpu() else { return };
    let buffers = [buffer(&gpu.device, 16_384), buffer(&gpu.device, 16_384)];
    let mut tensors = Vec::new();
    for params in 0..5 {
        for grads in 0..5 {
            let slot = (params * 5 + grads) * 640;
            let name = format!("{params} {grads}");
            let [p, g] = [words(&buffers[0], slot + params, 601), words(&buffers[1], slot + grads, 601)];
            tensors.push(Tensor::new(name, p, g));
        }
    }
    two_steps(&gpu, Adam::PYTORCH, tensors);
}

#[test]
fn flat_buffers_in_another_order_than_the_tensors() {
    let Some(gpu) = gpu() else { return };
    let mut tensors = packed(&gpu, 8, 3);
    tensors.reverse();
    tensors.swap(2, 7);
    two_steps(&gpu, Adam::PYTORCH, tensors);
}

#[test]
fn gradients_in_another_order_than_the_parameters() {
    let Some(gpu) = gpu() else { return };
    let buffers = [buffer(&gpu.device, 4096), buffer(&gpu.device, 4096)];
    let tensor = |i: usize| {
        Tensor::new(format!("{i}"), words(&buffers[0], i * 128, 100 + i), words(&buffers[1], (15 - i) * 128, 100 + i))
    };
    let stand = two_steps(&gpu, Adam::PYTORCH, (0..16).map(tensor).collect());
    assert_eq!(stand.optimizer.dispatches(), 2, "quads and their tails");
}

#[test]
fn one_flat_buffer_per_role_is_one_dispatch() {
    let Some(gpu) = gpu() else { return };
    let buffers = [buffer(&gpu.device, 4096), buffer(&gpu.device, 4096)];
    let tensors = (0..16).map(|i| at(&format!("{i}"), &buffers, i * 256, 4 * (i + 1))).collect();
    assert_eq!(two_steps(&gpu, Adam::PYTORCH, tensors).optimizer.dispatches(), 1);
}

#[test]
fn an_arena_is_one_dispatch_whatever_the_lengths() {
    let Some(gpu) = gpu() else { return };
    let names = LENS.map(|len| format!("{len}"));
    let arena = Arena::new(&gpu.device, names.iter().map(String::as_str).zip(LENS.map(|len| len as u64))).unwrap();
    assert_eq!(arena.pages().len(), 1);
    let mut stand = Stand::over_arena(&gpu, Adam::PYTORCH, &arena);
    for _ in 0..3 {
        stand.verified_step();
    }
    assert_eq!(stand.optimizer.dispatches(), 1);
}

#[test]
fn ranges_of_an_arena_can_be_bound_one_by_one_and_start_as_zeros() {
    let Some(gpu) = gpu() else { return };
    let arena = Arena::new(&gpu.device, [("a", 3), ("b", 1000), ("c", 1)]).unwrap();
    let alignment = u64::from(gpu.device.limits().min_storage_buffer_offset_alignment);
    for tensor in arena.tensors() {
        for range in [tensor.params(), tensor.grads()] {
            assert!(range.offset().is_multiple_of(alignment), "{range:?}");
            assert_eq!(crate::stand::download(&gpu, range), vec![0; range.len() as usize]);
        }
    }
    assert_eq!(arena.params("b").unwrap().len(), 1000);
    assert_ne!(arena.params("b").unwrap().buffer(), arena.grads("b").unwrap().buffer());
}

#[test]
fn an_arena_steps_beside_tensors_of_the_callers_own() {
    let Some(gpu) = gpu() else { return };
    let arena = Arena::new(&gpu.device, [("a", 301), ("b", 7)]).unwrap();
    let mut stand = Stand::over_arena(&gpu, Adam::PYTORCH, &arena);
    let late = [own(&gpu.device, "late", 40)];
    stand.optimizer.add_tensors(&gpu.device, 0, late.clone()).unwrap();
    stand.watch(0, &late);
    stand.verified_step();
    // A gradient of the caller's for a tensor of the arena: what follows it is not the arena's.
    let grads = buffer(&gpu.device, 301);
    stand.watch_buffer(&grads);
    stand.optimizer.rebind_grads(&gpu.device, [("a", (&grads).into())]).unwrap();
    stand.verified_step();
}

/// The last quad of a tensor in an arena reaches over its end, into padding that is the arena's.
#[test]
fn a_tensor_of_the_callers_in_the_padding_of_an_arena_is_refused() {
    let Some(gpu) = gpu() else { return };
    let arena = Arena::new(&gpu.device, [("a", 5)]).unwrap();
    let (page, _) = &arena.pages()[0];
    let squatter = Tensor::new("squatter", words(page, 6, 1), &buffer(&gpu.device, 1));
    let tensors = arena.tensors().into_iter().chain([squatter]);
    match Optimizer::new(&gpu.device, Adam::PYTORCH, tensors) {
        Err(error) => assert!(matches!(error, wgpu_optim::Error::Overlap { .. }), "{error}"),
        Ok(_) => panic!("two tensors are stepped in one word"),
    }
}

#[test]
fn parameters_and_gradients_in_one_buffer_flat() {
    let Some(gpu) = gpu() else { return };
    let one = buffer(&gpu.device, 8192);
    let mut next = 0;
    let mut tensors = Vec::new();
    for len in LENS {
        tensors.push(Tensor::new(format!("{len}"), words(&one, next, len), words(&one, 4096 + next, len)));
        next += len + 1;
    }
    let stand = two_steps(&gpu, Adam::PYTORCH, tensors);
    assert!(stand.optimizer.dispatches() <= 2);
}

/// burn lays a parameter and its gradient into one page, block by block.
#[test]
fn parameters_and_gradients_in_one_buffer_by_turns() {
    let Some(gpu) = gpu() else { return };
    let one = buffer(&gpu.device, 64 * 2 * 40);
    let block = |i: usize| i * 64;
    let tensor = |i: usize| {
        let len = 64 - i % 7;
        Tensor::new(format!("{i}"), words(&one, block(2 * i), len), words(&one, block(2 * i + 1), len))
    };
    two_steps(&gpu, AdamW::PYTORCH, (0..40).map(tensor).collect());
}

#[test]
fn parameters_of_one_tensor_between_gradients_of_others() {
    let Some(gpu) = gpu() else { return };
    let one = buffer(&gpu.device, 64 * 12);
    // Params of "a" and gradient of "b" share a page with the reverse; none shares a block with its own.
    let tensors = vec![
        Tensor::new("a", words(&one, 0, 10), words(&one, 64 * 8, 10)),
        Tensor::new("b", words(&one, 64 * 4, 10), words(&one, 10, 10)),
        Tensor::new("c", words(&one, 64 * 8 + 10, 10), words(&one, 64 * 4 + 10, 10)),
        Tensor::new("d", words(&one, 64 * 8 + 20, 33), words(&one, 64 * 4 + 20, 33)),
    ];
    two_steps(&gpu, Adam::PYTORCH, tensors);
}

#[test]
fn tensors_spread_over_pooled_pages_at_random() {
    let Some(gpu) = gpu() else { return };
    let pages = [(); 3].map(|()| buffer(&gpu.device, 65_536));
    let mut draw = Draw(2024);
    let mut tensors = Vec::new();
    // Each page is cut into a hundred fields, and fields are dealt out in another order than they lie.
    let mut fields: Vec<(usize, usize)> = (0..300).map(|i| (i % 3, (i / 3) * 655)).collect();
    for i in (1..fields.len()).rev() {
        fields.swap(i, draw.next() as usize % (i + 1));
    }
    for pair in fields.chunks(2) {
        let [(page, first), (grads_page, grads_first)] = [pair[0], pair[1]];
        // A block of the largest alignment stays free at the end of each field.
        let len = 1 + draw.next() as usize % 580;
        let [shift, grads_shift] = [(); 2].map(|()| draw.next() as usize % 8);
        let params = words(&pages[page], first + shift, len);
        let grads = words(&pages[grads_page], grads_first + grads_shift, len);
        tensors.push(Tensor::new(format!("{page}:{first}"), params, grads));
    }
    assert_eq!(tensors.len(), 150);
    two_steps(&gpu, Adam { amsgrad: true, ..Adam::PYTORCH }, tensors.clone());
    two_steps(&gpu, RmsProp::ARTICLE, tensors);
}

#[test]
fn a_thousand_small_tensors() {
    let Some(gpu) = gpu() else { return };
    let names: Vec<String> = (0..1000).map(|i| format!("layer{i}.weight")).collect();
    let len = |i: usize| (1 + (i * 7919) % 61) as u64;
    let arena = Arena::new(&gpu.device, (0..1000).map(|i| (names[i].as_str(), len(i)))).unwrap();
    let mut stand = Stand::over_arena(&gpu, Adam::PYTORCH, &arena);
    stand.verified_step();
    assert_eq!(stand.optimizer.dispatches(), 1);
    stand.freeze(&["layer17.weight", "layer999.weight"]);
    stand.verified_step();
    assert_eq!(stand.optimizer.dispatches(), 2, "what is frozen in between parts the others");
    // A step count for each, and so a class and a dispatch for each.
    for (i, name) in names.iter().enumerate() {
        stand.optimizer.set_step(name, 3 * i as u64).unwrap();
    }
    stand.verified_step();
    assert_eq!(stand.optimizer.dispatches(), 998);
}

#[test]
fn a_thousand_small_tensors_packed_without_a_gap() {
    let Some(gpu) = gpu() else { return };
    let buffers = [buffer(&gpu.device, 40_000), buffer(&gpu.device, 40_000)];
    let mut next = 0;
    let mut tensors = Vec::new();
    for i in 0..1000 {
        let len = 1 + (i * 7919) % 61;
        tensors.push(at(&format!("{i}"), &buffers, next, len));
        next += len;
    }
    two_steps(&gpu, RmsProp { momentum: 0.9, ..RmsProp::PYTORCH }, tensors);
}

#[test]
fn five_hundred_tensors_in_buffers_of_their_own() {
    let Some(gpu) = gpu() else { return };
    let tensors = (0..500).map(|i| own(&gpu.device, &format!("{i}"), 1 + i % 9)).collect();
    two_steps(&gpu, Adam::PYTORCH, tensors);
}

/// The settings that mix in one optimizer here keep two slots or three.
fn mixed() -> [Adam; 4] {
    [
        Adam::PYTORCH,
        Adam { amsgrad: true, ..AdamW::PYTORCH },
        Adam { lr: 1e-2, nesterov: true, ..Adam::OPTAX },
        Adam { amsgrad: true, amsgrad_over: AmsgradOver::Corrected, ..Adam::KERAS },
    ]
}

#[test]
fn groups_of_different_structure_in_one_flat_buffer() {
    let Some(gpu) = gpu() else { return };
    let buffers = [buffer(&gpu.device, 4096), buffer(&gpu.device, 4096)];
    // Groups take turns in memory.
    let tensor = |i: usize| at(&format!("{i}"), &buffers, i * 170 + 3, 167);
    let group = |(group, settings)| (settings, (0..20).filter(|i| i % 4 == group).map(tensor).collect());
    let mut stand = Stand::with_groups(&gpu, mixed().into_iter().enumerate().map(group).collect());
    for _ in 0..3 {
        stand.verified_step();
    }
    assert_eq!(stand.optimizer.slots("0").unwrap(), ["exp_avg", "exp_avg_sq"]);
    assert_eq!(stand.optimizer.slots("1").unwrap(), ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]);
    stand.retune(3, Adam { lr: 0.1, ..mixed()[3].clone() });
    stand.freeze(&["1", "2", "3"]);
    stand.verified_step();
}

#[test]
fn groups_of_rmsprop_that_keep_one_two_and_three_slots() {
    let Some(gpu) = gpu() else { return };
    let buffers = [buffer(&gpu.device, 4096), buffer(&gpu.device, 4096)];
    let tensor = |i: usize| at(&format!("{i}"), &buffers, i * 130, 129);
    let groups = [
        RmsProp::PYTORCH,
        RmsProp { momentum: 0.9, ..RmsProp::KERAS },
        RmsProp { centered: true, clamp_centered: true, initial_scale: 1.0, ..RmsProp::PYTORCH },
        RmsProp { initial_scale: 0.25, ..RmsProp::PYTORCH },
        RmsProp { centered: true, momentum: 0.5, nesterov: true, ..RmsProp::KERAS },
    ];
    let group = |(group, settings)| (settings, (0..30).filter(|i| i % 5 == group).map(tensor).collect());
    let mut stand = Stand::with_groups(&gpu, groups.into_iter().enumerate().map(group).collect());
    for (name, start) in [("0", 0.0), ("2", 1.0), ("3", 0.25)] {
        let values = stand.optimizer.read_state_blocking(&gpu.device, &gpu.queue, name, "square_avg").unwrap();
        assert_eq!(values, [start; 129]);
    }
    for _ in 0..3 {
        stand.verified_step();
    }
}

struct EveryCase<'a>(&'a Gpu);

impl Visitor for EveryCase<'_> {
    fn rule<R: Rule>(&mut self) {
        let buffers = [buffer(&self.0.device, 4096), buffer(&self.0.device, 4096)];
        let tensor = |i: usize| at(&format!("{i}"), &buffers, i * 103, 101);
        let group = |(i, (_, settings)): (usize, (_, R))| (settings, vec![tensor(2 * i), tensor(2 * i + 1)]);
        let groups = R::cases().into_iter().enumerate().map(group).collect();
        let mut stand = Stand::with_groups(self.0, groups);
        stand.verified_step();
        stand.verified_step();
    }
}

#[test]
fn every_case_of_a_rule_as_groups_of_one_optimizer() {
    let Some(gpu) = gpu() else { return };
    visit(&mut EveryCase(&gpu));
}

#[test]
fn the_defaults_of_webgpu_are_enough() {
    let Some(gpu) = gpu_with(|_| wgpu::Limits::default()) else { return };
    let arena = Arena::new(&gpu.device, [("a", 301), ("b", 7)]).unwrap();
    let mut stand = Stand::over_arena(&gpu, Adam { amsgrad: true, ..Adam::PYTORCH }, &arena);
    stand.verified_step();
    two_steps(&gpu, RmsProp { centered: true, momentum: 0.9, ..RmsProp::KERAS }, packed(&gpu, 1, 1));
    Optimizer::new(&gpu.device, Adam::PYTORCH, []).unwrap();
}
