//! `1 - beta^t` in `f32`: the formula on the host, and what the device makes of it at its own step count.

use wgpu_optim::rule::{Rule, bias, log_beta};
use wgpu_optim::{Adam, AdamEpsilon, AmsgradOver, Chain, Scaler};

use crate::bench::{Bench, Spec, grads};
use crate::shown::Shown;
use crate::support::{self, Gpu};

const BETAS: [f64; 8] = [0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99999];
const LAST: u64 = 1 << 24;
/// What is promised.
const ULPS: f64 = 16.0;

fn exact(beta: f64, t: u64) -> f64 {
    -(t as f64 * beta.ln()).exp_m1()
}

/// How far apart, in ULPs of the exact one.
fn ulps(found: f32, exact: f64) -> f64 {
    let near = exact as f32;
    (f64::from(found) - exact).abs() / (f64::from(near.next_up()) - f64::from(near))
}

#[test]
fn the_bias_is_within_16_ulp_at_every_step() {
    let mut worst = 0.0;
    for beta in BETAS {
        let log = log_beta(beta);
        // Every step up to 2^17, then steps further apart, up to the last.
        let later = (0..200_000).map(|i| ((1 << 17) as f64 * 128f64.powf(f64::from(i) / 199_999.0)) as u64);
        for t in (1..1 << 17).chain(later).chain([LAST - 1, LAST]) {
            let found = bias(-(t as f32 * log));
            let off = ulps(found, exact(beta, t));
            assert!(off <= ULPS, "beta {beta}, step {t}: off by {off} ULP");
            worst = f64::max(worst, off);
        }
    }
    println!("the bias in f32: {worst} ULP at most");
    assert!(worst > 0.5, "compared with itself?");
}

#[test]
fn a_beta_of_zero_has_no_bias_left() {
    for t in [1.0, 2.0, 1e7, 4e9] {
        assert_eq!(bias(-(t * log_beta(0.0))), 1.0);
    }
}

const SPEC: [Spec; 1] = [(0, 0, 5)];

fn scaled() -> Chain {
    Chain { scaler: Some(Scaler { init_scale: 1.0, ..Scaler::PYTORCH }), ..Chain::default() }
}

/// The biases that a rule's scalars hold at step `t`, on the device's own count.
#[test]
fn the_device_is_within_16_ulp_at_its_own_count() {
    let Some(gpu) = support::gpu() else { return };
    let mut steps: Vec<u64> = (1..40).collect();
    steps.extend((0..60).map(|i| 2f64.powf(5.0 + f64::from(i) * 19.0 / 59.0) as u64));
    steps.extend([1000, 100_000, LAST - 1, LAST]);
    let mut worst = 0.0;
    for betas in BETAS.chunks(2) {
        let settings = Shown { betas: [betas[0], betas[1]], biases: true };
        let mut bench = Bench::new(&gpu, &scaled(), &[settings], &SPEC);
        for &t in &steps {
            bench.optimizer.set_step("t0", t - 1).unwrap();
            bench.step(&[vec![1.0; 5]]);
            for (beta, slot) in betas.iter().zip(["over_first", "over_second"]) {
                let found = bench.slot(0, slot);
                // A division is allowed 2.5 ULP.
                let off = ulps(found[4], 1.0 / exact(*beta, t));
                assert!(off <= ULPS + 2.5, "beta {beta}, step {t}: off by {off} ULP");
                worst = f64::max(worst, off);
            }
        }
    }
    println!("one over the bias on the device: {worst} ULP at most");
}

/// A count that the device keeps by itself is the one that was set, plus the steps since.
#[test]
fn the_device_counts_from_what_was_set() {
    let Some(gpu) = support::gpu() else { return };
    let settings = Shown { betas: [0.9, 0.99], biases: true };
    let mut bench = Bench::new(&gpu, &scaled(), &[settings], &SPEC);
    for t in 1..=60 {
        if t == 31 {
            bench.optimizer.set_all_steps(30);
        }
        bench.step(&[vec![1.0; 5]]);
        let off = ulps(bench.slot(0, "over_second")[0], 1.0 / exact(0.99, t));
        assert!(off <= ULPS + 2.5, "step {t}: off by {off} ULP");
    }
}

#[test]
fn the_last_count_of_all_stays() {
    let Some(gpu) = support::gpu() else { return };
    let mut bench = Bench::new(&gpu, &scaled(), &[Shown { betas: [0.9, 0.999], biases: true }], &SPEC);
    for last in [u64::from(u32::MAX) - 1, u64::from(u32::MAX), u64::MAX] {
        bench.optimizer.set_step("t0", last).unwrap();
        for _ in 0..3 {
            bench.step(&[vec![1.0; 5]]);
            assert_eq!([bench.slot(0, "over_first")[0], bench.slot(0, "over_second")[0]], [1.0; 2], "{last}");
        }
    }
}

fn every_correction() -> [Adam; 6] {
    let lr = 0.01;
    [
        Adam { lr, ..Adam::PYTORCH },
        Adam { lr, nesterov: true, eps_root: 1e-3, ..Adam::OPTAX },
        Adam { lr, eps: 1e-2, ..Adam::KERAS },
        Adam { lr, amsgrad: true, amsgrad_over: AmsgradOver::Corrected, eps: 1e-2, ..Adam::KERAS },
        Adam { lr, amsgrad: true, amsgrad_over: AmsgradOver::Corrected, eps_root: 1e-2, ..Adam::KERAS },
        Adam { lr, epsilon: AdamEpsilon::Inside, eps: 1e-2, beta1: 0.4, ..Adam::PYTORCH },
    ]
}

/// One step at count `t` by the device's fold, and by the host's.
fn folds_agree(gpu: &Gpu, settings: &Adam, t: u64) {
    let specs = [(0, 0, 300), (0, 1, 33)];
    let [device, host] = [scaled(), Chain::default()].map(|chain| {
        let mut bench = Bench::new(gpu, &chain, std::slice::from_ref(settings), &specs);
        for (i, &(_, _, len)) in specs.iter().enumerate() {
            for slot in bench.optimizer.slots(&format!("t{i}")).unwrap() {
                let values: Vec<f32> = (0..len).map(|k| 0.25 + k as f32 / 100.0).collect();
                let (device, queue) = (&gpu.device, &gpu.queue);
                bench.optimizer.write_state_blocking(device, queue, &format!("t{i}"), slot, &values).unwrap();
            }
        }
        bench.optimizer.set_all_steps(t - 1);
        bench.step(&grads(&specs, 1, 1.0));
        bench
    });
    for i in 0..2 {
        let (start, device, host) = (host.start(i), device.params_of(i), host.params_of(i));
        let moved = host.iter().zip(&start).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        assert!(moved > 1e-4, "{settings:?} at {t} moved by {moved}");
        for (a, b) in device.iter().zip(&host) {
            // Two biases and their ratio, 16 ULP each, are 3e-6 of the update.
            let (error, allowed) = (f64::from((a - b).abs()), 3e-6 * moved + 1.2e-7);
            assert!(error <= allowed, "{settings:?} at {t}: {a} for {b}, {error:e} of {allowed:e}");
        }
    }
}

#[test]
fn the_devices_fold_is_the_hosts() {
    let Some(gpu) = support::gpu() else { return };
    for settings in every_correction() {
        settings.check().unwrap();
        for t in [1, 2, 10, 1000, 100_000, LAST] {
            folds_agree(&gpu, &settings, t);
        }
    }
}
