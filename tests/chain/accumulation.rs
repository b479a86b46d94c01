//! Micro-batches summed up, and the step that takes their sum.

use wgpu_optim::{Adam, Chain, Clip, Ema, Error, RmsProp, Rule, cpu};

use crate::bench::{Bench, SPECS, Spec, bits, grads, scaler, twin};
use crate::support;

fn chain() -> Chain {
    let ema = Some(Ema { decay: 0.9, overwrite_every: 2 });
    Chain { clip: Some(Clip::global_norm(0.5)), scaler: Some(scaler()), ema, ..Chain::default() }
}

fn accumulating() -> Chain {
    Chain { accumulate: true, ..chain() }
}

fn slices(of: &[Vec<f32>]) -> Vec<&[f32]> {
    of.iter().map(Vec::as_slice).collect()
}

type Step<R> = fn(&mut cpu::Optimizer<R, f32>, &mut [&mut [f32]], &[&[f32]]) -> Result<(), Error>;

fn step<R: Rule>(by: Step<R>, optimizer: &mut cpu::Optimizer<R, f32>, params: &mut [Vec<f32>], grads: &[&[f32]]) {
    let mut params: Vec<&mut [f32]> = params.iter_mut().map(Vec::as_mut_slice).collect();
    by(optimizer, &mut params, grads).unwrap();
}

/// `k` micro-batches and a step are one step on their sum, bit for bit.
fn are_one_step<R: Rule>(settings: R, by: Step<R>, k: u64, weight: f64) {
    let groups = [settings.clone(), settings];
    let mut summed = twin(&accumulating(), &groups, &SPECS);
    let mut at_once = twin(&chain(), &groups, &SPECS);
    let mut params: Vec<Vec<f32>> = SPECS.iter().map(|&(_, _, len)| vec![0.5; len]).collect();
    let mut other = params.clone();
    for round in 0..3 {
        let mut sum: Vec<Vec<f32>> = SPECS.iter().map(|&(_, _, len)| vec![0.0; len]).collect();
        for batch in 0..k {
            let grads = grads(&SPECS, round * k + batch, 1024.0);
            for (sum, g) in sum.iter_mut().flatten().zip(grads.iter().flatten()) {
                *sum += weight as f32 * g;
            }
            let before = params.clone();
            summed.accumulate(&slices(&grads), weight).unwrap();
            assert_eq!((&params, summed.step_of("t0").unwrap()), (&before, round), "a micro-batch advanced something");
        }
        step(by, &mut summed, &mut params, &[]);
        step(by, &mut at_once, &mut other, &slices(&sum));
        for (ours, theirs) in params.iter().zip(&other) {
            assert_eq!(bits(ours), bits(theirs));
        }
    }
    for name in ["t0", "t4"] {
        for slot in at_once.slots(name).unwrap() {
            assert_eq!(bits(summed.state(name, slot).unwrap()), bits(at_once.state(name, slot).unwrap()), "{slot}");
        }
        assert!(summed.state(name, "accumulated_grad").unwrap().iter().all(|&g| g == 0.0), "sums that a step left");
    }
}

#[test]
fn micro_batches_are_one_step_on_their_sum() {
    for (k, weight) in [(1, 1.0), (4, 1.0), (4, 0.25), (3, 1.0 / 3.0)] {
        are_one_step(Adam { lr: 0.01, ..Adam::PYTORCH }, cpu::Optimizer::step, k, weight);
        are_one_step(RmsProp { momentum: 0.9, ..RmsProp::KERAS }, cpu::Optimizer::step, k, weight);
        #[cfg(feature = "parallel")]
        are_one_step(Adam { lr: 0.01, ..Adam::PYTORCH }, cpu::Optimizer::step_parallel, k, weight);
    }
}

#[test]
fn an_infinity_in_one_micro_batch_skips_the_step_and_is_gone() {
    let groups = [Adam::PYTORCH, Adam::PYTORCH];
    let mut optimizer = twin(&accumulating(), &groups, &SPECS);
    let mut params: Vec<Vec<f32>> = SPECS.iter().map(|&(_, _, len)| vec![0.5; len]).collect();
    let start = params.clone();
    let mut bad = grads(&SPECS, 0, 1024.0);
    bad[3][255] = f32::NEG_INFINITY;
    optimizer.accumulate(&slices(&bad), 1.0).unwrap();
    optimizer.accumulate(&slices(&grads(&SPECS, 1, 1024.0)), 1.0).unwrap();
    step(cpu::Optimizer::step, &mut optimizer, &mut params, &[]);
    assert_eq!((&params, optimizer.step_of("t3").unwrap()), (&start, 0));
    assert_eq!((optimizer.control().scale, optimizer.control().skipped), (512.0, 1));
    assert!(optimizer.state("t3", "accumulated_grad").unwrap().iter().all(|&g| g == 0.0));
    optimizer.accumulate(&slices(&grads(&SPECS, 2, 512.0)), 1.0).unwrap();
    step(cpu::Optimizer::step, &mut optimizer, &mut params, &[]);
    assert_ne!(params, start);
    assert!(params.iter().flatten().all(|p| p.is_finite()));
}

