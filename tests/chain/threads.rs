//! The CPU's fast step with a chain around it: the twin's, at every number of threads.

use wgpu_optim::{Adam, Chain, Clamp, Clip, Ema, Error, Norm, Over, RmsProp, Rule, cpu};

use crate::bench::{Spec, bits, grads, scaler, twin};

/// From one element to several chunks of a norm.
const SPECS: [Spec; 7] = [(0, 0, 1), (0, 0, 7), (0, 0, 1025), (0, 0, 65_537), (1, 0, 3), (1, 0, 300_007), (1, 0, 33)];
const STEPS: u64 = 4;

type Step<R> = fn(&mut cpu::Optimizer<R, f32>, &mut [&mut [f32]], &[&[f32]]) -> Result<(), Error>;

/// Parameters and every slot after some steps, of which one is skipped and one leaves a tensor out.
fn run<R: Rule>(chain: &Chain, groups: &[R], by: Step<R>) -> Vec<Vec<f32>> {
    let mut optimizer = twin(chain, groups, &SPECS);
    let mut params: Vec<Vec<f32>> = SPECS.iter().map(|&(_, _, len)| vec![0.25; len]).collect();
    for step in 0..STEPS {
        let scale = optimizer.control().scale;
        let mut grads = grads(&SPECS, step, scale);
        if step == 1 && chain.scaler.is_some() {
            grads[5][300_006] = f32::NAN;
        }
        let names: &[&str] = if step == 2 { &["t3"] } else { &[] };
        optimizer.freeze(names).unwrap();
        let mut slices: Vec<&mut [f32]> = params.iter_mut().map(Vec::as_mut_slice).collect();
        let grads: Vec<&[f32]> = grads.iter().map(Vec::as_slice).collect();
        if chain.accumulate {
            optimizer.accumulate(&grads, 0.5).unwrap();
            by(&mut optimizer, &mut slices, &[]).unwrap();
        } else {
            by(&mut optimizer, &mut slices, &grads).unwrap();
        }
        optimizer.thaw(names).unwrap();
    }
    assert_eq!(optimizer.control().skipped, u64::from(chain.scaler.is_some()));
    for name in optimizer.names() {
        params.extend(optimizer.slots(name).unwrap().iter().map(|slot| optimizer.state(name, slot).unwrap().to_vec()));
    }
    params
}

fn all_bits(run: &[Vec<f32>]) -> Vec<Vec<u32>> {
    run.iter().map(|values| bits(values)).collect()
}

/// The same run at several numbers of threads, which must not differ.
fn fast<R: Rule>(chain: &Chain, groups: &[R]) -> Vec<Vec<f32>> {
    let runs = [1, 2, 5].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(chain, groups, cpu::Optimizer::step_parallel))
    });
    for other in &runs[1..] {
        assert!(all_bits(other) == all_bits(&runs[0]), "{chain:?} differs by the number of threads");
    }
    runs.into_iter().next().unwrap()
}

fn chains(clip: Option<Clip>) -> [Chain; 3] {
    let ema = Some(Ema { decay: 0.9, overwrite_every: 2 });
    let clamp = Some(Clamp { min: -0.5, max: 0.26 });
    [
        Chain { clip: clip.clone(), ema: ema.clone(), ..Chain::default() },
        Chain { clip: clip.clone(), scaler: Some(scaler()), clamp: clamp.clone(), ..Chain::default() },
        Chain { clip, scaler: Some(scaler()), ema, clamp, accumulate: true, zero_grads: false },
    ]
}

fn each_rule(chain: &Chain, compare: impl Fn(&[Vec<f32>], &[Vec<f32>])) {
    let adam = [Adam { lr: 0.01, ..Adam::PYTORCH }, Adam { lr: 0.02, amsgrad: true, ..Adam::KERAS }];
    compare(&fast(chain, &adam), &run(chain, &adam, cpu::Optimizer::step));
    let rmsprop = [RmsProp { momentum: 0.9, ..RmsProp::KERAS }, RmsProp { momentum: 0.9, ..RmsProp::PYTORCH }];
    compare(&fast(chain, &rmsprop), &run(chain, &rmsprop, cpu::Optimizer::step));
}

#[test]
fn without_a_sum_the_fast_step_is_the_twins_bit_for_bit() {
    let largest = Clip { norm: Norm::Inf, ..Clip::global_norm(0.25) };
    for clip in [None, Some(Clip::value(0.1)), Some(largest)] {
        for chain in chains(clip) {
            each_rule(&chain, |ours, twin| assert!(all_bits(ours) == all_bits(twin), "{chain:?}"));
        }
    }
}

/// A sum of squares in another order may have another last bit, in `f64`; in `f32` that is one ULP of the factor.
#[test]
fn with_a_sum_the_fast_step_is_within_the_envelope() {
    for over in [Over::All, Over::Group, Over::Tensor] {
        for chain in chains(Some(Clip { over, ..Clip::global_norm(0.5) })) {
            each_rule(&chain, |ours, twin| {
                for (ours, twin) in ours.iter().zip(twin) {
                    let largest = twin.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                    let off = ours.iter().zip(twin).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(off <= 2e-6 * largest, "{chain:?}: off by {off:e} of {largest:e}");
                }
                println!("{over:?}: the same bits: {}", all_bits(ours) == all_bits(twin));
            });
        }
    }
}
