//! Every part of the chain on the device, against the same part on the CPU.

use wgpu_optim::{Adam, Chain, Clamp, Clip, ClipForm, Ema, Norm, Over, RmsProp, Rule, Scaler};

use crate::support::paths::{Cpu, OnGpu, Path, Start};
use crate::support::{self, Gpu};

const LENS: [usize; 5] = [1, 7, 256, 1025, 5000];

fn tensors(groups: usize) -> Vec<Start> {
    let start = |(i, len): (usize, usize)| Start {
        name: format!("t{i}"),
        group: i % groups,
        params: (0..len).map(|k| ((k * 37 + i) % 101) as f32 * 0.02 - 1.0).collect(),
    };
    LENS.into_iter().enumerate().map(start).collect()
}

/// Gradients of a step, of a size of its own for each tensor.
fn grads(step: usize, scale: f32) -> Vec<Vec<f32>> {
    let of = |(i, len): (usize, usize)| {
        let size = scale * [0.01, 3.0, 0.2, 1e-4, 1.0][i];
        (0..len).map(|k| size * (((k * 13 + step * 7 + i) % 29) as f32 - 14.0)).collect()
    };
    LENS.into_iter().enumerate().map(of).collect()
}

/// Steps the device and the twin side by side, and compares all they hold: parameters and every slot.
fn side_by_side<R: Rule>(gpu: &Gpu, groups: &[R], chain: &Chain, each: impl Fn(usize) -> Vec<Vec<f32>>) {
    let tensors = tensors(groups.len());
    let mut device = OnGpu::chained(gpu, groups, chain, &tensors);
    let mut twin = Cpu::<R, f32>::chained(groups, chain, &tensors);
    let start = twin.params();
    for step in 0..6 {
        let grads = each(step);
        let grads: Vec<Option<&[f32]>> = grads.iter().map(|g| Some(g.as_slice())).collect();
        device.step(&grads);
        twin.step(&grads);
        let what = format!("{chain:?}, step {step}");
        for (tensor, (ours, theirs)) in device.params().iter().zip(twin.params()).enumerate() {
            close(step, ours, &theirs, Some(&start[tensor]), &format!("{what}, parameters of t{tensor}"));
        }
        for (tensor, start) in tensors.iter().enumerate() {
            for slot in device.slots(&start.name) {
                let (ours, theirs) = (device.state(&start.name, slot), twin.state(&start.name, slot));
                close(step, &ours, &theirs, None, &format!("{what}, {slot} of t{tensor}"));
            }
        }
    }
}

/// Within 4e-6 of the furthest that one has gone, or of the largest value, and two ULP for each step.
fn close(step: usize, ours: &[f64], theirs: &[f64], before: Option<&[f64]>, what: &str) {
    assert_eq!(ours.len(), theirs.len());
    let moved = |i: usize| theirs[i] - before.map_or(0.0, |before| before[i]);
    let largest = (0..theirs.len()).map(|i| moved(i).abs()).fold(0.0, f64::max);
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let allowed = 4e-6 * largest + 1.2e-7 * (step + 1) as f64 * b.abs() + 1e-37;
        assert!((a - b).abs() <= allowed, "{what}[{i}]: {a:e} for {b:e}, {allowed:e} is allowed");
    }
}

#[test]
fn every_clip_is_the_twins() {
    let Some(gpu) = support::gpu() else { return };
    for over in [Over::Value, Over::Tensor, Over::Group, Over::All] {
        for (norm, form) in [(Norm::L2, ClipForm::PyTorch), (Norm::L2, ClipForm::Keras), (Norm::Inf, ClipForm::Optax)] {
            let chain = Chain { clip: Some(Clip { max: 0.5, over, norm, form }), ..Chain::default() };
            let groups = [Adam { lr: 0.01, ..Adam::PYTORCH }, Adam { lr: 0.1, ..Adam::PYTORCH }];
            side_by_side(&gpu, &groups, &chain, |step| grads(step, 1.0));
            side_by_side(&gpu, &[RmsProp { momentum: 0.9, ..RmsProp::KERAS }], &chain, |step| grads(step, 1.0));
        }
    }
}

#[test]
fn tails_are_the_twins() {
    let Some(gpu) = support::gpu() else { return };
    let chains = [
        Chain { ema: Some(Ema { decay: 0.9, overwrite_every: 0 }), ..Chain::default() },
        Chain { ema: Some(Ema { decay: 0.9, overwrite_every: 2 }), ..Chain::default() },
        Chain { clamp: Some(Clamp { min: -0.5, max: 0.75 }), ..Chain::default() },
        Chain {
            clip: Some(Clip::global_norm(1.0)),
            clamp: Some(Clamp { min: -0.5, max: 0.75 }),
            ema: Some(Ema { decay: 0.5, overwrite_every: 3 }),
            ..Chain::default()
        },
    ];
    for chain in &chains {
        side_by_side(&gpu, &[Adam { lr: 0.05, ..Adam::PYTORCH }], chain, |step| grads(step, 1.0));
    }
}

#[test]
fn a_scaled_run_with_infinities_is_the_twins() {
    let Some(gpu) = support::gpu() else { return };
    let scaler = Scaler { init_scale: 1024.0, growth_interval: 2, ..Scaler::PYTORCH };
    for clip in [None, Some(Clip::global_norm(0.5)), Some(Clip::tensor_norm(0.5)), Some(Clip::value(0.1))] {
        let ema = Some(Ema { decay: 0.9, overwrite_every: 2 });
        let chain = Chain { clip, scaler: Some(scaler.clone()), ema, ..Chain::default() };
        side_by_side(&gpu, &[Adam { lr: 0.01, nesterov: true, ..Adam::KERAS }], &chain, |step| {
            let mut grads = grads(step, 512.0);
            match step {
                1 => grads[4][4999] = f32::INFINITY,
                3 => grads[0][0] = f32::NAN,
                _ => {}
            }
            grads
        });
    }
}
