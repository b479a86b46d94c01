//! What a state file holds of a tensor: keys, types and shapes.

use wgpu_optim::format::Plane;
use wgpu_optim::format::blocks::BLOCK;
use wgpu_optim::safetensors::Dtype;

use super::STEP;
use crate::numbers::dtype_of;

/// Behind the name of a slot of 8 bits: the scales of its blocks.
const SCALE: &str = ".scale";

/// One key of a tensor: `state.NAME.SLOT`.
pub struct Held {
    /// What stands behind the tensor's name.
    pub slot: String,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    pub what: What,
}

/// What lies under a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    Values(&'static str),
    Scales(&'static str),
    Step,
}

/// The keys of a tensor whose state lies like this.
pub fn held(planes: &[Plane], shape: &[u64]) -> Vec<Held> {
    let mut all = Vec::new();
    for Plane { slot, storage } in planes {
        let what = What::Values(slot);
        all.push(Held { slot: slot.to_string(), dtype: dtype_of(*storage), shape: shape.into(), what });
        if storage.has_scales() {
            let blocks = shape.iter().product::<u64>().div_ceil(BLOCK);
            let what = What::Scales(slot);
            all.push(Held { slot: scale_of(slot), dtype: Dtype::F32, shape: vec![blocks], what });
        }
    }
    all.push(Held { slot: STEP.into(), dtype: Dtype::F32, shape: Vec::new(), what: What::Step });
    all
}

/// The key of the scales of a slot.
pub fn scale_of(slot: &str) -> String {
    format!("{slot}{SCALE}")
}

/// The slot of a key of scales.
pub fn scaled(slot: &str) -> Option<&str> {
    slot.strip_suffix(SCALE)
}
