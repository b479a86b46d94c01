//! State that crosses between PyTorch and here. `tests/golden/state_dict.py` makes the files that are read, and goes on
//! from those that are written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};
use serde_json::{Value as Json, json};
use wgpu_optim::checkpoint::{Checkpoint, Disagreement, Error, Load};
use wgpu_optim::{Adam, AdamW, Decay, RmsProp, Rule};

use crate::run::{OnCpu, OnGpu, Run, folder, values};
use crate::support::gpu;

/// The tensors of the script, two in each group.
const TENSORS: [(&str, usize, usize); 4] = [("w", 15, 0), ("b", 1, 0), ("v", 17, 1), ("u", 32, 1)];
const AHEAD: usize = 3;

/// What the script's cases are called here.
fn adam() -> [Adam; 2] {
    let first = Adam { lr: 0.1 + 0.2, weight_decay: 0.1, ..Adam::PYTORCH };
    [first, Adam { beta1: 0.8, beta2: 0.95, maximize: true, ..Adam::PYTORCH }]
}

fn adamw() -> [Adam; 2] {
    let first = Adam { lr: 1e-2, amsgrad: true, ..AdamW::PYTORCH };
    [first, Adam { lr: 3e-4, eps: 1e-6, weight_decay: 0.3, ..AdamW::PYTORCH }]
}

fn rmsprop() -> [RmsProp; 2] {
    let first = RmsProp { centered: true, momentum: 0.9, ..RmsProp::PYTORCH };
    let second = RmsProp { lr: 2e-3, alpha: 0.9, momentum: 0.5, weight_decay: 0.01, ..RmsProp::PYTORCH };
    [first, second]
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/state_dict/{name}.safetensors"))
}

/// The numbers of a file, by name.
fn numbers(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let of = |view: &TensorView<'_>| match view.dtype() {
        Dtype::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(view.data()).into_iter().map(f64::from).collect(),
        Dtype::F64 => bytemuck::pod_collect_to_vec(view.data()),
        other => panic!("{other:?}"),
    };
    file.tensors().into_iter().map(|(name, view)| (name, of(&view))).collect()
}

