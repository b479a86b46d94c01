//! Checkpoints: what is saved is what is loaded, what does not fit is refused whole, and PyTorch reads and writes it.

#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod chained;
mod extras;
mod file;
mod foreign;
mod formats;
mod formatted;
mod going_on;
mod misfit;
mod mutation;
mod partial;
mod pytorch;
mod pytorch_halves;
mod run;
