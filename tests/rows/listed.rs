//! Steps over listed rows, held to the envelope of whole steps; all else keeps its bits.

use wgpu_optim::{Adam, AdamW, BufferRange, RmsProp, Rows, Rule};

use crate::stand::{Spec, Stand, buffer, list, shuffled, small};
use crate::support::{self, Gpu};

/// Odd rows, quads, rows past a workgroup's lanes, and a quad off its place.
const SPECS: [Spec; 8] =
    [(7, 1, 0), (300, 3, 0), (90, 5, 0), (300, 4, 0), (40, 48, 0), (3, 1200, 0), (33, 8, 1), (600, 1, 3)];

/// Every third row or so, in an order that looks random.
fn lists(specs: &[Spec], step: u64) -> Vec<Vec<u32>> {
    let some = |(i, spec): (usize, &Spec)| {
        let of = |row: &u32| (u64::from(*row) + step + i as u64).is_multiple_of(3);
        shuffled(spec.0).into_iter().filter(of).collect()
    };
    specs.iter().enumerate().map(some).collect()
}

fn three_steps<R: Rule>(gpu: &Gpu, rule: R, specs: &[Spec]) {
    let mut stand = Stand::new(gpu, rule, specs);
    for step in 1..=3 {
        let lists = lists(specs, step);
        let named: Vec<(usize, &[u32])> = lists.iter().map(Vec::as_slice).enumerate().collect();
        stand.verified_step(step, &named);
    }
}

#[test]
fn listed_rows_take_the_step_and_others_keep_every_bit() {
    let Some(gpu) = support::gpu() else { return };
    three_steps(&gpu, Adam::PYTORCH, &SPECS);
    three_steps(&gpu, Adam { amsgrad: true, weight_decay: 0.1, ..Adam::PYTORCH }, &SPECS);
    three_steps(&gpu, AdamW::PYTORCH, &SPECS);
    three_steps(&gpu, RmsProp { momentum: 0.9, centered: true, clamp_centered: true, ..RmsProp::PYTORCH }, &SPECS);
}

#[test]
fn tensors_that_are_not_named_are_stepped_whole() {
    let Some(gpu) = support::gpu() else { return };
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, &SPECS);
    let rows = [1, 5, 2];
    stand.verified_step(1, &[(1, &rows)]);
    stand.verified_step(2, &[]);
    stand.verified_step(3, &[(4, &rows), (6, &[])]);
    // As `record` does, with the same kernels.
    let grads = stand.draw(1.0);
    let before = stand.world();
    let mut encoder = stand.encoder();
    stand.optimizer.record(&gpu.device, &mut encoder).unwrap();
    stand.submit(encoder);
    stand.verify(&before, &stand.world(), &grads, 4, &[]);
}

#[test]
fn the_count_on_the_device_ends_the_list() {
    let Some(gpu) = support::gpu() else { return };
    let specs = [(300, 3, 0), (300, 4, 0)];
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, &specs);
    let rows = shuffled(300)[..290].to_vec();
    for (step, count) in [(1, 0), (2, 1), (3, 77), (4, 290), (5, 291), (6, u32::MAX)] {
        // In a buffer of its own off every alignment, and in that of the list.
        let counts = buffer(&gpu, &[&[9; 67][..], &[count], &[9]].concat());
        let both = buffer(&gpu, &[&[count][..], &rows].concat());
        let one = list(&gpu, &rows).counted(&counts, 67 * 4);
        let other = Rows::new(BufferRange::new(&both, 4, 290 * 4)).counted(&both, 0);
        let there = &rows[..rows.len().min(count as usize)];
        stand.verified_by(step, &[(0, there), (1, there)], &[(0, one), (1, other)]);
    }
}

