//! Runs of the real frameworks in bf16 and in 8 bits, stepped by the oracle, the twin, the fast CPU and the device.
//!
//! `tests/golden/README.md` tells what the files hold, and where the tolerances come from.

use std::path::Path as FilePath;

use half::bf16;
use safetensors::SafeTensors;
use wgpu_optim::cpu::{Optimizer, Slice, SliceMut};
use wgpu_optim::format::{Format, Formats, MASTER, Q8Zero, StateFormat};
use wgpu_optim::wgsl::Real;
use wgpu_optim::{Adam, Chain, Error};

use crate::device::Device;
use crate::support::golden::compare::{Rounding, Trail, compare_state};
use crate::support::golden::settings::FromCanonical;
use crate::support::golden::{self, Case, Tensor};
use crate::support::gpu;
use crate::support::paths::Path;

/// The share of 8-bit codes that may be off, by one.
const CODES_OFF: f64 = 1e-3;
/// What a scale may be off by, as a share of it.
const SCALE_OFF: f64 = 1e-6;

/// A path that keeps parameters in bf16, or state in fewer bits.
pub trait Narrow: Path<Adam> {
    /// The parameters' codes, where they are bf16.
    fn copy(&self, name: &str) -> Vec<u16>;
    /// The codes and scales of a slot of 8 bits; nothing of one that is `f32`.
    fn blocks(&self, name: &str, slot: &str) -> Option<(Vec<u8>, Vec<f32>)>;
}

type Step<T> = fn(&mut Optimizer<Adam, T>, &mut [SliceMut<'_, T>], &[Slice<'_, T>]) -> Result<(), Error>;

/// The oracle, the twin or the fast CPU.
struct Cpu<T: Real> {
    optimizer: Optimizer<Adam, T>,
    by: Step<T>,
    names: Vec<String>,
    params: Vec<Params<T>>,
}

enum Params<T> {
    Full(Vec<T>),
    Bf16(Vec<bf16>),
}

impl<T: Real> Params<T> {
    fn new(format: Format, values: &[f32]) -> Self {
        match format {
            Format::F32 => Self::Full(values.iter().map(|&x| T::from_f64(x.into())).collect()),
            _ => Self::Bf16(values.iter().map(|&x| exactly(x)).collect()),
        }
    }

    fn slice(&self) -> Slice<'_, T> {
        match self {
            Self::Full(values) => Slice::Full(values),
            Self::Bf16(values) => Slice::Bf16(values),
        }
    }

    fn slice_mut(&mut self) -> SliceMut<'_, T> {
        match self {
            Self::Full(values) => SliceMut::Full(values),
            Self::Bf16(values) => SliceMut::Bf16(values),
        }
    }
}

fn exactly(x: f32) -> bf16 {
    let narrow = bf16::from_f32(x);
    assert_eq!(narrow.to_f32().to_bits(), x.to_bits(), "{x} is not in bf16");
    narrow
}

impl<T: Real> Cpu<T> {
    fn new(case: &Case, formats: &Formats, by: Step<T>) -> Self {
        let mut optimizer = Optimizer::with_chain(Chain::default()).unwrap();
        let tensors = case.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.start.len()));
        optimizer.add_group_with(Adam::from_canonical(&case.canonical), formats.clone(), tensors).unwrap();
        let names = case.tensors.iter().map(|tensor| tensor.name.clone()).collect();
        let params = case.tensors.iter().map(|tensor| Params::new(formats.params, &tensor.start)).collect();
        Self { optimizer, by, names, params }
    }

    fn params_of(&self, name: &str) -> &Params<T> {
        &self.params[self.names.iter().position(|own| own == name).unwrap()]
    }
}

impl<T: Real> Path<Adam> for Cpu<T> {
    fn retune(&mut self, group: usize, settings: Adam) {
        self.optimizer.retune(group, settings).unwrap();
    }

    fn step(&mut self, grads: &[Option<&[f32]>]) {
        let format = self.optimizer.formats(0).unwrap().grads;
        let grads: Vec<Params<T>> = grads.iter().map(|grads| Params::new(format, grads.unwrap())).collect();
        let grads: Vec<Slice<'_, T>> = grads.iter().map(Params::slice).collect();
        let mut params: Vec<SliceMut<'_, T>> = self.params.iter_mut().map(Params::slice_mut).collect();
        (self.by)(&mut self.optimizer, &mut params, &grads).unwrap();
    }

