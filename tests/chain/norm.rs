//! The norm on the device, seen through what it does to gradients: against `f64`, at every size that it promises.

use wgpu_optim::{Chain, Clip, ClipForm, Norm, Over};

use crate::bench::{Bench, Spec, noise, small};
use crate::shown::Shown;
use crate::support::{self, Gpu};

/// What is promised of a norm, and two roundings of the factor.
const PROMISED: f64 = 1e-6;
const SEEN: f64 = 1.5e-7;

fn exact(grads: &[&[f32]], norm: Norm) -> f64 {
    let all = grads.iter().flat_map(|grads| grads.iter().map(|&g| f64::from(g)));
    match norm {
        Norm::L2 => all.map(|g| g * g).sum::<f64>().sqrt(),
        Norm::Inf => all.fold(0.0, |largest, g| largest.max(g.abs())),
    }
}

fn clip(max: f64, norm: Norm, over: Over) -> Chain {
    Chain { clip: Some(Clip { max, over, norm, form: ClipForm::Keras }), ..Chain::default() }
}

/// Steps these gradients clipped to a thousandth of their norm, and holds each that was received to what it is by an
/// exact norm.
fn holds(gpu: &Gpu, specs: &[Spec], grads: &[Vec<f32>], norm: Norm, what: &str) {
    let all: Vec<&[f32]> = grads.iter().map(Vec::as_slice).collect();
    let expected = exact(&all, norm);
    let max = f64::from((expected * 1e-3) as f32);
    let mut bench = Bench::new(gpu, &clip(max, norm, Over::All), &[Shown::GRADIENT], specs);
    bench.step(grads);
    let worst =
        (0..specs.len()).map(|i| off(&bench.slot(i, "received"), &grads[i], max / expected)).fold(0.0, f64::max);
    println!("{what}, {norm:?}: {worst:e}");
    assert!(worst <= PROMISED + SEEN, "{what}, {norm:?} {expected:e}: off by {worst:e}");
    bench.check_canaries();
}

/// The largest relative error of gradients that are to be this share of what they were; what is subnormal may be lost.
fn off(received: &[f32], grads: &[f32], factor: f64) -> f64 {
    assert_eq!(received.len(), grads.len());
    let error = |(&r, &g): (&f32, &f32)| {
        let expected = f64::from(g) * factor;
        let error = (f64::from(r) - expected).abs() / expected.abs().max(1.2e-38);
        assert!(!error.is_nan(), "{r} for {expected:e}");
        if expected.abs() < 2.4e-38 { 0.0 } else { error }
    };
    received.iter().zip(grads).map(error).fold(0.0, f64::max)
}

const NORMS: [Norm; 2] = [Norm::L2, Norm::Inf];

/// Of either sign, its size spread over the powers of ten between these two.
fn spread(len: usize, from: f64, to: f64) -> Vec<f32> {
    let one = |k: usize| {
        let size = 10f64.powf(from + (to - from) * noise(k as u64));
        (if noise(!(k as u64)) < 0.5 { size } else { -size }) as f32
    };
    (0..len).map(one).collect()
}

#[test]
fn a_norm_of_20_million_mixed_gradients_is_that_of_f64() {
    let Some(gpu) = support::gpu() else { return };
    let lens = [20_000_000 - 400_001, 400_001];
    let specs = lens.map(|len| (0, 0, len));
    for norm in NORMS {
        holds(&gpu, &specs, &lens.map(|len| spread(len, -6.0, 2.0)), norm, "20 M from 1e-6 to 1e2");
    }
}

#[test]
fn squares_neither_overflow_nor_vanish() {
    let Some(gpu) = support::gpu() else { return };
    let specs = [(0, 0, 300_000), (0, 1, 70_001), (0, 0, 3)];
    let lens = specs.map(|(_, _, len)| len);
    let one_among = |one: f32, others: f32| {
        let mut grads = lens.map(|len| vec![others; len]);
        grads[1][70_000] = one;
        grads
    };
    let cases = [
        ("all 1e19", lens.map(|len| vec![1e19; len])),
        ("all 1e-20", lens.map(|len| vec![-1e-20; len])),
        ("one 1e19 among 1e-20", one_among(1e19, 1e-20)),
        ("one 1e-20 among zeros", one_among(1e-20, 0.0)),
        // Around both places where sums are kept apart.
        ("around 2^-40", lens.map(|len| spread(len, -13.0, -11.0))),
        ("around 2^40", lens.map(|len| spread(len, 11.0, 13.0))),
        // Where a sum of many counts beside one of few that are larger.
        ("one just over 2^40 among many below", one_among(1.2e12, 1e12)),
        ("one just over 2^-40 among many below", one_among(1e-12, 0.9e-12)),
        ("from 1e-20 to 1e19", lens.map(|len| spread(len, -20.0, 19.0))),
    ];
    for (what, grads) in cases {
        for norm in NORMS {
            holds(&gpu, &specs, &grads, norm, what);
        }
    }
}

#[test]
fn many_launches_at_odd_offsets_are_one_norm() {
    let Some(gpu) = small() else { return };
    let lens = [1, 3, 4, 255, 256, 257, 1025, 100_003, 130_000];
    for shift in [0, 1, 3] {
        let specs = lens.map(|len| (0, if len % 2 == 0 { 0 } else { shift }, len));
        let grads = lens.map(|len| spread(len, -3.0, 1.0));
        for norm in NORMS {
            holds(&gpu, &specs, &grads, norm, &format!("small limits, shifted by {shift}"));
        }
    }
    // Each length alone, so that no other hides what a tail leaves out.
    for len in lens {
        holds(&gpu, &[(0, 1, len)], &[vec![2.0; len]], Norm::L2, &format!("{len} in words"));
        holds(&gpu, &[(0, 0, len)], &[vec![2.0; len]], Norm::L2, &format!("{len} in quads"));
    }
}

