//! Checkpoints and curves.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use wgpu_optim::{Chain, RmsProp, Rule, readback};

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
    goes_on(&gpu, ADAM);
    goes_on(&gpu, RMSPROP);
    goes_on(&gpu, RmsProp { momentum: 0.9, centered: true, ..RMSPROP });
}

fn goes_on<R: Rule>(gpu: &Gpu, settings: R) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let mut whole = trained(gpu, settings.clone(), 6);
    save(&path, "rule", &whole).unwrap();
    let mut resumed = trained(gpu, settings, 2);
    load(&path, "rule", &mut resumed).unwrap();
    assert_eq!(resumed.steps().unwrap(), 6);
    assert_eq!(bits(&resumed), bits(&whole));
    for _ in 0..4 {
        whole.step().unwrap();
        resumed.step().unwrap();
    }
    assert_eq!(bits(&resumed), bits(&whole));
}

#[test]
fn what_is_no_checkpoint_of_the_run_is_refused_and_changes_nothing() {
    let Some(gpu) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut training = trained(&gpu, ADAM, 3);
    let (path, before) = (folder.path().join("file"), bits(&training));
    save(&path, "adam", &training).unwrap();
    let whole = fs::read(&path).unwrap();
    let params = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/digits/params.safetensors")).unwrap();
    let without = |gone: &str| changed(&whole, "adam", |name, shape| (name != gone).then_some(shape));
    let square = |_: &str, shape: Vec<usize>| Some(if shape == [32] { vec![4, 8] } else { shape });
    let refused = [
        (params, "it is no checkpoint of train_digits"),
        (b"no such thing".to_vec(), "it is no safetensors file"),
        (Vec::new(), "it is no safetensors file"),
        (whole[..whole.len() - 1].to_vec(), "it is no safetensors file"),
        (
            changed(&whole, "rmsprop", |_, shape| Some(shape)),
            "it was saved with --rule rmsprop, this run has --rule adam",
        ),
        (without("step"), "it holds no tensor \"step\""),
        (without("state.fc2.bias.exp_avg_sq"), "it holds no tensor \"state.fc2.bias.exp_avg_sq\""),
        (changed(&whole, "adam", square), "\"fc1.bias\" is F32 [4, 8] in it, expected F32 [32]"),
    ];
    for (bytes, told) in refused {
        fs::write(&path, bytes).unwrap();
        let error = format!("{:#}", load(&path, "adam", &mut training).unwrap_err());
        assert!(error.starts_with(&format!("cannot go on from {}: ", path.display())), "{error}");
        assert!(error.contains(told), "{error}, expected {told}");
        assert_eq!(bits(&training), before, "{told}");
    }
}

#[test]
fn a_save_that_fails_leaves_the_old_file() {
    let Some(gpu) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let mut training = trained(&gpu, ADAM, 1);
    save(&path, "adam", &training).unwrap();
    let before = fs::read(&path).unwrap();
    training.step().unwrap();
    // Where the new file would be written first, there is a folder.
    fs::create_dir(folder.path().join("checkpoint.partial")).unwrap();
    let error = format!("{:#}", save(&path, "adam", &training).unwrap_err());
    assert!(error.starts_with(&format!("cannot write {}: ", path.display())), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_curve_that_is_ahead_of_its_checkpoint_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("loss.csv");
    assert_eq!(rows(&Curve::read(&path, 9).unwrap(), &folder.path().join("empty")), 0);
    let mut curve = Curve::default();
    curve.extend((0..9).map(|step| Sample { step, loss: 1.0 / (step as f32 + 3.0), accuracy: 0.0 }));
    curve.write(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let cut = folder.path().join("cut.csv");
    assert_eq!(rows(&Curve::read(&path, 5).unwrap(), &cut), 5);
    assert!(text.starts_with(&fs::read_to_string(&cut).unwrap()), "a loss was read otherwise than it was written");
    fs::write(&path, "step,loss\n0,2.3\n1,much\n").unwrap();
    let error = format!("{:#}", Curve::read(&path, 5).err().expect("a word was taken for a loss"));
    assert!(error.contains("cannot read") && error.contains("loss.csv"), "{error}");
}

fn rows(curve: &Curve, path: &Path) -> usize {
    curve.write(path).unwrap();
    fs::read_to_string(path).unwrap().lines().count() - 1
}

#[test]
fn a_curve_is_drawn_for_light_and_for_dark() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("loss.svg");
    let mut curve = Curve::default();
    assert!(curve.draw(&path, "nothing").is_err());
    let losses = [2.0, 1.0, f32::NAN, 0.0, 0.25];
    curve.extend((0..).zip(losses).map(|(step, loss)| Sample { step, loss, accuracy: 0.0 }));
    curve.draw(&path, "a <title>").unwrap();
    let svg = fs::read_to_string(&path).unwrap();
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

fn trained<R: Rule>(gpu: &Gpu, settings: R, steps: usize) -> Training<R> {
    let mut training = Training::new(&gpu.device, &gpu.queue, settings, Chain::default()).unwrap();
    (0..steps).for_each(|_| drop(training.step().unwrap()));
    training
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

/// A file with another rule in its metadata, and of its tensors those to which `shape` gives one.
fn changed(bytes: &[u8], rule: &str, shape: impl Fn(&str, Vec<usize>) -> Option<Vec<usize>>) -> Vec<u8> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let views = file.iter().filter_map(|(name, view)| {
        let shape = shape(name, view.shape().to_vec())?;
        Some((name.to_string(), TensorView::new(view.dtype(), shape, view.data()).unwrap()))
    });
    let metadata = HashMap::from([("train_digits".to_string(), rule.to_string())]);
    safetensors::serialize(views, Some(metadata)).unwrap()
}