#[test]
fn a_row_that_is_not_there_is_passed_over() {
    let Some(gpu) = support::gpu() else { return };
    let specs = [(7, 5, 0), (7, 4, 0), (5, 1, 0)];
    let mut stand = Stand::new(&gpu, RmsProp::PYTORCH, &specs);
    let rows = [7, 3, u32::MAX, 0, 1 << 31, 6, 8, 858_993_460];
    stand.verified_step(1, &[(0, &rows), (1, &rows), (2, &rows)]);
}

#[test]
fn a_tensor_of_several_windows_is_stepped_in_the_rows_of_each() {
    let Some(gpu) = small() else { return };
    // Windows are cut at multiples of 64 elements: within rows of 5, 7 and 48.
    let specs = [(20_001, 5, 0), (3001, 48, 0), (40_000, 4, 0), (15_000, 7, 3)];
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, &specs);
    for tensor in ["t0", "t1", "t2", "t3"] {
        assert!(stand.optimizer.state_ranges(tensor, "exp_avg").unwrap().len() > 1, "{tensor} has one window");
    }
    let lists = lists(&specs, 1);
    let named: Vec<(usize, &[u32])> = lists.iter().map(Vec::as_slice).enumerate().collect();
    stand.verified_step(1, &named);
    let all: Vec<Vec<u32>> = specs.iter().map(|spec| shuffled(spec.0)).collect();
    let named: Vec<(usize, &[u32])> = all.iter().map(Vec::as_slice).enumerate().collect();
    stand.verified_step(2, &named);
}

#[test]
fn two_steps_in_one_encoder_are_two_submits() {
    let Some(gpu) = support::gpu() else { return };
    let specs = [(300, 3, 0), (300, 4, 0), (9, 9, 0)];
    let (first, second) = ([1, 299, 5, 7], [5, 0, 1, 288]);
    let mut one = Stand::new(&gpu, Adam::PYTORCH, &specs);
    let mut other = Stand::new(&gpu, Adam::PYTORCH, &specs);
    one.draw(1.0);
    other.draw(1.0);
    // One list, written between the steps.
    let shared = buffer(&gpu, &first);
    let next = buffer(&gpu, &second);
    let rows = [(0, Rows::new(&shared)), (1, Rows::new(&shared))];
    let mut encoder = one.encoder();
    one.record_rows(&mut encoder, &rows);
    encoder.copy_buffer_to_buffer(&next, 0, &shared, 0, 16);
    one.record_rows(&mut encoder, &rows);
    one.submit(encoder);
    for rows in [first, second] {
        other.step_rows(&[(0, list(&gpu, &rows)), (1, list(&gpu, &rows))]);
    }
    assert!(one.world() == other.world());
    assert_eq!(one.optimizer.step_of("t0").unwrap(), 2);
}

#[test]
fn a_frozen_tensor_is_left_alone_named_or_not() {
    let Some(gpu) = support::gpu() else { return };
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, &[(5, 3, 0), (5, 4, 0), (5, 2, 0)]);
    stand.optimizer.freeze(["t1", "t2"]).unwrap();
    let grads = stand.draw(1.0);
    let before = stand.world();
    stand.step_rows(&[(0, list(&gpu, &[1, 2])), (1, list(&gpu, &[1, 2]))]);
    stand.verify(&before, &stand.world(), &grads[..1], 1, &[(0, &[1, 2])]);
    assert_eq!(stand.optimizer.step_of("t1").unwrap(), 0);
}

#[test]
fn a_row_that_is_listed_twice_harms_no_other() {
    let Some(gpu) = support::gpu() else { return };
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, &[(300, 4, 0)]);
    stand.draw(1.0);
    let before = stand.world();
    stand.step_rows(&[(0, list(&gpu, &[3; 200]))]);
    let after = stand.world();
    let range = 3 * 4..4 * 4;
    let (mut ours, mut theirs) = (stand.params_in(&after, 0).to_vec(), stand.params_in(&before, 0).to_vec());
    assert_ne!(ours[range.clone()], theirs[range.clone()]);
    ours[range.clone()].fill(0);
    theirs[range].fill(0);
    assert_eq!(ours, theirs);
}