#[test]
fn each_scope_has_its_own_norm() {
    let Some(gpu) = small() else { return };
    let specs = [(0, 0, 300), (0, 1, 9000), (1, 0, 100_003), (1, 2, 5), (2, 0, 64)];
    let grads: Vec<Vec<f32>> = specs.iter().map(|&(_, _, len)| spread(len, -2.0, 1.0)).collect();
    let all: Vec<&[f32]> = grads.iter().map(Vec::as_slice).collect();
    for over in [Over::Tensor, Over::Group] {
        let max = 1e-3;
        let mut bench = Bench::new(&gpu, &clip(max, Norm::L2, over), &vec![Shown::GRADIENT; 3], &specs);
        bench.step(&grads);
        for i in 0..specs.len() {
            let group: Vec<&[f32]> = (0..specs.len()).filter(|&k| specs[k].0 == specs[i].0).map(|k| all[k]).collect();
            let norm = exact(if over == Over::Group { &group } else { &all[i..=i] }, Norm::L2);
            let worst = off(&bench.slot(i, "received"), &grads[i], max / norm);
            assert!(worst <= PROMISED + SEEN, "{over:?}, t{i}: off by {worst:e}");
        }
    }
}

#[test]
fn a_norm_has_the_same_bits_on_every_run() {
    let Some(gpu) = small() else { return };
    let specs = [(0, 0, 100_003), (0, 1, 40_001), (0, 0, 17)];
    let grads: Vec<Vec<f32>> = specs.iter().map(|&(_, _, len)| spread(len, -15.0, 15.0)).collect();
    let received = || {
        let mut bench = Bench::new(&gpu, &clip(1.0, Norm::L2, Over::All), &[Shown::GRADIENT], &specs);
        [(); 3].map(|()| {
            bench.step(&grads);
            bench.world().slots
        })
    };
    let runs: Vec<_> = (0..3).flat_map(|_| received()).collect();
    assert!(runs.iter().all(|run| *run == runs[0]), "a norm differs from run to run");
}

#[test]
fn frozen_tensors_are_in_no_norm() {
    let Some(gpu) = small() else { return };
    let specs = [(0, 0, 1000), (0, 1, 77), (0, 0, 4096), (0, 3, 501)];
    let mut grads: Vec<Vec<f32>> = specs.iter().map(|&(_, _, len)| spread(len, -1.0, 1.0)).collect();
    let norm = exact(&[&grads[0], &grads[3]], Norm::L2);
    grads[1].fill(1e30);
    grads[2].fill(f32::NAN);
    let mut bench = Bench::new(&gpu, &clip(0.1, Norm::L2, Over::All), &[Shown::GRADIENT], &specs);
    bench.optimizer.freeze(["t1", "t2"]).unwrap();
    bench.step(&grads);
    for i in [0, 3] {
        let worst = off(&bench.slot(i, "received"), &grads[i], 0.1 / norm);
        assert!(worst <= PROMISED + SEEN, "t{i}: off by {worst:e}");
    }
    assert!(bench.slot(2, "received").iter().all(|&g| g == 0.0), "a frozen tensor was stepped");
}

#[test]
fn zeros_and_subnormals_make_no_nan() {
    let Some(gpu) = support::gpu() else { return };
    let specs = [(0, 0, 5000), (0, 1, 7)];
    let lens = specs.map(|(_, _, len)| len);
    for norm in NORMS {
        for (what, tiny) in [("zeros", 0.0), ("subnormals", 1e-40), ("the least", f32::from_bits(1))] {
            let mut bench = Bench::new(&gpu, &clip(1e-30, norm, Over::All), &[Shown::GRADIENT], &specs);
            bench.step(&lens.map(|len| vec![tiny; len]));
            for (i, len) in lens.into_iter().enumerate() {
                let received = bench.slot(i, "received");
                // Below the clip; a driver may take them for zeros.
                assert!(received.iter().all(|&g| g == tiny || g == 0.0), "{what}, {norm:?}, t{i} of {len}");
                assert_eq!(bench.params_of(i), bench.start(i), "{what}, {norm:?}");
            }
        }
        let mut grads = lens.map(|len| vec![1e-40; len]);
        grads[1][6] = 3.0;
        holds(&gpu, &specs, &grads, norm, "one 3 among subnormals");
    }
}

#[test]
fn each_form_of_clip_does_what_its_framework_does() {
    let Some(gpu) = support::gpu() else { return };
    // A norm of 5, far above and far below what is held; and of 2e-6, where an eps of 1e-6 shows.
    for (size, max) in [(1.0f32, 2.0), (1.0, 80.0), (4e-7, 1e-6), (4e-7, 2.5e-6)] {
        let grads = [vec![3.0 * size, -4.0 * size, 0.0]];
        let norm = 5.0 * f64::from(size);
        for (form, factor) in [
            (ClipForm::PyTorch, f64::min(1.0, max / (norm + 1e-6))),
            (ClipForm::Keras, max * f64::min(1.0 / norm, 1.0 / max)),
            (ClipForm::Optax, if norm < max { 1.0 } else { max / norm }),
        ] {
            let chain = Chain { clip: Some(Clip { form, ..Clip::global_norm(max) }), ..Chain::default() };
            let mut bench = Bench::new(&gpu, &chain, &[Shown::GRADIENT], &[(0, 0, 3)]);
            bench.step(&grads);
            let worst = off(&bench.slot(0, "received"), &grads[0], factor);
            assert!(worst < 5e-7, "{form:?}, norm {norm}, max {max}: off by {worst:e}");
        }
    }
}
