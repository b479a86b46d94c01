//! A quadratic on which bf16 stalls, and what repairs it.

use half::bf16;
use wgpu_optim::cpu::Optimizer;
use wgpu_optim::format::{Format, Formats, Rounding};
use wgpu_optim::{Adam, Chain};

const LEN: usize = 2048;
const STEPS: usize = 2000;

/// The mean distance from the minimum, after steps of which each is a fifth of half the distance between two numbers of
/// bf16: none comes through that is rounded to the nearest.
fn left(formats: &Formats) -> f64 {
    let settings = Adam { lr: 4e-4, ..Adam::PYTORCH };
    let mut optimizer = Optimizer::<Adam, f32>::with_chain(Chain::default()).unwrap();
    optimizer.add_group_with(settings, formats.clone(), [("w", LEN)]).unwrap();
    let target = |i: usize| 1.1 + 0.7 * i as f32 / LEN as f32;
    let mut w = vec![bf16::from_f32(1.5); LEN];
    for _ in 0..STEPS {
        let grads: Vec<f32> = w.iter().enumerate().map(|(i, w)| w.to_f32() - target(i)).collect();
        optimizer.step_slices_parallel(&mut [w.as_mut_slice().into()], &[grads.as_slice().into()]).unwrap();
    }
    w.iter().enumerate().map(|(i, w)| f64::from((w.to_f32() - target(i)).abs())).sum::<f64>() / LEN as f64
}

#[test]
fn bf16_stalls_and_chance_kahan_and_a_master_repair_it() {
    let nearest = Formats { params: Format::Bf16, ..Formats::default() };
    let with = |rounding| Formats { rounding, ..nearest.clone() };
    let stalled = left(&nearest);
    assert!(stalled > 0.15, "rounding to the nearest does not stall: {stalled}");
    let repaired = [
        ("by chance", with(Rounding::Stochastic)),
        ("Kahan's", with(Rounding::Kahan)),
        ("a master", Formats { master: true, ..nearest.clone() }),
    ];
    for (what, formats) in repaired {
        let left = left(&formats);
        println!("{what}: {left}, where the nearest leaves {stalled}");
        assert!(left < 0.01, "{what}: {left}");
    }
}
