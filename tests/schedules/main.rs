//! Learning-rate schedules: what the frameworks answer, what is refused, what files hold. No GPU.

mod bounds;
mod chains;
mod files;
mod recorded;
mod refusals;

use wgpu_optim::schedule::{Base, Schedule};

/// A group of Adam's with PyTorch's beta1.
const BASE: Base = Base { lr: 0.01, momentum: Some(0.9) };

fn lr(schedule: &Schedule, step: u64) -> f64 {
    schedule.at(step, BASE).lr
}

fn momentum(schedule: &Schedule, step: u64) -> f64 {
    schedule.at(step, BASE).momentum.unwrap()
}