fn singles(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

/// The rule of tests/golden/README.md, with r = 2e-6: the worst error as a share of the tolerance.
fn worst(start: &[f32], ours: &[Vec<f32>], theirs: &[f64], lr: f64) -> f64 {
    let mut worst = 0f64;
    for (i, &p0) in start.iter().enumerate() {
        let (mut last, mut path) = (f64::from(p0), 0.0);
        let mut size = last.abs().max(1e-6);
        for (t, ours) in ours.iter().enumerate() {
            let reference = theirs[t * start.len() + i];
            path += (reference - last).abs();
            (last, size) = (reference, size.max(reference.abs()));
            let ulp = f64::from((size as f32).next_up()) - f64::from(size as f32);
            let tolerance = 1e-5 * lr + 2.0 * (t + 1) as f64 * ulp + 2e-6 * path;
            worst = worst.max((f64::from(ours[i]) - reference).abs() / tolerance);
            assert!(ours[i].is_finite());
        }
    }
    worst
}

/// Loads the state that PyTorch saved, and steps on as PyTorch did.
fn goes_on<R: Rule>(case: &str, groups: &[R; 2], run: &mut impl Run<R>) -> f64 {
    let numbers = numbers(&fixture(&format!("{case}.run")));
    for id in 0..TENSORS.len() {
        run.set_params(id, &singles(&numbers[&format!("param/{id}")]));
    }
    let checkpoint = Checkpoint::open(fixture(case)).unwrap();
    let report = run.load_with(&checkpoint, Load { retune: true, ..Default::default() }, false).unwrap();
    assert!(report.left.is_empty() && report.ignored.is_empty(), "{report:?}");
    assert_eq!(run.world().settings, format!("{groups:?}"));
    let mut ours = vec![Vec::new(); TENSORS.len()];
    for t in 0..AHEAD {
        let grad = |id: usize| singles(&numbers[&format!("grad/{id}")][t * TENSORS[id].1..][..TENSORS[id].1]);
        run.step_with(&(0..TENSORS.len()).map(grad).collect::<Vec<_>>());
        for (ours, params) in ours.iter_mut().zip(run.world().params) {
            ours.push(params.into_iter().map(f32::from_bits).collect());
        }
    }
    let ratio = |id: usize| {
        let start = singles(&numbers[&format!("param/{id}")]);
        let lr = groups[TENSORS[id].2].settings().iter().find(|(name, _)| *name == "lr").unwrap().1.to_string();
        worst(&start, &ours[id], &numbers[&format!("param_f64/{id}")], lr.parse().unwrap())
    };
    (0..TENSORS.len()).map(ratio).fold(0.0, f64::max)
}

/// On the CPU and on the GPU, from settings that are the file's and from others.
fn goes_on_everywhere<R: Rule>(case: &str, groups: [R; 2], others: [R; 2]) {
    for start in [&groups, &others] {
        let ratio = goes_on(case, &groups, &mut OnCpu::new(start, &TENSORS));
        assert!(ratio <= 1.0, "{case} on the CPU: {ratio:.2} of the tolerance");
        println!("{case} on the CPU: {ratio:.3} of the tolerance");
        let Some(gpu) = gpu() else { return };
        let ratio = goes_on(case, &groups, &mut OnGpu::new(&gpu, start, &TENSORS));
        assert!(ratio <= 1.0, "{case} on the GPU: {ratio:.2} of the tolerance");
        println!("{case} on the GPU: {ratio:.3} of the tolerance");
    }
}

#[test]
fn what_pytorch_saved_goes_on_here() {
    goes_on_everywhere("adam", adam(), [Adam::PYTORCH, Adam::PYTORCH]);
    goes_on_everywhere("adamw_amsgrad", adamw(), [Adam { amsgrad: true, ..Adam::PYTORCH }, Adam::PYTORCH]);
    let other = RmsProp { momentum: 0.1, ..RmsProp::PYTORCH };
    goes_on_everywhere("rmsprop_centered_momentum", rmsprop(), [RmsProp { centered: true, ..other.clone() }, other]);
}

#[test]
fn a_state_that_is_not_the_saved_one_is_noticed() {
    // The steps that follow, from no state at all.
    let numbers = numbers(&fixture("adam.run"));
    let mut run = OnCpu::new(&adam(), &TENSORS);
    for id in 0..TENSORS.len() {
        run.set_params(id, &singles(&numbers[&format!("param/{id}")]));
    }
    let start = singles(&numbers["param/0"]);
    run.step_with(&(0..4).map(|id| singles(&numbers[&format!("grad/{id}")][..TENSORS[id].1])).collect::<Vec<_>>());
    let ours: Vec<f32> = run.world().params[0].iter().map(|&x| f32::from_bits(x)).collect();
    assert!(worst(&start, &[ours], &numbers["param_f64/0"], 0.3) > 100.0);
}

#[test]
fn settings_of_a_state_dict_are_what_the_case_was_run_with() {
    assert_eq!(Checkpoint::open(fixture("adam")).unwrap().settings::<Adam>().unwrap(), adam());
    let adamw_checkpoint = Checkpoint::open(fixture("adamw_amsgrad")).unwrap();
    assert_eq!(adamw_checkpoint.rule(), "AdamW");
    assert_eq!(adamw_checkpoint.settings::<Adam>().unwrap(), adamw());
    let checkpoint = Checkpoint::open(fixture("rmsprop_centered_momentum")).unwrap();
    assert_eq!(checkpoint.settings::<RmsProp>().unwrap(), rmsprop());
    assert!(checkpoint.settings::<Adam>().unwrap_err().to_string().contains("it is of rule \"RMSprop\""));
}

/// A tensor that never had a gradient has no state in PyTorch: it starts afresh, whatever was there.
#[test]
fn a_tensor_without_state_starts_afresh() {
    let mut run = OnCpu::new(&adam(), &TENSORS);
    run.step(1);
    run.load_with(&Checkpoint::open(fixture("adam")).unwrap(), Load::default(), false).unwrap();
    assert_eq!(run.world().steps, [5, 3, 5, 0]);
    assert_eq!(run.optimizer.state("u", "exp_avg").unwrap(), [0.0; 32]);
    assert!(run.optimizer.state("w", "exp_avg").unwrap().iter().all(|&m| m != 0.0));
}

/// Where the files for `state_dict.py check` are put.
fn outbox() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("state_dict");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Five steps, the file for PyTorch, and three more steps for it to be compared with.
fn write<R: Rule>(device: &str, case: &str, run: &mut impl Run<R>) {
    run.step(1);
    run.freeze("b");
    run.step(2);
    run.thaw("b");
    for seed in 3..6 {
        run.step(seed);
    }
    run.save_pytorch(&outbox().join(format!("{device}-{case}.safetensors"))).unwrap();
    let mut tensors: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (id, params) in run.world().params.into_iter().enumerate() {
        tensors.insert(format!("param/{id}"), params.into_iter().map(f32::from_bits).collect());
    }
    for t in 0..AHEAD as u64 {
        let grads: Vec<Vec<f32>> = (0..4).map(|id| values(1000 + 4 * t + id, TENSORS[id as usize].1)).collect();
        run.step_with(&grads);
        for (id, (grad, params)) in grads.into_iter().zip(run.world().params).enumerate() {
            tensors.entry(format!("grad/{id}")).or_default().extend(grad);
            tensors.entry(format!("param_f32/{id}")).or_default().extend(params.into_iter().map(f32::from_bits));
        }
    }
    let view = |values| TensorView::new(Dtype::F32, vec![<[f32]>::len(values)], bytemuck::cast_slice(values)).unwrap();
    let views = tensors.iter().map(|(name, values)| (name.as_str(), view(values)));
    std::fs::write(outbox().join(format!("{device}-{case}.run.safetensors")), serialize(views, None).unwrap()).unwrap();
}

/// The other way needs PyTorch: `WGPU_OPTIM_PYTHON` names a Python that has it.
#[test]
fn what_is_saved_here_goes_on_in_pytorch() {
    write("cpu", "adam", &mut OnCpu::new(&adam(), &TENSORS));
    write("cpu", "adamw_amsgrad", &mut OnCpu::new(&adamw(), &TENSORS));
    write("cpu", "rmsprop_centered_momentum", &mut OnCpu::new(&rmsprop(), &TENSORS));
    if let Some(gpu) = gpu() {
        write("gpu", "adam", &mut OnGpu::new(&gpu, &adam(), &TENSORS));
        write("gpu", "adamw_amsgrad", &mut OnGpu::new(&gpu, &adamw(), &TENSORS));
        write("gpu", "rmsprop_centered_momentum", &mut OnGpu::new(&gpu, &rmsprop(), &TENSORS));
    }
    let Ok(python) = std::env::var("WGPU_OPTIM_PYTHON") else {
        eprintln!(
            "\n*** SKIPPED: WGPU_OPTIM_PYTHON names no Python with PyTorch; the files are in {:?} ***\n",
            outbox()
        );
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/state_dict.py");
    let ran = std::process::Command::new(python).arg(script).arg("check").arg(outbox()).output().unwrap();
    let told = [ran.stdout, ran.stderr].concat();
    println!("{}", String::from_utf8_lossy(&told));
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&told));
}

