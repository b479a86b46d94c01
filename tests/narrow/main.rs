//! The CPU's step over numbers of fewer bits, and what frameworks make of them.

#[path = "../support/mod.rs"]
mod support;

mod centered;
mod chance;
mod composed;
mod device;
mod golden;
mod refusals;
mod rows;
mod run;
mod state;
mod threads;
mod toy;