    /// The master, where there is one.
    fn params(&self) -> Vec<Vec<f64>> {
        let wide = |values: Vec<T>| values.into_iter().map(T::to_f64).collect();
        let of = |name: &String| match self.optimizer.read_state(name, MASTER) {
            Ok(master) => wide(master),
            Err(_) => wide(self.params_of(name).slice().to_vec()),
        };
        self.names.iter().map(of).collect()
    }

    fn state(&self, name: &str, slot: &str) -> Vec<f64> {
        self.optimizer.read_state(name, slot).unwrap().into_iter().map(T::to_f64).collect()
    }

    fn set_state(&mut self, name: &str, slot: &str, values: &[f32]) {
        let values: Vec<T> = values.iter().map(|&x| T::from_f64(x.into())).collect();
        self.optimizer.set_state(name, slot, &values).unwrap();
    }

    fn set_step(&mut self, name: &str, step: u64) {
        self.optimizer.set_step(name, step).unwrap();
    }

    fn step_of(&self, name: &str) -> Option<u64> {
        Some(self.optimizer.step_of(name).unwrap())
    }

    fn scale(&self) -> Option<f64> {
        None
    }

    fn skipped(&self) -> Option<u64> {
        Some(0)
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn slots(&self, name: &str) -> Vec<&'static str> {
        self.optimizer.slots(name).unwrap()
    }
}

impl<T: Real> Narrow for Cpu<T> {
    fn copy(&self, name: &str) -> Vec<u16> {
        match self.params_of(name) {
            Params::Bf16(values) => values.iter().map(|x| x.to_bits()).collect(),
            Params::Full(_) => panic!("{name} is not in bf16"),
        }
    }

    fn blocks(&self, name: &str, slot: &str) -> Option<(Vec<u8>, Vec<f32>)> {
        match self.optimizer.stored(name, slot).unwrap() {
            Slice::Q8 { codes, scales, .. } => Some((codes.to_vec(), scales.to_vec())),
            _ => None,
        }
    }
}

/// Every path: another one is another line.
fn paths(case: &Case, formats: &Formats) -> Vec<(&'static str, Box<dyn Narrow>, Rounding)> {
    let mut paths: Vec<(&'static str, Box<dyn Narrow>, Rounding)> = vec![
        ("oracle", Box::new(Cpu::<f64>::new(case, formats, Optimizer::step_slices)), Rounding::Oracle),
        ("twin", Box::new(Cpu::<f32>::new(case, formats, Optimizer::step_slices)), Rounding::Single),
        ("fast CPU", Box::new(Cpu::<f32>::new(case, formats, Optimizer::step_slices_parallel)), Rounding::Single),
    ];
    if let Some(gpu) = gpu() {
        paths.push(("device", Box::new(Device::new(gpu, case, formats)), Rounding::Single));
    }
    paths
}

/// A case, and what its file holds besides.
struct File {
    case: Case,
    bytes: Vec<u8>,
}

impl File {
    fn new(name: &str) -> Self {
        let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/narrow");
        let path = folder.join(format!("{name}.safetensors"));
        Self { case: golden::load(&path), bytes: std::fs::read(path).unwrap() }
    }

    fn codes16(&self, key: &str) -> Vec<u16> {
        let data = SafeTensors::deserialize(&self.bytes).unwrap();
        golden::bf16(data.tensor(key).unwrap().data()).map(bf16::to_bits).collect()
    }

    fn codes8(&self, key: &str) -> Vec<u8> {
        SafeTensors::deserialize(&self.bytes).unwrap().tensor(key).unwrap().data().to_vec()
    }

    fn f32(&self, key: &str) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(SafeTensors::deserialize(&self.bytes).unwrap().tensor(key).unwrap().data())
    }
}

/// Steps a case; `each` is called after every step, with its number.
fn follow(case: &Case, path: &mut dyn Narrow, mut each: impl FnMut(usize, &dyn Narrow)) {
    for t in 0..case.steps {
        let grads: Vec<Option<&[f32]>> = case.tensors.iter().map(|tensor| tensor.grads[t].as_deref()).collect();
        path.step(&grads);
        each(t, path);
    }
}