#[test]
fn frozen_tensors_accumulate_nothing() {
    let groups = [Adam::PYTORCH, Adam::PYTORCH];
    let mut optimizer = twin(&accumulating(), &groups, &SPECS);
    optimizer.freeze(["t2"]).unwrap();
    let mut some = grads(&SPECS, 0, 1024.0);
    some[2].clear();
    optimizer.accumulate(&slices(&some), 1.0).unwrap();
    assert!(optimizer.state("t2", "accumulated_grad").unwrap().iter().all(|&g| g == 0.0));
    assert_eq!(bits(optimizer.state("t4", "accumulated_grad").unwrap()), bits(&some[4]));
}

#[test]
fn sums_are_refused_where_none_are_kept() {
    let mut optimizer = twin(&chain(), &[Adam::PYTORCH], &[(0, 0, 2)]);
    let error = optimizer.accumulate(&[&[1.0, 2.0]], 1.0).unwrap_err();
    assert_eq!(error.to_string(), r#""t0" keeps no "accumulated_grad"; its state is exp_avg, exp_avg_sq, ema"#);
    let mut optimizer = twin(&accumulating(), &[Adam::PYTORCH], &[(0, 0, 2)]);
    let error = optimizer.accumulate(&[&[1.0]], 1.0).unwrap_err();
    assert_eq!(error.to_string(), r#"gradient of "t0" has 1 elements, its parameters have 2"#);
    let error = optimizer.accumulate(&[], 1.0).unwrap_err();
    assert_eq!(error.to_string(), "0 slices of gradients were given for 1 tensors");
}

/// The step takes sums from where each group keeps them, measures them there, and empties them, skipped or not.
#[test]
fn the_device_takes_sums_from_where_each_group_keeps_them() {
    let Some(gpu) = support::gpu() else { return };
    const SPECS: [Spec; 4] = [(0, 0, 1025), (0, 1, 70), (1, 0, 300), (1, 3, 1001)];
    // The second group keeps a slot more, so that its sums lie elsewhere.
    let groups = [Adam { lr: 0.01, ..Adam::PYTORCH }, Adam { lr: 0.01, amsgrad: true, ..Adam::PYTORCH }];
    let mut bench = Bench::new(&gpu, &accumulating(), &groups, &SPECS);
    let mut expected = Bench::new(&gpu, &chain(), &groups, &SPECS);
    let nan: Vec<Vec<f32>> = SPECS.iter().map(|&(_, _, len)| vec![f32::NAN; len]).collect();
    for round in 0..4 {
        let mut sums = grads(&SPECS, round, if round < 2 { 1024.0 } else { 512.0 });
        if round == 1 {
            sums[3][1000] = f32::INFINITY;
        }
        for (i, sum) in sums.iter().enumerate() {
            let (device, queue, name) = (&gpu.device, &gpu.queue, format!("t{i}"));
            bench.optimizer.write_state_blocking(device, queue, &name, "accumulated_grad", sum).unwrap();
        }
        // What lies in the gradients by now is nothing to the step.
        bench.step(&nan);
        expected.step(&sums);
        for i in 0..SPECS.len() {
            assert_eq!(bits(&bench.params_of(i)), bits(&expected.params_of(i)), "round {round}, t{i}");
            assert!(bench.slot(i, "accumulated_grad").iter().all(|&g| g == 0.0), "round {round}, t{i}");
        }
        assert_eq!(bench.scaler(), expected.scaler());
    }
    assert_eq!(bench.scaler(), (512.0, 2, 1));
}

/// What a step of sums is given besides would be lost without a word.
#[test]
fn gradients_given_to_a_step_of_sums_are_refused() {
    let chain = Chain { accumulate: true, ..Chain::default() };
    let mut twin = cpu::Optimizer::<Adam, f32>::with_chain(chain).unwrap();
    twin.add_group(Adam::PYTORCH, [("w", 2), ("b", 1)]).unwrap();
    let (mut w, mut b) = ([1.0, 2.0], [3.0]);
    let refused = |error: Error| {
        let told = "2 gradients were given to a step that takes what was accumulated; give them to `accumulate`, and \
                    the step none";
        assert_eq!((error.to_string().as_str(), &error), (told, &Error::Accumulated { found: 2 }));
    };
    refused(twin.step(&mut [&mut w, &mut b], &[&[0.5, 0.5], &[0.5]]).unwrap_err());
    #[cfg(feature = "parallel")]
    refused(twin.step_parallel(&mut [&mut w, &mut b], &[&[0.5, 0.5], &[0.5]]).unwrap_err());
    assert_eq!((w, b, twin.step_of("w").unwrap()), ([1.0, 2.0], [3.0], 0));
    twin.accumulate(&[&[0.5, 0.5], &[0.5]], 1.0).unwrap();
    twin.step(&mut [&mut w, &mut b], &[]).unwrap();
    assert!(w[0] < 1.0 && b[0] < 3.0);
}
