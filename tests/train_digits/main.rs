//! The example `train_digits`: its curve is PyTorch's, and a run that was killed ends where it would have.

mod curves;
#[path = "../../examples/train_digits/main.rs"]
#[allow(dead_code, reason = "cargo calls its main")]
mod example;
mod files;
mod formats;
mod killed;
mod plots;
mod program;
mod shaders;
#[path = "../support/mod.rs"]
mod support;
mod telemetry;

use support::{Gpu, gpu_with};
use wgpu_optim::{Adam, Chain, RmsProp, Rule, wgpu};

use example::format::FormatKind;
use example::training::Training;

const ADAM: Adam = Adam { lr: 0.01, ..Adam::PYTORCH };
const RMSPROP: RmsProp = RmsProp { lr: 0.001, ..RmsProp::PYTORCH };

/// A device of default limits, which are enough for the example.
fn gpu() -> Option<Gpu> {
    gpu_with(|_| wgpu::Limits::default())
}

/// A run in `f32`, at its start.
fn begun<R: Rule>(gpu: &Gpu, settings: R, chain: Chain) -> Training<R> {
    Training::new(&gpu.device, &gpu.queue, settings, chain, &FormatKind::F32.formats()).unwrap()
}
