//! The CPU's step over numbers of fewer bits.

#[path = "../support/mod.rs"]
mod support;

mod chance;
mod composed;
mod golden;
mod refusals;
mod run;
mod state;
mod threads;
mod toy;
