//! Checkpoints and curves.

use std::fs;
use std::path::Path;

use wgpu_optim::checkpoint::{Checkpoint, Save};
use wgpu_optim::{Chain, Clip, RmsProp, Rule, readback};

use crate::example::checkpoint::{load, save};
use crate::example::curve::Curve;
use crate::example::model::TENSORS;
use crate::example::telemetry::Sample;
use crate::example::training::Training;
use crate::support::Gpu;
use crate::{ADAM, RMSPROP, gpu};

#[test]
fn a_run_goes_on_from_its_checkpoint_bit_for_bit() {
    let Some(gpu) = gpu() else { return };
    goes_on(&gpu, ADAM, Chain::default());
    goes_on(&gpu, RMSPROP, Chain { clip: Some(Clip::global_norm(0.5)), ..Chain::default() });
    goes_on(&gpu, RmsProp { momentum: 0.9, centered: true, ..RMSPROP }, Chain::default());
}

fn goes_on<R: Rule>(gpu: &Gpu, settings: R, chain: Chain) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let (mut whole, mut curve) = trained(gpu, settings.clone(), chain.clone(), 6);
    save(&path, "rule", &whole, &curve).unwrap();
    let (mut resumed, _) = trained(gpu, settings, chain, 2);
    let mut further = load(&path, "rule", &mut resumed).unwrap();
    assert_eq!(resumed.steps().unwrap(), 6);
    assert_eq!((bits(&resumed), further.losses()), (bits(&whole), curve.losses()));
    train(&mut whole, &mut curve, 4);
    train(&mut resumed, &mut further, 4);
    assert_eq!((bits(&resumed), further.losses()), (bits(&whole), curve.losses()));
    assert_eq!(curve.losses().len(), 10);
}

#[test]
fn what_is_no_checkpoint_of_the_run_is_refused_and_changes_neither_run_nor_file() {
    let Some(gpu) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let (mut training, curve) = trained(&gpu, ADAM, Chain::default(), 3);
    let before = bits(&training);
    for (bytes, told) in refused(&gpu, &path, &training, &curve) {
        fs::write(&path, &bytes).unwrap();
        let error = format!("{:#}", load(&path, "adam", &mut training).err().expect(told));
        assert!(error.starts_with(&format!("{}: ", path.display())), "{error}");
        assert!(error.contains(told), "{error}, expected {told}");
        assert_eq!(bits(&training), before, "{told}");
        assert!(fs::read(&path).unwrap() == bytes, "{told}");
    }
}

/// Files, and what is to be said of them. They are written to `path` on the way.
fn refused<R: Rule>(gpu: &Gpu, path: &Path, training: &Training<R>, curve: &Curve) -> Vec<(Vec<u8>, &'static str)> {
    let file = |training: &Training<R>, rule: &str, curve: &Curve| {
        save(path, rule, training, curve).unwrap();
        fs::read(path).unwrap()
    };
    let whole = file(training, "adam", curve);
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let weights = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/digits/params.safetensors")).unwrap();
    let of_another_program = {
        let Training { device, queue, optimizer, .. } = training;
        optimizer.save_blocking(device, queue, path, &Save { params: true, ..Save::default() }).unwrap();
        fs::read(path).unwrap()
    };
    let other = |settings, chain| {
        let (training, curve) = trained(gpu, settings, chain, 1);
        save(path, "adam", &training, &curve).unwrap();
        fs::read(path).unwrap()
    };
    let clip = Chain { clip: Some(Clip::global_norm(1.0)), ..Chain::default() };
    vec![
        (weights, "this is no checkpoint"),
        (of_another_program, "this is no checkpoint of train_digits: it has no section \"train_digits\""),
        (b"no such thing".to_vec(), "the header's length is given as"),
        (Vec::new(), "0 bytes"),
        (whole[..whole.len() - 1].to_vec(), "bytes"),
        (flipped, "is damaged: its crc32 is"),
        (file(training, "rmsprop", curve), "it was saved with --rule rmsprop, this run has --rule adam"),
        (file(training, "adam", &Curve::new(vec![1.0])), "it has 1 losses, and has taken 3 steps"),
        (other(crate::Adam { lr: 0.02, ..ADAM }, Chain::default()), "lr of group 0 is 0.02 in it and 0.01 in the"),
        (other(ADAM, clip), "clip of the chain is on in it and off in the optimizer"),
    ]
}

