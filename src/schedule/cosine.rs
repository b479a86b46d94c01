//! PyTorch's cosines between the group's lr and `eta_min`.

use std::f64::consts::PI;

use super::arguments::{Arguments, arguments};
use super::{Curve, half_cosine};
use crate::Error;

arguments! {
    /// `torch.optim.lr_scheduler.CosineAnnealingLR`:
    /// `eta_min + (base - eta_min) * (1 + cos(pi * step / t_max)) / 2`.
    ///
    /// It does not end: past `t_max` the lr goes up again and is back at `base` at `2 * t_max`, as in PyTorch.
    /// Chain another kind with [`then`](super::Schedule::then) to stay down.
    ///
    /// This is the closed form that PyTorch has too. Its scheduler goes from each value to the next instead, and loses
    /// digits where the cosine turns: up to `t_max` the two agree, past it they differ by up to 3e-12 of the highest
    /// lr.
    pub struct Cosine {
        /// Steps from `base` to `eta_min`, at least 1. PyTorch's `T_max`.
        t_max: u64,
        ..
        /// The lowest lr, `>= 0`.
        eta_min: f64 = 0.0,
    }
}

impl Curve for Cosine {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.steps("t_max", self.t_max)?;
        arguments.not_negative("eta_min", self.eta_min)
    }

    fn lr(&self, step: u64, base: f64) -> f64 {
        let period = 2 * u128::from(self.t_max.max(1));
        let within = (u128::from(step) % period) as f64;
        between(self.eta_min, base, within, self.t_max.max(1) as f64)
    }
}

arguments! {
    /// `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`: the half cosine of [`Cosine`], begun again at `base`
    /// after `t_0` steps, then after `t_0 * t_mult`, `t_0 * t_mult^2`, …
    pub struct CosineWarmRestarts {
        /// Steps to the first restart, at least 1. PyTorch's `T_0`.
        t_0: u64,
        ..
        /// How many times longer each round is than the one before, at least 1. PyTorch's `T_mult`.
        t_mult: u64 = 1,
        /// The lowest lr, `>= 0`.
        eta_min: f64 = 0.0,
    }
}

impl CosineWarmRestarts {
    /// How far into its round the step is, and the length of that round.
    fn round(&self, step: u64) -> (u128, u128) {
        let (mut within, mut length) = (u128::from(step), u128::from(self.t_0.max(1)));
        if self.t_mult <= 1 {
            return (within % length, length);
        }
        while within >= length {
            within -= length;
            length *= u128::from(self.t_mult);
        }
        (within, length)
    }
}

impl Curve for CosineWarmRestarts {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.steps("t_0", self.t_0)?;
        arguments.steps("t_mult", self.t_mult)?;
        arguments.not_negative("eta_min", self.eta_min)
    }

    fn lr(&self, step: u64, base: f64) -> f64 {
        let (within, length) = self.round(step);
        between(self.eta_min, base, within as f64, length as f64)
    }
}

fn between(eta_min: f64, base: f64, step: f64, steps: f64) -> f64 {
    eta_min + (base - eta_min) * half_cosine(PI * step / steps)
}
