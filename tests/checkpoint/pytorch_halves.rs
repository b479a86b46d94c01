//! State in bfloat16 that crosses between PyTorch and here, and what of formats PyTorch does not have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};
use wgpu_optim::checkpoint::{Checkpoint, Error, Load};
use wgpu_optim::format::{Format, Formats, Rounding, StateFormat};
use wgpu_optim::{Adam, AdamW, Chain};

use crate::formatted::{OnCpu, OnGpu, Run};
use crate::run::folder;
use crate::support::gpu;

/// The tensors of `tests/golden/state_dict.py`.
const TENSORS: [(&str, usize, usize); 4] = [("w", 15, 0), ("b", 1, 0), ("v", 17, 1), ("u", 32, 1)];
const AHEAD: usize = 3;
const CASE: &str = "adamw_bf16";

fn pure() -> Formats {
    Formats { params: Format::Bf16, grads: Format::Bf16, state: StateFormat::Bf16, ..Formats::default() }
}

fn groups(formats: &Formats) -> [(Adam, Formats); 2] {
    let first = Adam { lr: 1e-2, ..AdamW::PYTORCH };
    [(first, formats.clone()), (Adam { lr: 3e-3, weight_decay: 0.3, ..AdamW::PYTORCH }, formats.clone())]
}

fn on_cpu(formats: &Formats) -> OnCpu<Adam> {
    OnCpu::new(&groups(formats), &TENSORS, &Chain::default())
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/state_dict/{name}.safetensors"))
}

/// The bytes of a file's tensors, all of them BF16 but for step counts.
fn arrays(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let of = |(name, view): (String, TensorView<'_>)| {
        assert_eq!(view.dtype(), if name.ends_with(".step") { Dtype::F32 } else { Dtype::BF16 }, "{name}");
        (name, view.data().to_vec())
    };
    file.tensors().into_iter().map(of).collect()
}

/// How far apart the codes of bf16 are.
fn apart(a: &[u8], b: &[u8]) -> u16 {
    let codes = |bytes: &[u8]| bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect::<Vec<_>>();
    assert_eq!(a.len(), b.len());
    codes(a).into_iter().zip(codes(b)).map(|(a, b)| a.abs_diff(b)).max().unwrap()
}

/// Loads what PyTorch saved, steps on as it did, and returns how many codes apart they are.
fn goes_on(run: &mut impl Run) -> u16 {
    let (saved, ahead) = (arrays(&fixture(CASE)), arrays(&fixture(&format!("{CASE}.run"))));
    run.set_params(&[0, 1, 2, 3].map(|id| ahead[&format!("param/{id}")].clone()));
    run.step(1);
    run.set_params(&[0, 1, 2, 3].map(|id| ahead[&format!("param/{id}")].clone()));
    let report = run.load_with(&Checkpoint::open(fixture(CASE)).unwrap(), Load::default(), false).unwrap();
    assert!(report.left.is_empty() && report.ignored.is_empty(), "{report:?}");
    let world = run.world();
    assert_eq!(world.steps, [5; 4]);
    for (name, slot, numbers, _) in &world.state {
        let id = TENSORS.iter().position(|tensor| tensor.0 == name).unwrap();
        assert_eq!(*numbers, saved[&format!("state.{id}.{slot}")], "{slot} of {name}");
    }
    let mut worst = 0;
    for t in 0..AHEAD {
        let part = |key: &str, id: usize| {
            let size = 2 * TENSORS[id].1;
            ahead[&format!("{key}/{id}")][t * size..(t + 1) * size].to_vec()
        };
        run.step_with(&[0, 1, 2, 3].map(|id| part("grad", id)));
        for (id, params) in run.world().params.iter().enumerate() {
            worst = worst.max(apart(params, &part("param_bf16", id)));
        }
    }
    worst
}

#[test]
fn what_pytorch_saved_in_bf16_goes_on_here_to_the_code() {
    assert_eq!(goes_on(&mut on_cpu(&pure())), 0);
    let Some(gpu) = gpu() else { return };
    let worst = goes_on(&mut OnGpu::new(&gpu, &groups(&pure()), &TENSORS, &Chain::default()));
    println!("on the GPU: {worst} codes apart");
    assert!(worst <= 1, "{worst} codes apart");
}

