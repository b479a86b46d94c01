//! Whether a driver's compiler leaves Kahan's compensation in: it is a difference that is 0 in real numbers.

use super::flat;
use crate::Error;
use crate::format::halves::Half;
use crate::format::{Format, Formats, KAHAN, Rounding};
use crate::optimizer::{Group, Optimizer};
use crate::readback::{download_blocking, upload_blocking};
use crate::rule::RmsProp;
use crate::tensor::{BufferRange, Tensor};

/// Elements, and words of 16 bits.
const LEN: usize = 64;
/// What each step takes off: far less than bf16 can take off 1, whose neighbour is 2^-8 below.
const LR: f64 = 1e-4;

/// Takes a step that is too small for its parameters, and holds what is left of them and what is kept beside them to
/// what they should be together.
///
/// # Errors
/// [`Error::Compensation`] where a compiler took it out; those of building and recording.
pub fn compensation(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<(), Error> {
    let bf16 = Format::Bf16;
    let formats = Formats { params: bf16, grads: bf16, rounding: Rounding::Kahan, ..Formats::default() };
    let [params, grads] = ["params", "grads"].map(|role| flat(device, role, LEN / 2));
    let ones = [Half::Bf16.narrow(1.0, Rounding::Nearest, 0); LEN];
    for range in [&params, &grads] {
        upload_blocking(device, queue, range, bytemuck::cast_slice(&ones))?;
    }
    let tensor = Tensor::new("ones", params.clone(), grads);
    // The first step of this rule is lr itself, with the second moment at the square of a gradient of 1.
    let settings = RmsProp { lr: LR, initial_scale: 1.0, ..RmsProp::OPTAX };
    let mut optimizer = Optimizer::with_groups(device, [Group::new(settings, [tensor]).with_formats(formats)])?;
    optimizer.step_blocking(device, queue)?;
    let kept = optimizer.read_state_blocking(device, queue, "ones", KAHAN)?;
    let left = download_blocking(device, queue, &BufferRange::from(params.buffer()))?;
    let left: Vec<u16> = bytemuck::pod_collect_to_vec(&left);
    left.into_iter().zip(kept).try_for_each(|(left, kept)| holds(Half::Bf16.widen(left), kept))
}

/// Refuses what is left of a parameter of 1, and what is kept beside it, where they are not together what a step
/// leaves.
pub fn holds(left: f32, kept: f32) -> Result<(), Error> {
    let expected = (1.0 - LR) as f32;
    // A code of bf16 is 2^-9 of what is kept.
    if (left + kept - expected).abs() <= 1e-6 { Ok(()) } else { Err(Error::Compensation { left, kept, expected }) }
}
