#![doc = include_str!("../README.md")]
//!
//! # Where to start
//!
//! For embedding: [`Optimizer`], [`Tensor`], [`Arena`], [`Group`], the settings [`Adam`], [`AdamW`] and [`RmsProp`],
//! [`Schedule`], [`readback`] and [`memory_plan`]. Without a GPU: [`cpu::Optimizer`]. To save and go on: `checkpoint`.
//! To check a device: [`verify`]. For a rule of your own: [`Rule`]. The modules [`plan`], [`envelope`], [`kernel`] and
//! [`wgsl`] are what these are made of.
#![cfg_attr(not(feature = "gpu"), allow(rustdoc::broken_intra_doc_links, reason = "what it tells of is switched off"))]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

// In reading order: a file uses only those above it, which tests/contract.rs holds it to.
pub mod error;
pub mod wgsl;
pub mod rule;
pub mod schedule;
pub mod chain;
pub mod format;
pub mod map;
pub mod watch;
mod roster;
pub mod pages;
pub mod cpu;
#[cfg(feature = "parallel")]
mod parallel;
pub mod envelope;
pub mod plan;
pub mod memory;
#[cfg(all(feature = "checkpoint", not(target_arch = "wasm32")))]
pub mod safetensors;
#[cfg(all(feature = "checkpoint", not(target_arch = "wasm32")))]
pub mod output;
#[cfg(all(feature = "checkpoint", not(target_arch = "wasm32")))]
pub mod checkpoint;
#[cfg(feature = "gpu")]
mod tensor;
#[cfg(feature = "gpu")]
mod rows;
#[cfg(feature = "gpu")]
pub mod kernel;
#[cfg(feature = "gpu")]
mod state;
#[cfg(feature = "gpu")]
mod record;
#[cfg(feature = "gpu")]
mod control;
#[cfg(feature = "gpu")]
mod updates;
#[cfg(feature = "gpu")]
mod telemetry;
#[cfg(feature = "gpu")]
mod arena;
#[cfg(feature = "gpu")]
pub mod readback;
#[cfg(feature = "gpu")]
mod optimizer;
#[cfg(all(feature = "gpu", not(target_arch = "wasm32")))]
pub mod verify;

#[doc(inline)]
pub use chain::{Chain, Clamp, Clip, ClipForm, Ema, Norm, Over, Scaler};
#[doc(inline)]
pub use error::Error;
#[doc(inline)]
pub use map::Map;
#[doc(inline)]
pub use memory::{MemoryPlan, memory_plan, memory_plan_together, memory_plan_with};
#[doc(inline)]
pub use rule::{Adam, AdamEpsilon, AdamW, AmsgradOver, Decay, RmsProp, RmsPropEpsilon, Rule};
#[doc(inline)]
pub use schedule::Schedule;
#[doc(inline)]
pub use watch::{Update, Watch};
#[cfg(feature = "gpu")]
pub use wgpu;
#[cfg(feature = "gpu")]
#[doc(inline)]
pub use {
    arena::Arena,
    kernel::{Kernels, required_limits},
    optimizer::{Group, Optimizer},
    rows::{RowMap, Rows},
    telemetry::Telemetry,
    tensor::{BufferRange, Tensor},
};