/// Whoever reads the file elsewhere finds what PyTorch's layers are called and shaped like.
#[test]
fn a_checkpoint_is_a_safetensors_file_with_the_shapes_of_the_network() {
    let Some(gpu) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let (training, curve) = trained(&gpu, ADAM, Chain::default(), 2);
    save(&path, "adam", &training, &curve).unwrap();
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, shape) in TENSORS {
        let params = file.tensor(&format!("params.{name}")).unwrap();
        let on_device =
            readback::download_blocking(&gpu.device, &gpu.queue, training.model.arena.params(name).unwrap());
        assert_eq!((params.shape(), params.data()), (shape, &on_device.unwrap()[..]), "{name}");
        assert_eq!(file.tensor(&format!("state.{name}.exp_avg_sq")).unwrap().shape(), shape, "{name}");
    }
    assert_eq!(file.tensor("extra.losses").unwrap().data(), bytemuck::cast_slice::<f32, u8>(curve.losses()));
    assert_eq!(Checkpoint::open(&path).unwrap().step_of("fc2.bias"), Some(2));
}

#[test]
fn a_loss_that_did_not_arrive_is_a_gap_until_it_does() {
    let mut curve = Curve::default();
    let sample = |step, loss| Sample { step, loss, accuracy: 0.0 };
    curve.extend([sample(0, 2.5), sample(3, 0.1)]);
    assert_eq!(curve.csv().unwrap(), "step,loss\n0,2.5\n1,NaN\n2,NaN\n3,0.1\n");
    curve.extend([sample(2, 1.5), sample(1, 2.0), sample(3, 0.5)]);
    assert_eq!(curve.losses(), [2.5, 2.0, 1.5, 0.5]);
}

#[test]
fn a_curve_is_drawn_for_light_and_for_dark() {
    assert!(Curve::default().svg("nothing").is_err());
    let svg = Curve::new(vec![2.0, 1.0, f32::NAN, 0.0, 0.25]).svg("a <title>").unwrap();
    let line = svg.lines().find(|line| line.contains("<polyline") && line.contains("#0072B2")).unwrap();
    let line = line.split_once("points=\"").unwrap().1.split_once('"').unwrap().0;
    assert_eq!(line.split_whitespace().count(), 3, "{line}");
    assert!(svg.contains("a &lt;title&gt;") && svg.contains("prefers-color-scheme: dark"), "{svg}");
    // Each rule for dark sees something.
    let rules: Vec<&str> =
        svg.lines().filter_map(|line| line.trim().strip_prefix('[')?.split_once(']')).map(|rule| rule.0).collect();
    assert_eq!(rules.len(), 3);
    for rule in rules {
        assert!(svg.matches(rule).count() > 1, "nothing has {rule}");
    }
}

fn trained<R: Rule>(gpu: &Gpu, settings: R, chain: Chain, steps: usize) -> (Training<R>, Curve) {
    let mut training = Training::new(&gpu.device, &gpu.queue, settings, chain).unwrap();
    let mut curve = Curve::default();
    train(&mut training, &mut curve, steps);
    (training, curve)
}

fn train<R: Rule>(training: &mut Training<R>, curve: &mut Curve, steps: usize) {
    (0..steps).for_each(|_| curve.extend(training.step().unwrap()));
    curve.extend(training.drain().unwrap());
}

/// Every parameter, every slot and the step count.
fn bits<R: Rule>(training: &Training<R>) -> Vec<(String, Vec<u32>)> {
    let Training { device, queue, model, optimizer, .. } = training;
    let mut all = Vec::new();
    for (name, _) in TENSORS {
        let params = readback::download_blocking(device, queue, model.arena.params(name).unwrap()).unwrap();
        all.push((format!("{name} at {}", optimizer.step_of(name).unwrap()), bytemuck::pod_collect_to_vec(&params)));
        for slot in optimizer.slots(name).unwrap() {
            let state = optimizer.read_state_blocking(device, queue, name, slot).unwrap();
            all.push((format!("{name} {slot}"), bytemuck::cast_vec(state)));
        }
    }
    all
}
