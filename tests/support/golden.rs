//! The trajectories of the real frameworks under `tests/golden/`.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value as Json;
use wgpu_optim::{Adam, AdamEpsilon, Decay, RmsProp, RmsPropEpsilon, Rule};

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

pub fn load(path: &Path) -> Case {
    let bytes = std::fs::read(path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let golden = &metadata.metadata().as_ref().unwrap()["golden"];
    let meta: Json = serde_json::from_str(golden).unwrap();
    let data = SafeTensors::deserialize(&bytes).unwrap();
    let canonical = meta["canonical"].clone();
    let groups = groups(&meta);
    let exact = meta["families"].as_array().unwrap().iter().any(|family| family == "f64");
    let steps = meta["steps"].as_u64().unwrap() as usize;
    let framework = meta["framework"].as_str().unwrap().to_string();
    let algo = canonical["algo"].as_str().unwrap().to_string();
    let reader = Reader { data: &data, steps, exact, framework: &framework, algo: &algo };
    let shapes = meta["shapes"].as_object().unwrap();
    let tensors = shapes.keys().map(|name| reader.tensor(name, group_of(&meta, name))).collect();
    Case {
        name: meta["case"].as_str().unwrap().to_string(),
        lr: canonical["lr"].as_f64().unwrap(),
        schedule: reader.schedule(),
        algo,
        steps,
        exact,
        groups,
        tensors,
        canonical,
        framework,
    }
}

struct Reader<'a> {
    data: &'a SafeTensors<'a>,
    steps: usize,
    exact: bool,
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
        let family = if self.exact { "param_f64" } else { "param_f32" };
        let reference = self.f64(&format!("{family}/{name}")).unwrap();
        Tensor {
            name: name.into(),
            group,
            grads: (0..self.steps).map(grad).collect(),
            reference: reference.chunks_exact(len).map(<[f64]>::to_vec).collect(),
            before: self.states("state0/", name),
            after: self.states(if self.exact { "state_f64/" } else { "state_f32/" }, name),
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
        let lr = self.f64("extra_f64/lr")?;
        let other = self.f64("extra_f64/beta1_or_momentum")?;
        Some(lr.into_iter().zip(other).collect())
    }

    fn f32(&self, key: &str) -> Option<Vec<f32>> {
        let view = self.data.tensor(key).ok()?;
        assert_eq!(view.dtype(), safetensors::Dtype::F32, "{key}");
        Some(bytemuck::pod_collect_to_vec(view.data()))
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
            other => panic!("{key} is {other:?}"),
        })
    }
}

fn groups(meta: &Json) -> Vec<Vec<(&'static str, f64)>> {
    let Some(groups) = meta["features"]["groups"].as_array() else { return vec![Vec::new()] };
    let group = |group: &Json| {
        let mut settings = Vec::new();
        for name in ["lr", "eps", "weight_decay", "alpha", "momentum"] {
            settings.extend(group[name].as_f64().map(|x| (name, x)));
        }
        for (i, name) in ["beta1", "beta2"].into_iter().enumerate() {
            settings.extend(group["betas"][i].as_f64().map(|x| (name, x)));
        }
        settings
    };
    groups.iter().map(group).collect()
}

fn group_of(meta: &Json, name: &str) -> usize {
    let Some(groups) = meta["features"]["groups"].as_array() else { return 0 };
    let named = |group: &Json| group["names"].as_array().unwrap().iter().any(|n| n == name);
    groups.iter().position(named).unwrap()
}

/// Settings that a case's canonical description asks for.
pub trait FromCanonical: Rule {
    fn from_canonical(canonical: &Json) -> Self;
    /// The setting that a schedule's second column drives.
    const CYCLED: &'static str;
}

fn number(canonical: &Json, key: &str) -> f64 {
    canonical[key].as_f64().unwrap_or(0.0)
}

fn flag(canonical: &Json, key: &str) -> bool {
    canonical[key].as_bool().unwrap_or(false)
}

fn decay(canonical: &Json) -> Decay {
    match canonical["wd_mode"].as_str() {
        Some("decoupled") => Decay::Decoupled,
        Some("l2") | None => Decay::L2,
        Some(other) => panic!("wd_mode {other}"),
    }
}

impl FromCanonical for Adam {
    const CYCLED: &'static str = "beta1";

    fn from_canonical(canonical: &Json) -> Self {
        Adam {
            lr: number(canonical, "lr"),
            beta1: number(canonical, "beta1"),
            beta2: number(canonical, "beta2"),
            eps: number(canonical, "eps"),
            eps_root: number(canonical, "eps_root"),
            epsilon: match canonical["eps_placement"].as_str() {
                Some("outside_after_bias_correction") => AdamEpsilon::Outside,
                Some("outside_before_bias_correction") => AdamEpsilon::Hat,
                other => panic!("eps_placement {other:?}"),
            },
            weight_decay: number(canonical, "weight_decay"),
            decay: decay(canonical),
            amsgrad: flag(canonical, "amsgrad"),
            nesterov: flag(canonical, "nesterov"),
            maximize: flag(canonical, "maximize"),
            ..Adam::PYTORCH
        }
    }
}

impl FromCanonical for RmsProp {
    const CYCLED: &'static str = "momentum";

    fn from_canonical(canonical: &Json) -> Self {
        RmsProp {
            lr: number(canonical, "lr"),
            alpha: number(canonical, "alpha"),
            eps: number(canonical, "eps"),
            epsilon: match canonical["eps_placement"].as_str() {
                Some("outside_sqrt") => RmsPropEpsilon::Outside,
                Some("inside_sqrt") => RmsPropEpsilon::Inside,
                other => panic!("eps_placement {other:?}"),
            },
            weight_decay: number(canonical, "weight_decay"),
            decay: decay(canonical),
            momentum: number(canonical, "momentum"),
            lr_in_momentum: canonical["momentum_form"] == "lr_inside",
            nesterov: flag(canonical, "nesterov"),
            centered: flag(canonical, "centered"),
            maximize: flag(canonical, "maximize"),
            initial_scale: number(canonical, "initial_scale"),
            ..RmsProp::PYTORCH
        }
    }
}
