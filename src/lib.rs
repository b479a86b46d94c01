#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

// In reading order: a file uses only those above it, which tests/contract.rs holds it to.
pub mod error;
pub mod wgsl;
pub mod rule;
mod roster;
pub mod cpu;
pub mod envelope;
pub mod plan;
pub mod memory;
#[cfg(feature = "gpu")]
mod tensor;
#[cfg(feature = "gpu")]
pub mod kernel;
#[cfg(feature = "gpu")]
mod state;
#[cfg(feature = "gpu")]
mod record;
#[cfg(feature = "gpu")]
mod arena;
#[cfg(feature = "gpu")]
pub mod readback;
#[cfg(feature = "gpu")]
mod optimizer;
#[cfg(all(feature = "gpu", not(target_arch = "wasm32")))]
pub mod verify;

pub use error::Error;
pub use memory::{MemoryPlan, memory_plan};
pub use rule::{Adam, AdamEpsilon, AdamW, AmsgradOver, Decay, RmsProp, RmsPropEpsilon, Rule};
#[cfg(feature = "gpu")]
pub use {
    arena::Arena,
    kernel::{Kernels, required_limits},
    optimizer::{Group, Optimizer},
    tensor::{BufferRange, Tensor},
    wgpu,
};
