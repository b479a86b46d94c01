//! The command line as a person meets it: files, exit codes and messages, on the CPU and on an adapter.

mod apply;
mod attacks;
mod bench;
mod compare;
mod config;
mod desk;
mod devices;
mod explain;
mod loops;
mod measured;
mod mismatch;
mod output;
mod replayed;
mod round_trip;
mod state;
#[path = "../support/mod.rs"]
mod support;
