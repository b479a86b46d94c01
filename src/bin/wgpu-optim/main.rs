//! The command line. Exit codes: 0 done, 1 the job failed, 2 wrong usage.

mod adapter;
mod apply;
mod bench;
mod catalog;
mod compare;
mod config;
mod devices;
mod diff;
mod explain;
mod inputs;
mod numbers;
mod output;
mod peers;
mod report;
mod state;
mod stepper;
mod usage;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Optimizer steps on parameters and gradients in safetensors files, on the GPU or on the CPU
#[derive(Parser)]
#[command(name = "wgpu-optim", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Devices(devices::Args),
    Apply(apply::Args),
    Bench(bench::Args),
    Compare(compare::Args),
    Verify(verify::Args),
    Diff(diff::Args),
    Peers(peers::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Devices(args) => devices::run(&args),
        Command::Apply(args) => apply::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Peers(args) => peers::run(&args),
    };
    result.unwrap_or_else(|error| {
        report::complain(&format!("error: {error:#}"));
        ExitCode::from(if usage::is_usage(&error) { 2 } else { 1 })
    })
}