/// Five steps, the file for PyTorch, and three more steps for it to be compared with.
fn write(folder: &Path, device: &str, run: &mut impl Run) {
    (1..6).for_each(|seed| run.step(seed));
    let path = folder.join(format!("{device}-{CASE}.safetensors"));
    run.save_pytorch(&path).unwrap();
    assert_eq!(arrays(&path).len(), 12);
    let mut tensors: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (id, params) in run.world().params.into_iter().enumerate() {
        tensors.insert(format!("param/{id}"), params);
    }
    for t in 0..AHEAD as u64 {
        let grads = [0, 1, 2, 3].map(|id| {
            crate::formatted::stored(Format::Bf16, &crate::run::values(1000 + 4 * t + id, TENSORS[id as usize].1))
        });
        run.step_with(&grads);
        for (id, (grad, params)) in grads.into_iter().zip(run.world().params).enumerate() {
            tensors.entry(format!("grad/{id}")).or_default().extend(grad);
            tensors.entry(format!("param_bf16/{id}")).or_default().extend(params);
        }
    }
    let view = |bytes: &'static [u8]| TensorView::new(Dtype::BF16, vec![bytes.len() / 2], bytes).unwrap();
    let views = tensors.into_iter().map(|(name, bytes)| (name, view(bytes.leak())));
    std::fs::write(folder.join(format!("{device}-{CASE}.run.safetensors")), serialize(views, None).unwrap()).unwrap();
}

/// The other way needs PyTorch: `WGPU_OPTIM_PYTHON` names a Python that has it.
#[test]
fn what_is_saved_here_in_bf16_goes_on_in_pytorch_to_the_code() {
    let outbox = Path::new(env!("CARGO_TARGET_TMPDIR")).join("state_dict_halves");
    std::fs::create_dir_all(&outbox).unwrap();
    write(&outbox, "cpu", &mut on_cpu(&pure()));
    if let Some(gpu) = gpu() {
        write(&outbox, "gpu", &mut OnGpu::new(&gpu, &groups(&pure()), &TENSORS, &Chain::default()));
    }
    let Ok(python) = std::env::var("WGPU_OPTIM_PYTHON") else {
        eprintln!("\n*** SKIPPED: WGPU_OPTIM_PYTHON names no Python with PyTorch; the files are in {outbox:?} ***\n");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/state_dict.py");
    let ran = std::process::Command::new(python).arg(script).arg("check").arg(outbox).output().unwrap();
    let told = [ran.stdout, ran.stderr].concat();
    println!("{}", String::from_utf8_lossy(&told));
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&told));
}

/// State in the type of PyTorch's parameters is no state in another one.
#[test]
fn state_of_another_type_than_the_optimizers_is_refused_by_name_and_cast_where_asked_for() {
    let wide = Formats { state: StateFormat::F32, ..pure() };
    let mut run = on_cpu(&wide);
    let before = run.world();
    let checkpoint = Checkpoint::open(fixture(CASE)).unwrap();
    let error = run.load_with(&checkpoint, Load::default(), false).unwrap_err();
    assert_eq!(run.world(), before);
    let Error::Mismatch { disagreements, .. } = &error else { panic!("{error}") };
    assert_eq!(disagreements.len(), 8);
    assert!(error.to_string().contains("exp_avg of \"w\" is bf16 in it and f32 in the optimizer"), "{error}");
    let cast = Load { cast: &["exp_avg", "exp_avg_sq"], ..Load::default() };
    run.load_with(&checkpoint, cast, true).unwrap();
    let exact = crate::formatted::read(Format::Bf16, &arrays(&fixture(CASE))["state.0.exp_avg"]);
    assert_eq!(run.optimizer.state("w", "exp_avg").unwrap(), exact);
}

#[test]
fn what_pytorch_has_not_is_refused_by_name_with_what_to_do() {
    let halves = Formats { state: StateFormat::F32, ..pure() };
    let cases = [
        (Formats { master: true, ..pure() }, "group 0: it keeps master_param, and PyTorch's optimizers keep no master"),
        (
            Formats { rounding: Rounding::Kahan, ..pure() },
            "group 0: it keeps kahan_comp, and PyTorch's optimizers keep",
        ),
        (
            Formats { rounding: Rounding::Stochastic, ..pure() },
            "group 0: its rounding is stochastic, and PyTorch rounds",
        ),
        (
            Formats { state: StateFormat::Q8, q8_min: 16, ..Formats::default() },
            "exp_avg of \"v\" is q8, and PyTorch keeps",
        ),
        (halves, "exp_avg of \"w\" is f32, and PyTorch keeps it as it keeps the parameters, in bf16"),
        (Formats { params: Format::F16, ..pure() }, "exp_avg of \"w\" is bf16, and PyTorch keeps it as it keeps"),
        (Formats { params: Format::F32, ..pure() }, "exp_avg of \"w\" is bf16, and PyTorch keeps it as it keeps"),
    ];
    let (_folder, path) = folder();
    for (formats, message) in cases {
        let error = on_cpu(&formats).save_pytorch(&path).unwrap_err();
        assert!(matches!(error, Error::NoCounterpart { .. }), "{error:?}");
        let told = error.to_string();
        assert!(told.contains(message) && told.contains("load_partial"), "{message:?} is not in {told:?}");
        assert!(!path.exists());
    }
    // 8 bits that no tensor is large enough for are none.
    on_cpu(&Formats { state: StateFormat::Q8, ..Formats::default() }).save_pytorch(&path).unwrap();
}
