//! The chain around listed rows: it looks at them alone, and leaves the others as they are.

use wgpu_optim::{Adam, Chain, Clamp, Clip, Ema, Norm, RmsProp, Rows, Scaler};

use crate::stand::{Spec, Stand, World, list, shuffled, small};
use crate::support::{self, Gpu};

const SPECS: [Spec; 4] = [(300, 3, 0), (300, 4, 0), (40, 48, 1), (57, 1, 0)];

/// Rows of the second, third and fourth tensor; the first is stepped whole.
fn some(step: usize) -> [Vec<u32>; 3] {
    [300, 40, 57]
        .map(|rows| shuffled(rows).into_iter().filter(|row| (*row as usize + step).is_multiple_of(3)).collect())
}

fn named(lists: &[Vec<u32>; 3]) -> [(usize, &[u32]); 3] {
    [(1, &lists[0]), (2, &lists[1]), (3, &lists[2])]
}

fn six_steps(gpu: &Gpu, chain: Chain) -> Stand<Adam> {
    let mut stand = Stand::chained(gpu, Adam { lr: 0.01, ..Adam::PYTORCH }, &chain, &SPECS);
    for step in 0..6 {
        stand.step_both(&named(&some(step)));
    }
    stand.beside_twin(&format!("{chain:?}"));
    stand
}

#[test]
fn each_part_of_the_chain_is_the_cpus() {
    let Some(gpu) = support::gpu() else { return };
    let clips = [
        Clip::global_norm(0.05),
        Clip::tensor_norm(0.05),
        Clip { norm: Norm::Inf, ..Clip::global_norm(0.01) },
        Clip::value(0.1),
    ];
    for clip in clips {
        six_steps(&gpu, Chain { clip: Some(clip), ..Chain::default() });
    }
    let ema = Some(Ema { decay: 0.9, overwrite_every: 4 });
    six_steps(&gpu, Chain { ema: ema.clone(), clamp: Some(Clamp { min: -0.3, max: 0.3 }), ..Chain::default() });
    let scaler = Some(Scaler { init_scale: 8.0, growth_interval: 2, ..Scaler::PYTORCH });
    six_steps(&gpu, Chain { scaler, ema, clip: Some(Clip::global_norm(0.5)), ..Chain::default() });
}

/// What is not listed may hold anything: here what no clip and no scaler would let pass.
#[test]
fn gradients_of_other_rows_are_not_looked_at() {
    let Some(gpu) = support::gpu() else { return };
    let scaler = Some(Scaler { init_scale: 2.0, ..Scaler::PYTORCH });
    let chain = Chain { clip: Some(Clip::global_norm(0.05)), scaler, ..Chain::default() };
    let mut stand = Stand::chained(&gpu, Adam::PYTORCH, &chain, &SPECS);
    let mut plain = Stand::chained(&gpu, Adam::PYTORCH, &chain, &SPECS);
    for step in 0..4 {
        let lists = some(step);
        let mut grads = stand.draw(1.0);
        plain.draw(1.0);
        for (tensor, rows) in named(&lists) {
            let width = stand.width(tensor);
            let own = grads[tensor].chunks_mut(width).enumerate();
            own.filter(|(row, _)| !rows.contains(&(*row as u32))).for_each(|(row, grads)| {
                grads.fill([f32::NAN, f32::INFINITY, 1e30][row % 3]);
            });
        }
        stand.write_grads(&grads);
        let rows = named(&lists).map(|(tensor, rows)| (tensor, list(&gpu, rows)));
        stand.step_rows(&rows);
        plain.step_rows(&rows);
    }
    let (ours, theirs) = (stand.world(), plain.world());
    assert!(ours.params == theirs.params && ours.slots == theirs.slots);
    let control = stand.optimizer.read_control_blocking(&gpu.device, &gpu.queue).unwrap();
    assert_eq!((control.skipped, control.scale), (0, 2.0));
}

#[test]
fn an_infinity_in_a_listed_row_leaves_the_step_out() {
    let Some(gpu) = support::gpu() else { return };
    let chain = Chain { scaler: Some(Scaler { init_scale: 4.0, ..Scaler::PYTORCH }), ..Chain::default() };
    let mut stand = Stand::chained(&gpu, RmsProp::PYTORCH, &chain, &SPECS);
    stand.step_both(&named(&some(0)));
    let mut grads = stand.draw(1.0);
    let lists = some(1);
    let width = stand.width(2);
    grads[2][lists[1][3] as usize * width + 47] = f32::NAN;
    stand.write_grads(&grads);
    let before = stand.world();
    stand.step_rows(&named(&lists).map(|(tensor, rows)| (tensor, list(&gpu, rows))));
    assert!(stand.world() == before, "a step that was left out wrote something");
    stand.twin_step(&grads, &named(&lists));
    let control = stand.optimizer.read_control_blocking(&gpu.device, &gpu.queue).unwrap();
    assert_eq!((control.skipped, control.scale), (1, 2.0));
    assert_eq!(control, *stand.twin.control());
    assert_eq!(stand.optimizer.read_steps_blocking(&gpu.device, &gpu.queue).unwrap(), [1; 4]);
    stand.step_both(&named(&some(2)));
    stand.beside_twin("after a step that was left out");
}

#[test]
fn a_norm_of_rows_in_several_windows_is_one() {
    let Some(gpu) = small() else { return };
    let chain = Chain { clip: Some(Clip::tensor_norm(0.05)), ..Chain::default() };
    let mut stand = Stand::chained(&gpu, Adam::PYTORCH, &chain, &[(20_001, 5, 0), (30_000, 4, 0), (9, 1, 0)]);
    for step in 0..3 {
        let rows: Vec<u32> = shuffled(20_001).into_iter().filter(|row| (row + step) % 3 > 0).collect();
        stand.step_both(&[(0, &rows), (1, &rows)]);
    }
    stand.beside_twin("windows");
}

