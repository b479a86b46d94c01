//! Checkpoints.

use std::fs;
use std::path::Path;

use clap::ValueEnum;
use wgpu_optim::checkpoint::{Checkpoint, Save};
use wgpu_optim::{Chain, Clip, RmsProp, Rule, readback};

use crate::example::checkpoint::{load, save};
use crate::example::curve::Curve;
use crate::example::format::FormatKind;
use crate::example::model::TENSORS;
use crate::example::training::Training;
use crate::support::Gpu;
use crate::{ADAM, RMSPROP, gpu};

#[test]
fn a_run_goes_on_from_its_checkpoint_bit_for_bit() {
    let Some(gpu) = gpu() else { return };
    goes_on(&gpu, ADAM, Chain::default(), FormatKind::F32);
    goes_on(&gpu, RMSPROP, Chain { clip: Some(Clip::global_norm(0.5)), ..Chain::default() }, FormatKind::F32);
    goes_on(&gpu, RmsProp { momentum: 0.9, centered: true, ..RMSPROP }, Chain::default(), FormatKind::F32);
}

#[test]
fn a_run_of_any_format_goes_on_from_its_checkpoint_bit_for_bit() {
    let Some(gpu) = gpu() else { return };
    FormatKind::value_variants().iter().for_each(|&format| goes_on(&gpu, ADAM, Chain::default(), format));
}

/// What is refused is told by the library: the example knows nothing of a checkpoint's formats.
#[test]
fn a_checkpoint_of_another_format_is_refused_by_what_differs() {
    let Some(gpu) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let (training, curve) = trained(&gpu, ADAM, Chain::default(), FormatKind::Bf16Kahan, 1);
    save(&path, "adam", &training, &curve).unwrap();
    for (format, told) in [
        (FormatKind::F32, "the format of group 0: params is bf16 in it and f32 in the optimizer"),
        (FormatKind::Bf16Stochastic, "the format of group 0: rounding is kahan in it and stochastic in the optimizer"),
        (FormatKind::Q8Bf16Kahan, "is bf16 in it and q8 in the optimizer"),
    ] {
        let (mut other, _) = trained(&gpu, ADAM, Chain::default(), format, 1);
        let before = bits(&other);
        let error = format!("{:#}", load(&path, "adam", &mut other).err().unwrap());
        assert!(error.contains(told), "{format}: {error}");
        assert_eq!(bits(&other), before, "{format}");
    }
}

fn goes_on<R: Rule>(gpu: &Gpu, settings: R, chain: Chain, format: FormatKind) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let (mut whole, mut curve) = trained(gpu, settings.clone(), chain.clone(), format, 6);
    save(&path, "rule", &whole, &curve).unwrap();
    let (mut resumed, _) = trained(gpu, settings, chain, format, 2);
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
    let (mut training, curve) = trained(&gpu, ADAM, Chain::default(), FormatKind::F32, 3);
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
        let (training, curve) = trained(gpu, settings, chain, FormatKind::F32, 1);
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
    let (training, curve) = trained(&gpu, ADAM, Chain::default(), FormatKind::F32, 2);
    save(&path, "adam", &training, &curve).unwrap();
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, shape) in TENSORS {
        let params = file.tensor(&format!("params.{name}")).unwrap();
        let on_device = readback::download_blocking(&gpu.device, &gpu.queue, training.arena.params(name).unwrap());
        assert_eq!((params.shape(), params.data()), (shape, &on_device.unwrap()[..]), "{name}");
        assert_eq!(file.tensor(&format!("state.{name}.exp_avg_sq")).unwrap().shape(), shape, "{name}");
    }
    assert_eq!(file.tensor("extra.losses").unwrap().data(), bytemuck::cast_slice::<f32, u8>(curve.losses()));
    assert_eq!(Checkpoint::open(&path).unwrap().step_of("fc2.bias"), Some(2));
}

fn trained<R: Rule>(gpu: &Gpu, settings: R, chain: Chain, format: FormatKind, steps: usize) -> (Training<R>, Curve) {
    let mut training = Training::new(&gpu.device, &gpu.queue, settings, chain, &format.formats()).unwrap();
    let mut curve = Curve::default();
    train(&mut training, &mut curve, steps);
    (training, curve)
}

fn train<R: Rule>(training: &mut Training<R>, curve: &mut Curve, steps: usize) {
    (0..steps).for_each(|_| curve.extend(training.step().unwrap()));
    curve.extend(training.drain().unwrap());
}

/// Every parameter, every slot and the step count.
fn bits<R: Rule>(training: &Training<R>) -> Vec<(String, Vec<u8>)> {
    let Training { device, queue, halves, optimizer, .. } = training;
    let mut all = Vec::new();
    for tensor in halves.tensors() {
        let (name, params) = (tensor.name(), readback::download_blocking(device, queue, tensor.params()).unwrap());
        all.push((format!("{name} at {}", optimizer.step_of(name).unwrap()), params));
        for slot in optimizer.slots(name).unwrap() {
            let state = optimizer.read_state_blocking(device, queue, name, slot).unwrap();
            all.push((format!("{name} {slot}"), bytemuck::cast_slice(&state).to_vec()));
        }
    }
    all
}
