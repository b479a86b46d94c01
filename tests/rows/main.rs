//! Steps over listed rows, and rows that come, go and change places: the device beside the CPU.

#[path = "../support/mod.rs"]
mod support;

mod chained;
mod cpu;
mod listed;
mod memory;
mod moved;
mod refusals;
mod reset;
mod stand;
