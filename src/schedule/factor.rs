//! PyTorch's schedules that multiply the group's lr by a factor: constant, linear, step, multi-step, exponential,
//! polynomial.

use super::arguments::{Arguments, arguments};
use super::{Curve, power};
use crate::Error;

arguments! {
    /// `torch.optim.lr_scheduler.ConstantLR`: `base * factor` before step `total_iters`, `base` from there on.
    ///
    /// With PyTorch's defaults the first five steps go at a third. `factor: 1.0` is an lr that never changes.
    pub struct Constant {
        ..
        /// In `[0, 1]`. 0, at which PyTorch's chained form fails later on, holds the parameters still.
        factor: f64 = 1.0 / 3.0,
        /// Steps, at least 1.
        total_iters: u64 = 5,
    }
}

impl Curve for Constant {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.share("factor", self.factor)?;
        arguments.steps("total_iters", self.total_iters)
    }

    fn lr(&self, step: u64, base: f64) -> f64 {
        if step < self.total_iters { base * self.factor } else { base }
    }
}

arguments! {
    /// `torch.optim.lr_scheduler.LinearLR`, the usual warm-up:
    /// `base * (start_factor + (end_factor - start_factor) * min(step, total_iters) / total_iters)`.
    pub struct Linear {
        ..
        /// In `(0, 1]`, as PyTorch wants it.
        start_factor: f64 = 1.0 / 3.0,
        /// In `[0, 1]`; below `start_factor` the lr falls.
        end_factor: f64 = 1.0,
        /// Steps, at least 1. (With 0, PyTorch would stay at `start_factor` for good.)
        total_iters: u64 = 5,
    }
}

impl Curve for Linear {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.positive("start_factor", self.start_factor)?;
        arguments.share("start_factor", self.start_factor)?;
        arguments.share("end_factor", self.end_factor)?;
        arguments.steps("total_iters", self.total_iters)
    }

    fn lr(&self, step: u64, base: f64) -> f64 {
        let (step, total) = (step.min(self.total_iters) as f64, self.total_iters as f64);
        base * (self.start_factor + (self.end_factor - self.start_factor) * step / total)
    }
}

arguments! {
    /// `torch.optim.lr_scheduler.StepLR`: `base * gamma^floor(step / step_size)`.
    pub struct Step {
        /// Steps, at least 1.
        step_size: u64,
        ..
        /// `>= 0`.
        gamma: f64 = 0.1,
    }
}

impl Curve for Step {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.steps("step_size", self.step_size)?;
        arguments.not_negative("gamma", self.gamma)
    }

    fn lr(&self, step: u64, base: f64) -> f64 {
        base * power(self.gamma, (step / self.step_size.max(1)) as f64)
    }
}

arguments! {
    /// `torch.optim.lr_scheduler.MultiStepLR`: `base * gamma^n`, where `n` milestones are at or before the step. One
    /// that is listed twice counts twice.
    pub struct MultiStep {
        /// Steps, none below the one before it.
        milestones: Vec<u64>,
        ..
        /// `>= 0`.
        gamma: f64 = 0.1,
    }
}

impl Curve for MultiStep {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        let found = || format!("{:?}", self.milestones);
        arguments.require(self.milestones.is_sorted(), "milestones", found(), || "ascending steps".into())?;
        arguments.not_negative("gamma", self.gamma)
    }

    fn lr(&self, step: u64, base: f64) -> f64 {
        let passed = self.milestones.partition_point(|milestone| *milestone <= step);
        base * power(self.gamma, passed as f64)
    }
}

arguments! {
    /// `torch.optim.lr_scheduler.ExponentialLR`: `base * gamma^step`.
    pub struct Exponential {
        /// `>= 0`. Above 1 the lr grows, at most to the largest `f64`.
        gamma: f64,
        ..
    }
}

impl Curve for Exponential {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.not_negative("gamma", self.gamma)
    }

    fn lr(&self, step: u64, base: f64) -> f64 {
        base * power(self.gamma, step as f64)
    }
}

arguments! {
    /// `torch.optim.lr_scheduler.PolynomialLR`: `base * (1 - min(step, total_iters) / total_iters)^power`, which is 0
    /// from `total_iters` on (unless `power` is 0).
    pub struct Polynomial {
        ..
        /// Steps, at least 1.
        total_iters: u64 = 5,
        /// `>= 0`.
        power: f64 = 1.0,
    }
}

impl Curve for Polynomial {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.steps("total_iters", self.total_iters)?;
        arguments.not_negative("power", self.power)
    }

    fn lr(&self, step: u64, base: f64) -> f64 {
        let (step, total) = (step.min(self.total_iters) as f64, self.total_iters as f64);
        base * power(1.0 - step / total, self.power)
    }
}

impl Default for Constant {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Linear {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Polynomial {
    fn default() -> Self {
        Self::new()
    }
}