/// [`follow`], with parameters held to the rule at every step; returns where they have been, and the worst.
fn follow_by_rule(
    case: &Case,
    path: &mut dyn Narrow,
    rounding: Rounding,
    mut each: impl FnMut(usize, &dyn Narrow),
) -> Result<(Vec<Trail>, f64), String> {
    let mut trails: Vec<Trail> = case.tensors.iter().map(Trail::new).collect();
    let mut worst: Result<f64, String> = Ok(0.0);
    follow(case, path, |t, path| {
        for ((tensor, trail), params) in case.tensors.iter().zip(&mut trails).zip(path.params()) {
            let ratio = trail.compare::<Adam>(case, tensor, t, (&params, path), rounding);
            worst = worst.clone().and_then(|worst| Ok(worst.max(ratio?)));
        }
        each(t, path);
    });
    Ok((trails, worst?))
}

const BF16: Formats = Formats {
    params: Format::Bf16,
    grads: Format::Bf16,
    master: false,
    state: StateFormat::F32,
    slots: std::collections::BTreeMap::new(),
    rounding: wgpu_optim::format::Rounding::Nearest,
    seed: 0,
    q8_min: 4096,
    q8_zero: Q8Zero::Guarded,
};

/// torch's Adam over an `f32` master, whose bf16 copy the caller has.
#[test]
fn a_bf16_copy_of_a_master_is_torchs() {
    let file = File::new("torch_adam_bf16_master_fp32");
    let case = &file.case;
    for (what, mut path, rounding) in paths(case, &Formats { master: true, ..BF16 }) {
        let family = if what == "oracle" { "param_bf16_of_f64" } else { "param_bf16" };
        let (trails, worst) = follow_by_rule(case, &mut *path, rounding, |t, path| {
            for tensor in &case.tensors {
                let (name, len) = (&tensor.name, tensor.start.len());
                let reference = file.codes16(&format!("{family}/{name}"));
                assert!(path.copy(name) == reference[t * len..][..len], "{what}: the copy of {name} in step {}", t + 1);
            }
        })
        .unwrap_or_else(|failure| panic!("{what}: {failure}"));
        for (tensor, trail) in case.tensors.iter().zip(&trails) {
            compare_state::<Adam>(case, tensor, trail, &*path, rounding).unwrap();
        }
        println!("{what}: {worst:.3} of the tolerance, every copy equal");
    }
}

/// torch's fused AdamW, which computes in `f32` and stores everything in bf16: bit for bit.
#[test]
fn pure_bf16_is_torchs_bit_for_bit() {
    let file = File::new("torch_adamw_fused_pure_bf16");
    let case = &file.case;
    let formats = Formats { state: StateFormat::Bf16, ..BF16 };
    for (what, mut path, _) in paths(case, &formats).into_iter().filter(|(what, ..)| *what != "oracle") {
        let mut compared = 0;
        follow(case, &mut *path, |t, path| {
            for tensor in &case.tensors {
                let (name, len) = (&tensor.name, tensor.start.len());
                let reference = file.codes16(&format!("param_bf16/{name}"));
                assert!(path.copy(name) == reference[t * len..][..len], "{what}: {name} in step {}", t + 1);
                compared += len;
            }
        });
        for Tensor { name, after, .. } in &case.tensors {
            for (slot, reference) in after.iter().filter(|(slot, _)| slot != "step") {
                assert!(path.state(name, slot) == *reference, "{what}: {slot} of {name}");
            }
            assert_eq!(path.step_of(name), Some(12));
        }
        assert_eq!(compared, 5520);
    }
}

fn eight_bits(q8_min: u64) -> Formats {
    Formats { state: StateFormat::Q8, q8_min, q8_zero: Q8Zero::Reference, ..Formats::default() }
}

/// bitsandbytes's Adam8bit with its own exact quantiser, for tensors of any length.
#[test]
fn eight_bits_are_those_of_bitsandbytes() {
    let slots = [("exp_avg", "state1", "absmax1"), ("exp_avg_sq", "state2", "absmax2")];
    are_theirs("bnb_adam8bit_nearest", eight_bits(0), slots);
}

