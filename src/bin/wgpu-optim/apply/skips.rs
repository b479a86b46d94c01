//! Steps that the scaler left out: told as they come, and together at the end.

use anyhow::Result;
use serde_json::{Value as Json, json};
use wgpu_optim::Rule;
use wgpu_optim::chain::control::Control;

use crate::report::{Report, count};
use crate::stepper::Stepper;

/// What the scaler did in this run.
pub struct Skips {
    /// Steps that were left out before it.
    before: u64,
    now: Control,
}

impl Skips {
    pub fn new<R: Rule>(stepper: &dyn Stepper<R>) -> Result<Self> {
        let now = stepper.control()?;
        Ok(Self { before: now.skipped, now })
    }

    /// Looks at what became of a step, the first being 1.
    pub fn follow<R: Rule>(&mut self, step: usize, stepper: &dyn Stepper<R>, report: &Report) -> Result<()> {
        let before = std::mem::replace(&mut self.now, stepper.control()?);
        if self.now.skipped > before.skipped {
            let scale = self.now.scale;
            report.note(format!("step {step} was skipped: a gradient was not finite; the scale is now {scale}"));
        }
        Ok(())
    }

    /// Steps that were left out in this run.
    pub fn count(&self) -> u64 {
        self.now.skipped - self.before
    }

    /// The totals of a run of so many steps.
    pub fn tell(&self, steps: u64) -> String {
        let (scale, skipped) = (self.now.scale, self.count());
        let earlier = match self.before {
            0 => String::new(),
            before => format!(", after {before} in earlier runs"),
        };
        format!("{skipped} of {} skipped{earlier}; the scale is now {scale}", count(steps, "step"))
    }

    pub fn to_json(&self) -> Json {
        let Control { scale, growth_tracker, skipped } = self.now;
        json!({"skipped": self.count(), "skipped_ever": skipped, "scale": scale, "growth_tracker": growth_tracker})
    }
}
