//! The library as a caller meets it: what it refuses, what it steps, where tensors may lie.
#![allow(clippy::mutable_key_type, reason = "a buffer is compared and hashed by its identity")]

#[path = "../support/mod.rs"]
mod support;

mod around;
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
