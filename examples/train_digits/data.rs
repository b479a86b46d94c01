//! The digits, and the weights that training starts from. Both lie in the program: `assets/digits` tells where they
//! come from.

use anyhow::{Context, Result, ensure};
use safetensors::{Dtype, SafeTensors};

/// Pixels of an image: 8 by 8.
pub const PIXELS: usize = 64;
/// The digits 0 to 9.
pub const CLASSES: usize = 10;

/// The largest value of a pixel in the file.
const WHITE: f32 = 16.0;

/// Images and what they show.
pub struct Digits {
    /// [rows, [`PIXELS`]], from 0 to 1.
    pub pixels: Vec<f32>,
    /// One for each row, below [`CLASSES`].
    pub labels: Vec<u32>,
}

impl Digits {
    /// All 1797.
    pub fn load() -> Result<Self> {
        let file = open(include_bytes!("../../assets/digits/data.safetensors"))?;
        let images = values(&file, "images", Dtype::U8)?;
        let labels = values(&file, "labels", Dtype::U8)?;
        ensure!(images.len() == labels.len() * PIXELS, "{} pixels for {} labels", images.len(), labels.len());
        let above = labels.iter().find(|&&label| usize::from(label) >= CLASSES);
        ensure!(above.is_none(), "label {above:?}, expected 0 to {}", CLASSES - 1);
        Ok(Self {
            pixels: images.iter().map(|&pixel| f32::from(pixel) / WHITE).collect(),
            labels: labels.iter().map(|&label| label.into()).collect(),
        })
    }

    pub fn rows(&self) -> u32 {
        self.labels.len() as u32
    }
}

/// The weights that training starts from: a tensor's values by its name.
pub fn start(name: &str) -> Result<Vec<f32>> {
    let file = open(include_bytes!("../../assets/digits/start.safetensors"))?;
    Ok(bytemuck::pod_collect_to_vec(values(&file, name, Dtype::F32)?))
}

fn open(bytes: &'static [u8]) -> Result<SafeTensors<'static>> {
    SafeTensors::deserialize(bytes).context("a bundled file is broken")
}

fn values(file: &SafeTensors<'static>, name: &str, dtype: Dtype) -> Result<&'static [u8]> {
    let tensor = file.tensor(name).with_context(|| format!("no tensor {name:?} is bundled"))?;
    ensure!(tensor.dtype() == dtype, "{name:?} is {}, expected {dtype}", tensor.dtype());
    Ok(tensor.data())
}