/// torchao's Adam8bit, which leaves small tensors in `f32`.
#[test]
fn eight_bits_are_those_of_torchao() {
    let slots = [("exp_avg", "exp_avg.codes", "exp_avg.scale"), ("exp_avg_sq", "exp_avg_sq.codes", "exp_avg_sq.scale")];
    are_theirs("torchao_adam8bit", eight_bits(4096), slots);
}

fn are_theirs(name: &str, formats: Formats, slots: [(&str, &str, &str); 2]) {
    let file = File::new(name);
    for (what, mut path, _) in paths(&file.case, &formats) {
        let followed = follow_by_rule(&file.case, &mut *path, Rounding::Single, |_, _| {});
        let (_, worst) = followed.unwrap_or_else(|failure| panic!("{name} on the {what}: {failure}"));
        let off =
            compare_blocks(&file, &*path, slots).unwrap_or_else(|failure| panic!("{name} on the {what}: {failure}"));
        println!("{name} on the {what}: {worst:.3} of the tolerance, {off} codes off");
    }
}

/// The codes that are off by one.
fn compare_blocks(file: &File, path: &dyn Narrow, slots: [(&str, &str, &str); 2]) -> Result<usize, String> {
    let (mut off, mut all) = (0, 0);
    for Tensor { name, start, .. } in &file.case.tensors {
        for (slot, codes, scales) in slots {
            let Some((own_codes, own_scales)) = path.blocks(name, slot) else {
                compare_full(&file.f32(&format!("state_f32/{slot}/{name}")), &path.state(name, slot), slot)?;
                continue;
            };
            let codes = file.codes8(&format!("state_f32/{codes}/{name}"));
            let scales = file.f32(&format!("state_f32/{scales}/{name}"));
            assert_eq!((codes.len(), scales.len()), (own_codes.len(), own_scales.len()));
            for (i, (own, code)) in own_codes.iter().zip(&codes).enumerate() {
                match own.abs_diff(*code) {
                    0 => {}
                    1 => off += 1,
                    _ => return Err(format!("{slot} of {name}[{i}]: code {own} for {code}")),
                }
            }
            for (i, (own, scale)) in own_scales.iter().zip(&scales).enumerate() {
                if (f64::from(*own) - f64::from(*scale)).abs() > SCALE_OFF * f64::from(*scale) {
                    return Err(format!("{slot} of {name}, block {i}: scale {own:e} for {scale:e}"));
                }
            }
            all += start.len();
        }
    }
    match (off as f64) < CODES_OFF * all as f64 || off == 0 {
        true => Ok(off),
        false => Err(format!("{off} of {all} codes are off by one")),
    }
}

/// The slots of a tensor that is too small for 8 bits: the tolerances of second and first moments.
fn compare_full(reference: &[f32], own: &[f64], slot: &str) -> Result<(), String> {
    let largest = reference.iter().fold(0f64, |largest, x| largest.max(f64::from(x.abs())));
    for (i, (own, &reference)) in own.iter().zip(reference).enumerate() {
        let reference = f64::from(reference);
        let most = if slot == "exp_avg" { 1e-6 * largest } else { 5e-6 * reference.abs() } + 1e-37;
        if (own - reference).abs() > most {
            return Err(format!("{slot}[{i}]: {own:e} for {reference:e}"));
        }
    }
    Ok(())
}

/// What is wrong must show: another rounding of the copy, a guard that the reference has not, a beta that is off.
#[test]
fn what_is_off_is_noticed() {
    let slots = [("exp_avg", "state1", "absmax1"), ("exp_avg_sq", "state2", "absmax2")];
    let twin = |file: &File, formats: Formats| {
        let mut path = Cpu::<f32>::new(&file.case, &formats, Optimizer::step_slices);
        let followed = follow_by_rule(&file.case, &mut path, Rounding::Single, |_, _| {});
        followed.and_then(|_| compare_blocks(file, &path, slots))
    };
    let mut file = File::new("bnb_adam8bit_nearest");
    assert!(twin(&file, eight_bits(0)).is_ok());
    assert!(twin(&file, Formats { q8_zero: Q8Zero::Guarded, ..eight_bits(0) }).is_err());
    assert!(twin(&file, Formats { state: StateFormat::Bf16, ..eight_bits(0) }).is_err());
    assert!(twin(&file, eight_bits(256)).is_err());
    file.case.canonical["beta1"] = (0.9 * 0.999).into();
    assert!(twin(&file, eight_bits(0)).is_err());
}
