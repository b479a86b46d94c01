//! Rounding by chance: without bias, and the same every time.

use half::bf16;
use wgpu_optim::cpu::Optimizer;
use wgpu_optim::format::{Format, Formats, Rounding};
use wgpu_optim::{Adam, Chain};

use super::run::{LENS, Run};

fn by_chance(seed: u64) -> Formats {
    Formats { params: Format::Bf16, rounding: Rounding::Stochastic, seed, ..Formats::default() }
}

/// Each element's step is a hundredth of the distance between two numbers of bf16, so one in a hundred goes there: as many
/// as that, within five standard deviations of the binomial distribution.
#[test]
fn parameters_move_by_chance_as_far_as_they_should() {
    const LEN: usize = 200_000;
    const STEPS: usize = 50;
    let distance = 1.0 / 128.0;
    let settings = Adam { lr: distance / 100.0, ..Adam::PYTORCH };
    let mut optimizer = Optimizer::<Adam, f32>::with_chain(Chain::default()).unwrap();
    optimizer.add_group_with(settings, by_chance(3), [("w", LEN)]).unwrap();
    let start = bf16::from_f32(1.5);
    let (mut w, g) = (vec![start; LEN], vec![-1.0f32; LEN]);
    for _ in 0..STEPS {
        optimizer.step_slices(&mut [w.as_mut_slice().into()], &[g.as_slice().into()]).unwrap();
    }
    // Of a steady gradient Adam makes steps of lr.
    let moved: f64 = w.iter().map(|w| (f64::from(w.to_f32()) - 1.5) / distance).sum();
    let (trials, share) = ((LEN * STEPS) as f64, 0.01);
    let off = (moved - trials * share) / (trials * share * (1.0 - share)).sqrt();
    assert!(off.abs() < 5.0, "{moved} of {}: {off} standard deviations", trials * share);
    // Elements go each its own way.
    let stay = w.iter().filter(|w| **w == start).count() as f64 / LEN as f64;
    let expected = 0.99f64.powi(STEPS as i32);
    assert!((stay - expected).abs() < 5.0 * (expected * (1.0 - expected) / LEN as f64).sqrt(), "{stay}");
}

#[test]
fn chance_is_that_of_its_seed_and_of_its_step() {
    let stepped = |seed: u64, recorded: u64| {
        let mut run = Run::new(&Adam::PYTORCH, &Chain::default(), &by_chance(seed), &LENS);
        run.optimizer.set_recorded(recorded);
        run.step(0, Optimizer::step_slices);
        run.bits()
    };
    assert!(stepped(1, 0) == stepped(1, 0));
    assert!(stepped(1, 0) != stepped(2, 0));
    assert!(stepped(1, 0) != stepped(1 | 1 << 32, 0));
    assert!(stepped(1, 0) != stepped(1, 1));
}

/// A step that is taken from what was stored is the step that would have been taken.
#[test]
fn a_run_that_stops_goes_on_to_the_same_bits() {
    let formats = Formats { state: wgpu_optim::format::StateFormat::Bf16, ..by_chance(9) };
    let mut whole = Run::new(&Adam::PYTORCH, &Chain::default(), &formats, &LENS);
    (0..2).for_each(|t| whole.step(t, Optimizer::step_slices));
    let mut resumed = Run::new(&Adam::PYTORCH, &Chain::default(), &formats, &LENS);
    resumed.params.clone_from(&whole.params);
    for name in whole.optimizer.names().map(String::from).collect::<Vec<_>>() {
        for slot in whole.optimizer.slots(&name).unwrap() {
            let values = whole.optimizer.read_state(&name, slot).unwrap();
            resumed.optimizer.set_state(&name, slot, &values).unwrap();
        }
        resumed.optimizer.set_step(&name, 2).unwrap();
    }
    resumed.optimizer.set_recorded(2);
    for run in [&mut whole, &mut resumed] {
        run.step(2, Optimizer::step_slices_parallel);
    }
    assert!(whole.bits() == resumed.bits());
}
