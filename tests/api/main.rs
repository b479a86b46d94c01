//! The library as a caller meets it: what it refuses, what it steps, where tensors may lie.

#[path = "../support/mod.rs"]
mod support;

mod layouts;
mod loss;
mod memory;
mod noop;
mod planner;
mod rebinding;
mod refusals;
mod settings;
mod sharing;
mod stand;
mod state;
mod steps;
mod transfers;
mod windows;
