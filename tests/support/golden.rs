//! The trajectories of the real frameworks under `tests/golden/`.

pub mod compare;
pub mod follow;
pub mod settings;

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value as Json;
use wgpu_optim::Chain;
use wgpu_optim::schedule::{Base, Schedule};

/// One tensor of a case.
pub struct Tensor {
    pub name: String,
    pub group: usize,
    pub start: Vec<f32>,
    /// By step; `None` where the framework was given no gradient.
    pub grads: Vec<Option<Vec<f32>>>,
    /// By step: the framework in `f64`, or in `f32` where that is all there is.
    pub reference: Vec<Vec<f64>>,
    /// (slot, values) before the first step.
    pub before: Vec<(String, Vec<f64>)>,
    /// (slot, values) after the last step, under our names, and the step count as `step`.
    pub after: Vec<(String, Vec<f64>)>,
    /// The running average, by step.
    pub averages: Option<Vec<Vec<f64>>>,
}

/// What the loss scaler did in one step.
#[derive(Clone, Copy)]
pub struct Scaled {
    pub before: f64,
    pub after: f64,
    /// A gradient was not finite, and the step was left out.
    pub found_inf: bool,
}

/// One file.
pub struct Case {
    pub name: String,
    pub algo: String,
    pub steps: usize,
    /// The reference is the framework in `f64`.
    pub exact: bool,
    pub lr: f64,
    /// Settings by name, for each group.
    pub groups: Vec<Vec<(&'static str, f64)>>,
    /// (lr, beta1 or momentum) of each step.
    pub schedule: Option<Vec<(f64, f64)>>,
    /// The scheduler that gave them, as one of ours.
    pub scheduler: Option<Schedule>,
    /// What is around the update.
    pub chain: Chain,
    /// By step.
    pub scaling: Option<Vec<Scaled>>,
    /// The norm of all gradients before they were clipped, by step.
    pub total_norm: Option<Vec<f64>>,
    pub tensors: Vec<Tensor>,
    pub canonical: Json,
    /// What takes a last step from `p` to `-buffer` in optax, whose trace has the other sign.
    pub framework: String,
}

/// Every trajectory, in order. Schedules (`lr_…`) and training runs (`mlp_…`) have no gradients to replay, and are none.
pub fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let trajectory = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.ends_with(".safetensors") && !name.starts_with("lr_") && !name.starts_with("mlp_")
    };
    let mut files: Vec<PathBuf> = entries.filter(trajectory).collect();
    files.sort();
    files
}

/// Every case, and those with a schedule once more, as they go by the schedule of ours.
pub fn cases() -> Vec<Case> {
    files().iter().flat_map(|path| [Some(load(path)), load(path).by_our_schedule()]).flatten().collect()
}

/// The case of this name.
pub fn case(name: &str) -> Case {
    let named = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem == name);
    load(&files().into_iter().find(named).unwrap())
}

pub fn load(path: &Path) -> Case {
    let bytes = std::fs::read(path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let golden = &metadata.metadata().as_ref().unwrap()["golden"];
    let meta: Json = serde_json::from_str(golden).unwrap();
    let data = SafeTensors::deserialize(&bytes).unwrap();
    let canonical = meta["canonical"].clone();
    let groups = settings::groups(&meta);
    let has = |own: &str| meta["families"].as_array().unwrap().iter().any(|family| family == own);
    let exact = has("f64");
    let family = ["f64", "f32", "bf16"].into_iter().find(|family| has(family)).unwrap();
    let steps = meta["steps"].as_u64().unwrap() as usize;
    let framework = meta["framework"].as_str().unwrap().to_string();
    let algo = canonical["algo"].as_str().unwrap().to_string();
    let reader = Reader { data: &data, steps, family, framework: &framework, algo: &algo };
    let shapes = meta["shapes"].as_object().unwrap();
    let tensors = shapes.keys().map(|name| reader.tensor(name, group_of(&meta, name))).collect();
    Case {
        name: meta["case"].as_str().unwrap().to_string(),
        lr: canonical["lr"].as_f64().unwrap(),
        schedule: reader.schedule(),
        scheduler: settings::scheduler(&meta["features"]),
        chain: settings::chain(&canonical, &meta["features"]),
        scaling: reader.scaling(),
        total_norm: reader.extra("total_norm"),
        algo,
        steps,
        exact,
        groups,
        tensors,
        canonical,
        framework,
    }
}

impl Case {
    /// (lr, beta1 or momentum) of each step as [`Schedule::at`] has them.
    pub fn answered(&self) -> Option<Vec<(f64, f64)>> {
        let cycled = if self.algo == "adam" { "beta1" } else { "momentum" };
        let base = Base { lr: self.lr, momentum: self.canonical[cycled].as_f64() };
        let point = |schedule: &Schedule, t: u64| {
            let point = schedule.at(t, base);
            (point.lr, point.momentum.unwrap())
        };
        self.scheduler.as_ref().map(|schedule| (0..self.steps as u64).map(|t| point(schedule, t)).collect())
    }

    fn by_our_schedule(self) -> Option<Self> {
        let schedule = Some(self.answered()?);
        Some(Self { name: format!("{} by our schedule", self.name), schedule, ..self })
    }

    /// The largest magnitude that an element's gradient had where the rule took it. A clip by norm holds each element
    /// to its maximum, too.
    pub fn largest_grad(&self, tensor: &Tensor, i: usize) -> f64 {
        let most = self.chain.clip.as_ref().map_or(f64::INFINITY, |clip| clip.max);
        let taken = |t: usize| {
            let scaled = self.scaling.as_ref().map(|steps| steps[t]);
            let grad = tensor.grads[t].as_ref().filter(|_| scaled.is_none_or(|step| !step.found_inf))?;
            Some((f64::from(grad[i]) / scaled.map_or(1.0, |step| step.before)).abs().min(most))
        };
        (0..self.steps).filter_map(taken).fold(0.0, f64::max)
    }
}

struct Reader<'a> {
    data: &'a SafeTensors<'a>,
    steps: usize,
    /// The most exact that there is.
    family: &'static str,
    framework: &'a str,
    algo: &'a str,
}

