#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs, rust_2018_idioms, unreachable_pub)]

// In reading order; a file uses only those above it, which tests/contract.rs holds it to.
#[cfg(feature = "gpu")]
mod arena;
pub mod cpu;
pub mod envelope;
pub mod error;
#[cfg(feature = "gpu")]
pub mod kernel;
#[cfg(feature = "gpu")]
mod optimizer;
pub mod plan;
#[cfg(feature = "gpu")]
pub mod readback;
#[cfg(feature = "gpu")]
mod record;
mod roster;
pub mod rule;
#[cfg(feature = "gpu")]
mod tensor;
#[cfg(all(feature = "gpu", not(target_arch = "wasm32")))]
pub mod verify;
pub mod wgsl;

pub use error::Error;
pub use rule::{Adam, AdamEpsilon, AdamW, AmsgradOver, Decay, RmsProp, RmsPropEpsilon, Rule};
#[cfg(feature = "gpu")]
pub use {
    arena::Arena,
    kernel::{Kernels, required_limits},
    optimizer::{Group, Optimizer},
    tensor::{BufferRange, Tensor},
    wgpu,
};