/// The gradients of a tensor, its listed rows cleared.
fn cleared(stand: &Stand<Adam>, before: &World, lists: &[(usize, &[u32])]) -> Vec<u32> {
    let mut grads = before.grads.clone();
    for &(tensor, rows) in lists {
        let first = (stand.optimizer.tensors()[tensor].grads().offset() / 4) as usize;
        let width = stand.width(tensor);
        rows.iter().for_each(|&row| grads[first + row as usize * width..][..width].fill(0));
    }
    grads
}

#[test]
fn gradients_of_listed_rows_are_zeroed_and_no_others() {
    let Some(gpu) = support::gpu() else { return };
    let chain = Chain { zero_grads: true, ..Chain::default() };
    let mut stand = Stand::chained(&gpu, Adam::PYTORCH, &chain, &SPECS);
    let (lists, all) = (some(1), shuffled(300));
    stand.draw(1.0);
    let before = stand.world();
    stand.step_rows(&named(&lists).map(|(tensor, rows)| (tensor, list(&gpu, rows))));
    let zeroed = [&named(&lists)[..], &[(0, &all)]].concat();
    assert!(stand.world().grads == cleared(&stand, &before, &zeroed));
}

#[test]
fn sums_of_listed_rows_are_added_to_and_taken() {
    let Some(gpu) = support::gpu() else { return };
    let chain = Chain { accumulate: true, clip: Some(Clip::global_norm(0.05)), ..Chain::default() };
    let mut stand = Stand::chained(&gpu, Adam::PYTORCH, &chain, &SPECS);
    for step in 0..4 {
        let lists = [some(step), some(step + 1), some(step + 2)];
        for (part, own) in lists[..2].iter().enumerate() {
            let grads = stand.draw(1.0);
            let mut encoder = stand.encoder();
            let names = ["t1", "t2", "t3"];
            let rows = names.into_iter().zip(own.each_ref().map(|rows| list(&gpu, rows)));
            stand.optimizer.accumulate_rows(&gpu.device, &mut encoder, 0.5, rows).unwrap();
            stand.submit(encoder);
            let grads: Vec<&[f32]> = grads.iter().map(Vec::as_slice).collect();
            let rows = names.into_iter().zip(named(own)).map(|(name, (tensor, list))| {
                (
                    name,
                    wgpu_optim::cpu::Rows {
                        width: stand.optimizer.tensors()[tensor].shape().unwrap()[1] as usize,
                        list,
                    },
                )
            });
            stand.twin.accumulate_rows(&grads, 0.5, rows).unwrap();
            stand.beside_twin(&format!("sums {part} of step {step}"));
        }
        stand.step_rows(&named(&lists[2]).map(|(tensor, rows)| (tensor, list(&gpu, rows))));
        stand.twin_step(&[], &named(&lists[2]));
        stand.beside_twin(&format!("step {step}"));
    }
    // Rows that no step has taken have kept their sums.
    assert!(stand.slot(1, "accumulated_grad").iter().any(|sum| *sum != 0.0));
}

#[test]
fn a_step_of_no_rows_at_all_counts() {
    let Some(gpu) = support::gpu() else { return };
    let scaler = Some(Scaler { init_scale: 4.0, ..Scaler::PYTORCH });
    for chain in [Chain::default(), Chain { scaler, clip: Some(Clip::global_norm(0.05)), ..Chain::default() }] {
        let mut stand = Stand::chained(&gpu, Adam::PYTORCH, &chain, &SPECS[1..3]);
        stand.step_both(&[]);
        let before = stand.world();
        let all = list(&gpu, &shuffled(300));
        let none = crate::stand::buffer(&gpu, &[0]);
        stand.draw(1.0);
        stand.step_rows(&[(0, list(&gpu, &[])), (1, list(&gpu, &[]))]);
        stand.step_rows(&[(0, all.counted(&none, 0)), (1, list(&gpu, &[]))]);
        let after = stand.world();
        assert!(before.params == after.params && before.slots == after.slots);
        assert_eq!(stand.optimizer.read_steps_blocking(&gpu.device, &gpu.queue).unwrap(), [3, 3]);
        stand.twin.set_step("t0", 3).unwrap();
        stand.twin.set_step("t1", 3).unwrap();
        stand.step_both(&[(0, &[1, 2])]);
        stand.beside_twin("after steps of nothing");
    }
}

/// The same rows through whole steps: what is listed is all there is.
#[test]
fn all_rows_are_the_whole_tensor() {
    let Some(gpu) = support::gpu() else { return };
    let mut listed = Stand::new(&gpu, Adam::PYTORCH, &SPECS);
    let mut whole = Stand::new(&gpu, Adam::PYTORCH, &SPECS);
    for _ in 0..3 {
        listed.draw(1.0);
        whole.draw(1.0);
        let rows: Vec<(usize, Rows)> =
            SPECS.iter().enumerate().map(|(tensor, spec)| (tensor, list(&gpu, &shuffled(spec.0)))).collect();
        listed.step_rows(&rows);
        whole.step_rows(&[]);
    }
    for (ours, theirs) in listed.held().iter().zip(&whole.held()) {
        crate::stand::close(&crate::stand::floats(&ours.params), &crate::stand::floats(&theirs.params), "parameters");
    }
}
