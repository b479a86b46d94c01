//! Steps over listed rows, and rows that come, go and change places: the device beside the CPU.

#[path = "../support/mod.rs"]
mod support;

mod chained;
mod codes;
mod cpu;
mod formats;
mod listed;
mod memory;
mod moved;
mod moved_codes;
mod refusals;
mod reset;
mod stand;
