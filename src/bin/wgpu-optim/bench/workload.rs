//! What is stepped: lists of tensors, as data.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::report::nearest;

/// Tensors, and how they lie in memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    pub name: String,
    pub layout: Layout,
    pub tensors: Vec<Tensor>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tensor {
    pub name: String,
    /// Elements.
    pub len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// All parameters in one flat buffer, all gradients in another.
    Arena,
    /// Each in a buffer of its own.
    Buffers,
    /// Parameters and gradient in one buffer, a power of two apart.
    Apart,
}

/// A name that `--workload` takes, and what it is.
pub const KINDS: [(&str, &str); 7] = [
    ("single", "one tensor of each of --sizes"),
    ("gpt2", "the 148 tensors of GPT-2 small, 124 M elements"),
    ("resnet50", "the 161 tensors of ResNet-50, 26 M elements"),
    ("splats", "the six tensors of a scene of 1 M Gaussian splats, 59 M elements"),
    ("many-small", "1000 tensors of 1 k to 64 k elements in an arena, 15 M in all"),
    ("many-buffers", "the same tensors in 2000 buffers of their own"),
    ("apart", "one tensor of 16 M whose parameters and gradient lie a power of two apart"),
];

impl Workload {
    /// The workloads of a name, of which there is one but for `single`.
    ///
    /// # Errors
    /// With the names that there are.
    pub fn named(name: &str, sizes: &[Size]) -> Result<Vec<Self>, String> {
        let arena = |tensors| Self { name: name.into(), layout: Layout::Arena, tensors };
        Ok(vec![match name {
            "single" => return Ok(sizes.iter().map(|size| single(*size)).collect()),
            "gpt2" => arena(gpt2()),
            "resnet50" => arena(resnet50()),
            "splats" => arena(splats()),
            "many-small" => arena(many()),
            "many-buffers" => Self { layout: Layout::Buffers, ..arena(many()) },
            "apart" => Self { layout: Layout::Apart, ..arena(vec![tensor("w", 16 << 20)]) },
            _ => return one_size(name),
        }])
    }

    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.len).sum()
    }
}

/// `single-16m`, as records name it.
fn one_size(name: &str) -> Result<Vec<Workload>, String> {
    if let Some(size) = name.strip_prefix("single-") {
        return Ok(vec![single(size.parse()?)]);
    }
    let names = KINDS.map(|(name, _)| name);
    let nearest = nearest(name, names).unwrap_or_default();
    Err(format!("there is no workload {name:?}; the nearest is {nearest:?} of {}, all", names.join(", ")))
}

fn single(size: Size) -> Workload {
    let tensors = vec![tensor("w", size.0)];
    Workload { name: format!("single-{size}"), layout: Layout::Arena, tensors }
}

fn tensor(name: impl Into<String>, len: u64) -> Tensor {
    Tensor { name: name.into(), len }
}

