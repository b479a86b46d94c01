//! Schedules of optax, under its names. They bring an lr of their own.

use std::f64::consts::PI;

use super::arguments::{Arguments, arguments};
use super::{Curve, half_cosine, periods, power};
use crate::Error;

arguments! {
    /// `optax.cosine_decay_schedule`:
    /// `init_value * ((1 - alpha) * ((1 + cos(pi * min(step, decay_steps) / decay_steps)) / 2)^exponent + alpha)`.
    pub struct OptaxCosineDecay {
        /// The first lr, `>= 0`.
        init_value: f64,
        /// Steps, at least 1.
        decay_steps: u64,
        ..
        /// What is left at the end, as a factor, `>= 0`.
        alpha: f64 = 0.0,
        /// `>= 0`.
        exponent: f64 = 1.0,
    }
}

impl Curve for OptaxCosineDecay {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.not_negative("init_value", self.init_value)?;
        arguments.steps("decay_steps", self.decay_steps)?;
        arguments.not_negative("alpha", self.alpha)?;
        arguments.not_negative("exponent", self.exponent)
    }

    fn lr(&self, step: u64, _base: f64) -> f64 {
        let left = decayed(step, self.decay_steps, self.exponent);
        self.init_value * ((1.0 - self.alpha) * left + self.alpha)
    }
}

arguments! {
    /// `optax.exponential_decay`: `init_value * decay_rate^((step - transition_begin) / transition_steps)`.
    pub struct OptaxExponentialDecay {
        /// The first lr, `>= 0`.
        init_value: f64,
        /// Steps, at least 1. (optax stays at `init_value` below that.)
        transition_steps: u64,
        /// `> 0`. (optax stays at `init_value` with 0.)
        decay_rate: f64,
        ..
        /// Steps at `init_value` before it begins.
        transition_begin: u64 = 0,
        /// Round the exponent down.
        staircase: bool = false,
        /// Where it stops, `>= 0`: the lowest lr if `decay_rate` is below 1, else the highest.
        end_value: Option<f64> = None,
    }
}

impl Curve for OptaxExponentialDecay {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.not_negative("init_value", self.init_value)?;
        arguments.steps("transition_steps", self.transition_steps)?;
        arguments.positive("decay_rate", self.decay_rate)?;
        arguments.not_negative("end_value", self.end_value.unwrap_or(0.0))
    }

    fn lr(&self, step: u64, _base: f64) -> f64 {
        let since = step.saturating_sub(self.transition_begin);
        let value = self.init_value * power(self.decay_rate, periods(since, self.transition_steps, self.staircase));
        match self.end_value {
            None => value,
            Some(end) if self.decay_rate < 1.0 => value.max(end),
            Some(end) => value.min(end),
        }
    }
}

arguments! {
    /// `optax.warmup_cosine_decay_schedule`: straight from `init_value` to `peak_value` in `warmup_steps`, then by a
    /// cosine to `end_value` at step `decay_steps`, and on at that.
    pub struct OptaxWarmupCosineDecay {
        /// The first lr, `>= 0`.
        init_value: f64,
        /// The highest lr, `>= 0`. With 0, optax stays at 0 after the warm-up, whatever `end_value` is.
        peak_value: f64,
        /// Steps of the warm-up.
        warmup_steps: u64,
        /// Steps of warm-up and decay together, more than `warmup_steps`.
        decay_steps: u64,
        ..
        /// The last lr, `>= 0`.
        end_value: f64 = 0.0,
        /// What the cosine is raised to, `>= 0`.
        exponent: f64 = 1.0,
    }
}

impl Curve for OptaxWarmupCosineDecay {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.not_negative("init_value", self.init_value)?;
        arguments.not_negative("peak_value", self.peak_value)?;
        arguments.not_negative("end_value", self.end_value)?;
        arguments.not_negative("exponent", self.exponent)?;
        let expected = || format!("decay_steps > warmup_steps, which is {}", self.warmup_steps);
        arguments.require(self.decay_steps > self.warmup_steps, "decay_steps", self.decay_steps, expected)
    }

    fn lr(&self, step: u64, _base: f64) -> f64 {
        if step < self.warmup_steps {
            let ahead = 1.0 - step as f64 / self.warmup_steps as f64;
            return (self.init_value - self.peak_value) * ahead + self.peak_value;
        }
        let end = if self.peak_value == 0.0 { 0.0 } else { self.end_value };
        let decay = self.decay_steps.saturating_sub(self.warmup_steps);
        (self.peak_value - end) * decayed(step - self.warmup_steps, decay, self.exponent) + end
    }
}

arguments! {
    /// `optax.cosine_onecycle_schedule`: by a cosine from `peak_value / div_factor` up to `peak_value` in
    /// `floor(pct_start * transition_steps)` steps, then down to `peak_value / div_factor / final_div_factor` at step
    /// `transition_steps`, and on at that. Unlike PyTorch's it leaves the momentum alone.
    pub struct OptaxCosineOnecycle {
        /// Steps of the whole cycle, at least 1.
        transition_steps: u64,
        /// The highest lr, `>= 0`.
        peak_value: f64,
        ..
        /// The share of the steps that go up, in `[0, 1)`. (With 1 optax never goes up.)
        pct_start: f64 = 0.3,
        /// `peak_value` over the first lr, `> 0`.
        div_factor: f64 = 25.0,
        /// The first lr over the last, `> 0`.
        final_div_factor: f64 = 1e4,
    }
}

impl Curve for OptaxCosineOnecycle {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.steps("transition_steps", self.transition_steps)?;
        arguments.not_negative("peak_value", self.peak_value)?;
        arguments.below_one("pct_start", self.pct_start)?;
        arguments.divisor("div_factor", self.div_factor, self.peak_value)?;
        arguments.divisor("final_div_factor", self.final_div_factor, self.peak_value / self.div_factor)
    }

    fn lr(&self, step: u64, _base: f64) -> f64 {
        let up = (self.pct_start * self.transition_steps as f64) as u64;
        let first = self.peak_value / self.div_factor;
        let last = first / self.final_div_factor;
        if step < up {
            return self.peak_value + (first - self.peak_value) * half_cosine(PI * (step as f64 / up as f64));
        }
        last + (self.peak_value - last) * decayed(step - up, self.transition_steps.saturating_sub(up), 1.0)
    }
}

/// What half a cosine leaves of 1 after so many of its steps, and 0 after the last.
fn decayed(step: u64, steps: u64, exponent: f64) -> f64 {
    if step >= steps { power(0.0, exponent) } else { power(half_cosine(PI * step as f64 / steps as f64), exponent) }
}
