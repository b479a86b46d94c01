//! Losses, gradients and weights, against those that PyTorch has left in `tests/golden`.

use std::sync::OnceLock;

use safetensors::SafeTensors;
use wgpu_optim::{Adam, BufferRange, Chain, Clip, RmsProp, Rule, readback};

use crate::example::data::{self, Digits};
use crate::example::telemetry::Sample;
use crate::example::training::Training;
use crate::support::Gpu;
use crate::{ADAM, RMSPROP, begun, gpu};

/// Our names, and the file's.
const NAMES: [(&str, &str); 4] = [("fc1.weight", "w1"), ("fc1.bias", "b1"), ("fc2.weight", "w2"), ("fc2.bias", "b2")];
const STEPS: u64 = 200;
/// The relative error of a loss, up to step 50 and after it. PyTorch's `f32` run is off its `f64` one by 2.4e-7 and
/// 1.6e-5: what rounds differently grows with every step.
const EARLY: u64 = 50;
const LOSS: [f64; 2] = [1e-5, 1e-4];
/// The error of a weight, as a share of the longest way that one of its tensor has gone. Lavapipe is off by 5e-6, most
/// of which is the last bit of a weight that has gone a thousandth of itself.
const WEIGHTS: f64 = 1e-4;
const STEPS_WITH_WEIGHTS: [u64; 3] = [1, 10, 50];
/// A row on the edge between two classes may fall on either side.
const ROWS_ON_AN_EDGE: f64 = 2.0;

#[test]
fn the_bundled_digits_and_weights_are_those_of_the_reference() {
    let digits = Digits::load().unwrap();
    assert_eq!(digits.pixels, single("x"));
    let labels: Vec<u32> = bytemuck::pod_collect_to_vec::<u8, i64>(bytes("y")).iter().map(|&y| y as u32).collect();
    assert_eq!(digits.labels, labels);
    for (ours, theirs) in NAMES {
        assert_eq!(data::start(ours).unwrap(), single(&format!("init/{theirs}")), "{ours}");
    }
}

#[test]
fn adam_goes_where_pytorch_goes() {
    assert_followed("adam", ADAM);
}

#[test]
fn rmsprop_goes_where_pytorch_goes() {
    assert_followed("rmsprop", RMSPROP);
}

#[test]
fn the_textbooks_rmsprop_goes_where_pytorch_goes() {
    assert_followed("rmsprop_article", RmsProp::ARTICLE);
}

#[test]
fn a_rate_off_by_a_hundredth_is_noticed_in_the_loss() {
    let Some(gpu) = gpu() else { return };
    let noticed = [
        follow(&gpu, "adam", Adam { lr: 1.01 * ADAM.lr, ..ADAM }),
        follow(&gpu, "rmsprop", RmsProp { lr: 1.01 * RMSPROP.lr, ..RMSPROP }),
        follow(&gpu, "rmsprop_article", RmsProp { lr: 1.01 * RmsProp::ARTICLE.lr, ..RmsProp::ARTICLE }),
    ];
    for result in noticed {
        let told = result.expect_err("a rate off by a hundredth passed");
        assert!(told.starts_with("step 1: loss"), "{told}");
    }
}

#[test]
fn a_rate_off_by_a_hundredth_is_noticed_in_the_weights() {
    let Some(gpu) = gpu() else { return };
    let mut training = begun(&gpu, Adam { lr: 1.01 * ADAM.lr, ..ADAM }, Chain::default());
    training.step().unwrap();
    let told = compare_weights(&gpu, &training, "adam", 1).expect_err("a rate off by a hundredth passed");
    assert!(told.contains("of the way"), "{told}");
}

#[test]
fn the_first_gradient_is_pytorchs() {
    let Some(gpu) = gpu() else { return };
    let mut training = begun(&gpu, ADAM, Chain::default());
    training.step().unwrap();
    for (ours, theirs) in NAMES {
        let found = read(&gpu, training.arena.grads(ours).unwrap());
        let expected = double(&format!("grad0_f64/{theirs}"));
        let largest = expected.iter().fold(0f64, |largest, g| largest.max(g.abs()));
        let error = farthest(&found, &expected) / largest;
        println!("{ours}: {error:.1e} of the largest");
        assert!(error <= 1e-6, "gradient of {ours}: off by {error:e} of the largest");
    }
}

/// What holds nothing back multiplies by 1, which no bit shows; what holds the gradient back shows in the weights.
#[test]
fn a_clip_is_in_the_encoder_and_acts_where_the_norm_is_above_it() {
    let Some(gpu) = gpu() else { return };
    let weights = |clip: Option<Clip>| {
        let chain = Chain { clip, ..Chain::default() };
        let mut training = begun(&gpu, RMSPROP, chain);
        (0..5).for_each(|_| drop(training.step().unwrap()));
        NAMES.map(|(name, _)| read(&gpu, training.arena.params(name).unwrap()))
    };
    let plain = weights(None);
    assert!(weights(Some(Clip::global_norm(1e9))) == plain, "a clip that holds nothing back moved a bit");
    // RMSprop takes little notice of a gradient's length, but of one that comes down to its eps.
    assert!(weights(Some(Clip::global_norm(1e-8))) != plain, "a clip that holds all back moved nothing");
}