/// GPT-2 small: 12 blocks, width 768, vocabulary 50257, context 1024.
fn gpt2() -> Vec<Tensor> {
    const WIDTH: u64 = 768;
    let mut tensors = vec![tensor("wte.weight", 50_257 * WIDTH), tensor("wpe.weight", 1024 * WIDTH)];
    for block in 0..12 {
        let linear = [("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)];
        for norm in ["ln_1", "ln_2"] {
            tensors.push(tensor(format!("h.{block}.{norm}.weight"), WIDTH));
            tensors.push(tensor(format!("h.{block}.{norm}.bias"), WIDTH));
        }
        for (name, inputs, outputs) in linear {
            tensors.push(tensor(format!("h.{block}.{name}.weight"), inputs * WIDTH * outputs * WIDTH));
            tensors.push(tensor(format!("h.{block}.{name}.bias"), outputs * WIDTH));
        }
    }
    tensors.extend([tensor("ln_f.weight", WIDTH), tensor("ln_f.bias", WIDTH)]);
    tensors
}

/// ResNet-50 for 1000 classes: bottlenecks of 3, 4, 6 and 3 in four stages.
fn resnet50() -> Vec<Tensor> {
    let mut tensors = Vec::new();
    let mut conv = |name: &str, norm: &str, inputs: u64, outputs: u64, taps: u64| {
        tensors.push(tensor(format!("{name}.weight"), inputs * outputs * taps));
        tensors.push(tensor(format!("{norm}.weight"), outputs));
        tensors.push(tensor(format!("{norm}.bias"), outputs));
    };
    conv("conv1", "bn1", 3, 64, 49);
    let mut inputs = 64;
    for (stage, blocks) in (1..).zip([3, 4, 6, 3]) {
        let width = 32 << stage;
        for block in 0..blocks {
            let at = format!("layer{stage}.{block}");
            conv(&format!("{at}.conv1"), &format!("{at}.bn1"), inputs, width, 1);
            conv(&format!("{at}.conv2"), &format!("{at}.bn2"), width, width, 9);
            conv(&format!("{at}.conv3"), &format!("{at}.bn3"), width, 4 * width, 1);
            if block == 0 {
                conv(&format!("{at}.downsample.0"), &format!("{at}.downsample.1"), inputs, 4 * width, 1);
            }
            inputs = 4 * width;
        }
    }
    tensors.extend([tensor("fc.weight", inputs * 1000), tensor("fc.bias", 1000)]);
    tensors
}

/// A scene of Gaussian splats with spherical harmonics of degree 3.
fn splats() -> Vec<Tensor> {
    let floats = [("means", 3), ("scales", 3), ("quats", 4), ("opacities", 1), ("sh0", 3), ("shN", 45)];
    floats.map(|(name, floats)| tensor(name, floats * 1_000_000)).into()
}

/// 1000 tensors, their lengths spread evenly over the powers from 1 k to 64 k, long and short mixed.
fn many() -> Vec<Tensor> {
    const COUNT: u64 = 1000;
    let len = |i: u64| {
        // 389 has no factor in common with 1000, so that every place of the scale is taken once.
        let place = (i * 389 % COUNT) as f64 / (COUNT - 1) as f64;
        (1024.0 * 64f64.powf(place)).round() as u64
    };
    (0..COUNT).map(|i| tensor(format!("layer.{i}"), len(i))).collect()
}

/// Elements: `4096`, `4k`, `16m`, in powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(u64);

impl Size {
    /// What is measured where nothing is asked for: each four times the one before it.
    pub fn ladder() -> Vec<Self> {
        (0..9).map(|i| Self(1024 << (2 * i))).collect()
    }
}

/// The longest tensor that WGSL can index.
const LONGEST: u64 = u32::MAX as u64;

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, unit) = match text.trim().to_lowercase() {
            text if text.ends_with('k') => (text[..text.len() - 1].to_string(), 1 << 10),
            text if text.ends_with('m') => (text[..text.len() - 1].to_string(), 1 << 20),
            text => (text, 1),
        };
        let elements = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|n| *n > 0);
        match elements {
            Some(elements) if elements <= LONGEST => Ok(Self(elements)),
            Some(_) => Err(format!("{text} elements are too many for one tensor; the most are {LONGEST}")),
            None => Err(format!("{text:?} is no length; write elements like 4096, 4k or 16m")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n.is_multiple_of(1 << 20) => write!(f, "{}m", n >> 20),
            n if n.is_multiple_of(1 << 10) => write!(f, "{}k", n >> 10),
            n => write!(f, "{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts that the models' authors give.
    #[test]
    fn workloads_are_the_models_that_they_are_named_after() {
        for (name, tensors, elements) in
            [("gpt2", 148, 124_439_808), ("resnet50", 161, 25_557_032), ("splats", 6, 59_000_000)]
        {
            let workload = &Workload::named(name, &[]).unwrap()[0];
            assert_eq!((workload.tensors.len(), workload.elements()), (tensors, elements), "{name}");
        }
    }

    #[test]
    fn many_small_tensors_reach_from_1k_to_64k() {
        let many = many();
        let lens = || many.iter().map(|tensor| tensor.len);
        assert_eq!((many.len(), lens().min(), lens().max()), (1000, Some(1024), Some(65_536)));
        assert_eq!(lens().sum::<u64>(), 15_529_648);
    }

    #[test]
    fn a_size_is_read_as_it_is_written() {
        for (text, elements) in [("1k", 1024), ("16m", 16 << 20), ("1000", 1000), ("4294967295", u32::MAX.into())] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size, size.to_string().as_str()), (Size(elements), text));
        }
        for text in ["", "k", "-1", "0", "0k", "1.5m", "4096m", "99999999999999999999", "1g", "ä", "ßk"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_kind_is_there() {
        for (kind, _) in KINDS {
            assert!(!Workload::named(kind, &Size::ladder()).unwrap().is_empty(), "{kind}");
        }
        assert!(Workload::named("gpt3", &[]).unwrap_err().contains("gpt2"));
    }
}
