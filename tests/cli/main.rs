//! The command line as a person meets it: files, exit codes and messages, on the CPU and on an adapter.

#[path = "../support/mod.rs"]
mod support;

mod apply;
mod around;
mod attacks;
mod bench;
mod bench_formats;
mod compare;
mod config;
mod desk;
mod devices;
mod explain;
mod format_files;
mod format_keys;
mod format_state;
mod going_on;
mod measured;
mod mismatch;
mod output;
mod replayed;
mod round_trip;
mod state;
mod tables;
