//! Schedules of Keras 3, under its names. They bring an lr of their own.

use std::f64::consts::PI;

use super::arguments::{Arguments, arguments};
use super::{Curve, half_cosine, periods, power};
use crate::Error;

arguments! {
    /// `keras.optimizers.schedules.CosineDecay`: straight from `initial_learning_rate` to `warmup_target` in
    /// `warmup_steps`, then by half a cosine down to `alpha` times that in `decay_steps`, and on at that.
    pub struct KerasCosineDecay {
        /// The first lr, `>= 0`.
        initial_learning_rate: f64,
        /// Steps of the decay alone, at least 1.
        decay_steps: u64,
        ..
        /// What is left at the end, as a factor, `>= 0`.
        alpha: f64 = 0.0,
        /// The lr that the decay starts from, `>= 0`; `initial_learning_rate`, with no warm-up, if not given.
        warmup_target: Option<f64> = None,
        /// Steps of the warm-up. (Without `warmup_target` Keras looks at none of them; here more than 0 is refused.)
        warmup_steps: u64 = 0,
    }
}

impl Curve for KerasCosineDecay {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.not_negative("initial_learning_rate", self.initial_learning_rate)?;
        arguments.steps("decay_steps", self.decay_steps)?;
        arguments.not_negative("alpha", self.alpha)?;
        arguments.not_negative("warmup_target", self.warmup_target.unwrap_or(0.0))?;
        let targeted = self.warmup_target.is_some() || self.warmup_steps == 0;
        arguments.require(targeted, "warmup_steps", self.warmup_steps, || "0 where no warmup_target is given".into())
    }

    fn lr(&self, step: u64, _base: f64) -> f64 {
        let (first, top) = (self.initial_learning_rate, self.warmup_target.unwrap_or(self.initial_learning_rate));
        if step < self.warmup_steps {
            return (top - first) * (step as f64 / self.warmup_steps as f64) + first;
        }
        let step = (step - self.warmup_steps).min(self.decay_steps) as f64;
        top * ((1.0 - self.alpha) * half_cosine(PI * (step / self.decay_steps as f64)) + self.alpha)
    }
}

arguments! {
    /// `keras.optimizers.schedules.ExponentialDecay`: `initial_learning_rate * decay_rate^(step / decay_steps)`.
    pub struct KerasExponentialDecay {
        /// The first lr, `>= 0`.
        initial_learning_rate: f64,
        /// Steps, at least 1.
        decay_steps: u64,
        /// `>= 0`.
        decay_rate: f64,
        ..
        /// Round the exponent down.
        staircase: bool = false,
    }
}

impl Curve for KerasExponentialDecay {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.not_negative("initial_learning_rate", self.initial_learning_rate)?;
        arguments.steps("decay_steps", self.decay_steps)?;
        arguments.not_negative("decay_rate", self.decay_rate)
    }

    fn lr(&self, step: u64, _base: f64) -> f64 {
        self.initial_learning_rate * power(self.decay_rate, periods(step, self.decay_steps, self.staircase))
    }
}

arguments! {
    /// `keras.optimizers.schedules.InverseTimeDecay`:
    /// `initial_learning_rate / (1 + decay_rate * step / decay_steps)`.
    pub struct KerasInverseTimeDecay {
        /// The first lr, `>= 0`.
        initial_learning_rate: f64,
        /// Steps, at least 1.
        decay_steps: u64,
        /// `>= 0`.
        decay_rate: f64,
        ..
        /// Round `step / decay_steps` down.
        staircase: bool = false,
    }
}

impl Curve for KerasInverseTimeDecay {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.not_negative("initial_learning_rate", self.initial_learning_rate)?;
        arguments.steps("decay_steps", self.decay_steps)?;
        arguments.not_negative("decay_rate", self.decay_rate)
    }

    fn lr(&self, step: u64, _base: f64) -> f64 {
        self.initial_learning_rate / (1.0 + self.decay_rate * periods(step, self.decay_steps, self.staircase))
    }
}
