//! Warm-up, stable, decay, as Hugging Face's transformers has it; PyTorch has no scheduler of this kind.

use std::f64::consts::PI;

use super::arguments::{Arguments, arguments, choice};
use super::{Curve, half_cosine};
use crate::Error;

arguments! {
    /// `transformers.get_wsd_schedule`: `base` times a factor that rises from `min_lr_ratio` to 1 in
    /// `num_warmup_steps`, stays there for `num_stable_steps`, falls to `min_lr_ratio` in `num_decay_steps`, and stays.
    ///
    /// The trapezoid of the literature; `num_training_steps` is the sum of the three.
    pub struct WarmupStableDecay {
        /// Steps up.
        num_warmup_steps: u64,
        /// Steps at `base`.
        num_stable_steps: u64,
        /// Steps down.
        num_decay_steps: u64,
        ..
        /// The way up.
        warmup_type: Ramp = Ramp::Linear,
        /// The way down.
        decay_type: Ramp = Ramp::Cosine,
        /// The factor at both ends, in `[0, 1]`.
        min_lr_ratio: f64 = 0.0,
        /// Cosines within the decay, `>= 0`; half of one goes down and does not come up again.
        num_cycles: f64 = 0.5,
    }
}

choice! {
    /// A way between the ends of [`WarmupStableDecay`], for `x` from 0 to 1.
    pub enum Ramp {
        /// Up `x`, down `1 - x`.
        Linear = "linear",
        /// Up `(1 - cos(pi * x)) / 2`, down `(1 + cos(2 pi * num_cycles * x)) / 2`.
        Cosine = "cosine",
        /// Up `1 - sqrt(1 - x)`, down `1 - sqrt(x)`.
        OneMinusSqrt = "1-sqrt",
    }
}

impl WarmupStableDecay {
    fn factor(&self, step: u64) -> f64 {
        if step < self.num_warmup_steps {
            return self.up(step as f64 / self.num_warmup_steps as f64);
        }
        let stable = step - self.num_warmup_steps;
        if stable < self.num_stable_steps {
            return 1.0;
        }
        let decay = stable - self.num_stable_steps;
        if decay < self.num_decay_steps { self.down(decay as f64 / self.num_decay_steps as f64) } else { 0.0 }
    }

    fn up(&self, x: f64) -> f64 {
        match self.warmup_type {
            Ramp::Linear => x,
            Ramp::Cosine => 1.0 - half_cosine(PI * x),
            Ramp::OneMinusSqrt => 1.0 - (1.0 - x).sqrt(),
        }
    }

    fn down(&self, x: f64) -> f64 {
        match self.decay_type {
            Ramp::Linear => 1.0 - x,
            // A number of cycles that overflows still has a cosine.
            Ramp::Cosine => half_cosine((self.num_cycles * x * (2.0 * PI)).min(f64::MAX)),
            Ramp::OneMinusSqrt => 1.0 - x.sqrt(),
        }
    }
}

impl Curve for WarmupStableDecay {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.share("min_lr_ratio", self.min_lr_ratio)?;
        arguments.not_negative("num_cycles", self.num_cycles)
    }

    fn lr(&self, step: u64, base: f64) -> f64 {
        let factor = self.factor(step);
        base * (factor + (1.0 - factor) * self.min_lr_ratio)
    }
}