#[test]
fn a_state_dict_comes_back_as_it_was() {
    let (_folder, path) = folder();
    let mut run = OnCpu::new(&adamw(), &TENSORS);
    run.step(1);
    run.step(2);
    run.set_step("u", (1 << 24) - 1);
    run.save_pytorch(&path).unwrap();
    let mut again = OnCpu::new(&adamw(), &TENSORS);
    let load = Load { retune: false, ..Default::default() };
    again.load_with(&Checkpoint::open(&path).unwrap(), load, false).unwrap();
    assert_eq!((again.world().state, again.world().steps), (run.world().state, run.world().steps));
    let Some(gpu) = gpu() else { return };
    let of_cpu = std::fs::read(&path).unwrap();
    let mut device = OnGpu::new(&gpu, &adamw(), &TENSORS);
    device.load_with(&Checkpoint::open(&path).unwrap(), Load::default(), false).unwrap();
    device.save_pytorch(&path).unwrap();
    assert!(std::fs::read(&path).unwrap() == of_cpu, "the GPU writes something else");
}

#[test]
fn the_groups_are_those_of_pytorch_key_for_key() {
    let keys = |group: &Json| {
        let mut keys: Vec<String> = group.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    let groups = |path: &Path| -> Vec<Json> {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        serde_json::from_str(&header.metadata().as_ref().unwrap()["param_groups"]).unwrap()
    };
    let (_folder, path) = folder();
    OnCpu::new(&adamw(), &TENSORS).save_pytorch(&path).unwrap();
    assert_eq!(keys(&groups(&path)[0]), keys(&groups(&fixture("adamw_amsgrad"))[0]));
    assert_eq!(groups(&path)[1]["params"], json!([2, 3]));
    assert_eq!(groups(&path)[1]["decoupled_weight_decay"], json!(true));
    OnCpu::new(&rmsprop(), &TENSORS).save_pytorch(&path).unwrap();
    assert_eq!(keys(&groups(&path)[0]), keys(&groups(&fixture("rmsprop_centered_momentum"))[0]));
}

fn refused<R: Rule>(settings: R) -> String {
    let (_folder, path) = folder();
    let error = OnCpu::new(&[settings], &[("w", 3, 0)]).save_pytorch(&path).unwrap_err();
    assert!(matches!(error, Error::NoCounterpart { .. }), "{error:?}");
    assert!(!path.exists());
    error.to_string()
}

#[test]
fn what_pytorch_has_not_is_refused_by_name() {
    let adam = |change: &dyn Fn(&mut Adam)| {
        let mut settings = Adam::PYTORCH;
        change(&mut settings);
        refused(settings)
    };
    let told = adam(&|s| s.eps_root = 1e-8);
    assert!(told.contains("group 0: eps_root is 1e-8, and PyTorch's Adam has 0 and nothing else"), "{told}");
    assert!(adam(&|s| *s = Adam::KERAS).contains("epsilon is \"hat\", and PyTorch's AdamW has \"outside\""));
    assert!(adam(&|s| s.nesterov = true).contains("nesterov is true"));
    assert!(adam(&|s| (s.weight_decay, s.decay) = (0.1, Decay::Inside)).contains("decay is \"inside\""));
    let decoupled = RmsProp { weight_decay: 0.1, decay: Decay::Decoupled, ..RmsProp::PYTORCH };
    assert!(refused(decoupled.clone()).contains("decay is \"decoupled\", and PyTorch's RMSprop has \"l2\""));
    assert!(refused(RmsProp { lr_in_momentum: true, ..RmsProp::PYTORCH }).contains("lr_in_momentum is true"));
    // Where there is no decay, it does not matter where it would stand.
    let (_folder, path) = folder();
    OnCpu::new(&[RmsProp { weight_decay: 0.0, ..decoupled }], &[("w", 3, 0)]).save_pytorch(&path).unwrap();
}

#[test]
fn steps_that_pytorch_cannot_count_are_refused_by_name() {
    let (_folder, path) = folder();
    let mut run = OnCpu::new(&adam(), &TENSORS);
    run.set_step("v", 1 << 24);
    let error = run.save_pytorch(&path).unwrap_err().to_string();
    assert!(error.ends_with("\"v\" has taken 16777216 steps, PyTorch counts to 2^24 - 1"), "{error}");
}

/// What a scheduler leaves in the groups is none of the step's.
#[test]
fn what_a_scheduler_left_is_told_and_does_no_harm() {
    let bytes = std::fs::read(fixture("adamw_amsgrad")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let mut metadata = header.metadata().clone().unwrap();
    let mut groups: Vec<Json> = serde_json::from_str(&metadata["param_groups"]).unwrap();
    groups[1]["initial_lr"] = json!(0.5);
    groups[1]["param_names"] = json!(["x.v", "x.u"]);
    metadata.insert("param_groups".into(), json!(groups).to_string());
    metadata.remove("optimizer");
    let bytes = serialize(file.tensors(), Some(metadata)).unwrap();
    let checkpoint = Checkpoint::from_bytes("scheduled", bytes).unwrap();
    let mut run = OnCpu::new(&adamw(), &TENSORS);
    let report = run.load_with(&checkpoint, Load::default(), false).unwrap();
    assert_eq!(report.ignored, ["param_groups[1].initial_lr"]);
    assert_eq!(run.world().steps, [5, 3, 5, 5]);
}

#[test]
fn another_number_of_tensors_or_another_length_is_told() {
    let checkpoint = Checkpoint::open(fixture("adamw_amsgrad")).unwrap();
    let mut run = OnCpu::new(&adamw(), &[("w", 16, 0), ("b", 1, 0), ("v", 17, 1)]);
    let before = run.world();
    let error = run.load_with(&checkpoint, Load::default(), false).unwrap_err();
    let Error::Mismatch { disagreements, .. } = error else { panic!("{error}") };
    let members = Disagreement::Members { group: 1, file: 2, optimizer: 1 };
    let length = Disagreement::Length { name: "w".into(), file: 15, optimizer: 16 };
    assert_eq!(disagreements, [members, length]);
    assert_eq!(run.world(), before);
}
