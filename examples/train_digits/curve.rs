//! The loss by step.

use super::telemetry::Sample;

/// The loss before each step, from step 0 on; NaN where it did not arrive.
#[derive(Default)]
pub struct Curve {
    losses: Vec<f32>,
}

impl Curve {
    pub fn new(losses: Vec<f32>) -> Self {
        Self { losses }
    }

    pub fn losses(&self) -> &[f32] {
        &self.losses
    }

    pub fn extend(&mut self, samples: impl IntoIterator<Item = Sample>) {
        for Sample { step, loss, .. } in samples {
            let step = step as usize;
            self.losses.resize(self.losses.len().max(step + 1), f32::NAN);
            self.losses[step] = loss;
        }
    }
}