impl Reader<'_> {
    fn tensor(&self, name: &str, group: usize) -> Tensor {
        let start: Vec<f32> = self.f32(&format!("param0/{name}")).unwrap();
        let len = start.len();
        let grads = self.f32(&format!("grad/{name}")).unwrap();
        let none = self.data.tensor(&format!("grad_is_none/{name}")).ok();
        let grad = |t: usize| match &none {
            Some(none) if none.data()[t] == 1 => None,
            _ => Some(grads[t * len..(t + 1) * len].to_vec()),
        };
        let family = self.family;
        let reference = self.f64(&format!("param_{family}/{name}")).unwrap();
        Tensor {
            name: name.into(),
            group,
            grads: (0..self.steps).map(grad).collect(),
            reference: reference.chunks_exact(len).map(<[f64]>::to_vec).collect(),
            before: self.states("state0/", name),
            after: self.states(&format!("state_{family}/"), name),
            averages: self
                .extra(&format!("ema/{name}"))
                .map(|all| all.chunks_exact(len).map(<[f64]>::to_vec).collect()),
            start,
        }
    }

    /// The slots of a tensor in one family, under our names.
    fn states(&self, family: &str, name: &str) -> Vec<(String, Vec<f64>)> {
        let mut states = Vec::new();
        for key in self.data.names() {
            let Some((slot, tensor)) = key.strip_prefix(family).and_then(|rest| rest.split_once('/')) else {
                continue;
            };
            if tensor == name || tensor == "all" {
                let sign = if slot == "trace" { -1.0 } else { 1.0 };
                let values = self.f64(key).unwrap().into_iter().map(|x| sign * x).collect();
                states.push((self.our_slot(slot), values));
            }
        }
        states
    }

    fn our_slot(&self, slot: &str) -> String {
        let adam = self.algo == "adam";
        let keras = self.framework.starts_with("keras") || self.framework.starts_with("tfk");
        match slot {
            "iterations" | "count" => "step",
            "momentum" if keras && !adam => "momentum_buffer",
            "trace" => "momentum_buffer",
            "m" | "mu" | "momentum" if adam => "exp_avg",
            "v" | "nu" | "velocity" if adam => "exp_avg_sq",
            "velocity_hat" | "vhat" | "nu_max" => "max_exp_avg_sq",
            "mu" | "average_gradient" | "mg" => "grad_avg",
            "nu" | "velocity" | "rms" | "E_g2" => "square_avg",
            ours => ours,
        }
        .into()
    }

    fn schedule(&self) -> Option<Vec<(f64, f64)>> {
        let lr = self.extra("lr")?;
        let other = self.extra("beta1_or_momentum")?;
        Some(lr.into_iter().zip(other).collect())
    }

    fn scaling(&self) -> Option<Vec<Scaled>> {
        let (before, after) = (self.f64("scaler/scale_before")?, self.f64("scaler/scale_after")?);
        let found = self.data.tensor("scaler/found_inf").unwrap().data();
        let step = |t: usize| Scaled { before: before[t], after: after[t], found_inf: found[t] == 1 };
        Some((0..self.steps).map(step).collect())
    }

    fn extra(&self, name: &str) -> Option<Vec<f64>> {
        self.f64(&format!("extra_{}/{name}", self.family))
    }

    fn f32(&self, key: &str) -> Option<Vec<f32>> {
        let view = self.data.tensor(key).ok()?;
        Some(match view.dtype() {
            safetensors::Dtype::F32 => bytemuck::pod_collect_to_vec(view.data()),
            safetensors::Dtype::BF16 => bf16(view.data()).map(half::bf16::to_f32).collect(),
            other => panic!("{key} is {other:?}"),
        })
    }

    fn f64(&self, key: &str) -> Option<Vec<f64>> {
        let view = self.data.tensor(key).ok()?;
        Some(match view.dtype() {
            safetensors::Dtype::F64 => bytemuck::pod_collect_to_vec(view.data()),
            safetensors::Dtype::F32 => {
                bytemuck::pod_collect_to_vec::<u8, f32>(view.data()).into_iter().map(f64::from).collect()
            }
            safetensors::Dtype::I64 => {
                bytemuck::pod_collect_to_vec::<u8, i64>(view.data()).into_iter().map(|x| x as f64).collect()
            }
            safetensors::Dtype::I32 => {
                bytemuck::pod_collect_to_vec::<u8, i32>(view.data()).into_iter().map(f64::from).collect()
            }
            safetensors::Dtype::BF16 => bf16(view.data()).map(half::bf16::to_f64).collect(),
            safetensors::Dtype::U8 => view.data().iter().map(|&x| x.into()).collect(),
            other => panic!("{key} is {other:?}"),
        })
    }
}

/// Numbers of bf16 in the bytes of a file.
pub fn bf16(bytes: &[u8]) -> impl Iterator<Item = half::bf16> {
    bytes.chunks_exact(2).map(|code| half::bf16::from_le_bytes([code[0], code[1]]))
}

fn group_of(meta: &Json, name: &str) -> usize {
    let Some(groups) = meta["features"]["groups"].as_array() else { return 0 };
    let named = |group: &Json| group["names"].as_array().unwrap().iter().any(|n| n == name);
    groups.iter().position(named).unwrap()
}