fn assert_followed<R: Rule>(run: &str, settings: R) {
    let Some(gpu) = gpu() else { return };
    follow(&gpu, run, settings).unwrap_or_else(|failure| panic!("{run}: {failure}"));
}

/// Trains, and compares all the way; the first disagreement.
fn follow<R: Rule>(gpu: &Gpu, run: &str, settings: R) -> Result<(), String> {
    let mut training = begun(gpu, settings, Chain::default());
    let reference = Reference::new(run);
    let mut worst = 0f64;
    for step in 0..=STEPS {
        let weights = match STEPS_WITH_WEIGHTS.contains(&step) {
            true => compare_weights(gpu, &training, run, step),
            false => Ok(()),
        };
        let sample = sample(&mut training, step);
        worst = worst.max(reference.compare(sample)?);
        weights?;
    }
    println!("{run}: {worst:.2} of the limit");
    Ok(())
}

/// The sample of the parameters as they are. Before the last, a step is taken with it.
fn sample<R: Rule>(training: &mut Training<R>, step: u64) -> Sample {
    if step == STEPS {
        return training.evaluate().unwrap();
    }
    let mut samples = training.step().unwrap();
    samples.extend(training.drain().unwrap());
    assert_eq!(samples.iter().map(|sample| sample.step).collect::<Vec<_>>(), [step]);
    samples[0]
}

/// What PyTorch's run came to at each step.
struct Reference {
    /// In `f64` and in `f32`.
    losses: [Vec<f64>; 2],
    accuracies: Vec<f64>,
    rows: f64,
}

impl Reference {
    fn new(run: &str) -> Self {
        let losses = ["f64", "f32"].map(|family| double(&format!("loss_{family}/{run}")));
        let accuracies = double(&format!("acc_f32/{run}"));
        let rows = bytes("y").len() as f64 / 8.0;
        assert!([&losses[0], &losses[1], &accuracies].iter().all(|curve| curve.len() as u64 == STEPS + 1));
        Self { losses, accuracies, rows }
    }

    /// The worst error as a share of its limit.
    fn compare(&self, Sample { step, loss, accuracy }: Sample) -> Result<f64, String> {
        let limit = LOSS[usize::from(step > EARLY)];
        let errors = self.losses.iter().map(|losses| (f64::from(loss) / losses[step as usize] - 1.0).abs());
        let error = errors.fold(0.0, worse);
        if error.is_nan() || error > limit {
            return Err(format!("step {step}: loss {loss} is off by {error:.1e}, the limit is {limit:e}"));
        }
        let rows = (f64::from(accuracy) - self.accuracies[step as usize]).abs() * self.rows;
        if rows.is_nan() || rows > ROWS_ON_AN_EDGE + 0.5 {
            return Err(format!("step {step}: accuracy {accuracy} is off by {rows:.1} rows"));
        }
        Ok(error / limit)
    }
}

fn compare_weights<R: Rule>(gpu: &Gpu, training: &Training<R>, run: &str, step: u64) -> Result<(), String> {
    for (ours, theirs) in NAMES {
        let found = read(gpu, training.arena.params(ours).unwrap());
        let expected = single(&format!("weights_f32_step{step}/{run}/{theirs}"));
        let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
        let way = farthest(&data::start(ours).unwrap(), &expected);
        let error = farthest(&found, &expected) / way;
        println!("{run}, step {step}, {ours}: {error:.1e} of the way");
        if error.is_nan() || error > WEIGHTS {
            return Err(format!("step {step}: {ours} is off by {error:.1e} of the way, the limit is {WEIGHTS:e}"));
        }
    }
    Ok(())
}

/// The largest difference; NaN where one is NaN.
fn farthest(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, worse)
}

fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

fn read(gpu: &Gpu, range: &BufferRange) -> Vec<f32> {
    let bytes = readback::download_blocking(&gpu.device, &gpu.queue, range).unwrap();
    bytemuck::pod_collect_to_vec(&bytes)
}

fn single(key: &str) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(bytes(key))
}

fn double(key: &str) -> Vec<f64> {
    bytemuck::pod_collect_to_vec(bytes(key))
}

/// The bytes of a tensor of the reference.
fn bytes(key: &str) -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/mlp_digits_64_32_10.safetensors");
    let file = FILE.get_or_init(|| std::fs::read(path).unwrap());
    SafeTensors::deserialize(file).unwrap().tensor(key).unwrap_or_else(|error| panic!("{key}: {error}")).data()
}
