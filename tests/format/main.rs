//! Numbers of fewer bits: every code, every rounding, every block, in both tongues.

#[path = "../support/mod.rs"]
mod support;

mod blocks;
mod gpu;
mod halves;
mod maps;
mod noise;
mod spread;
