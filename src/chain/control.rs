//! What is decided once for a step: whether it is taken, and what gradients are multiplied by.
//!
//! The CPU path decides here; on the GPU `shaders/chain/control.wgsl` does, by the same lines.

use super::{Chain, Clip, Norm, Over, Scaler};
use crate::Error;
use crate::wgsl::{Real, select};

/// What is known of the gradients that are clipped together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measure {
    /// Their norm as they come, scaled; infinite where one of them is not finite.
    pub norm: f64,
    /// How many are not finite.
    pub nonfinite: u64,
}

impl Measure {
    /// That of the measures of two stretches.
    pub fn with(self, other: Self, norm: Norm) -> Self {
        let joint = match norm {
            Norm::L2 => self.norm.hypot(other.norm),
            Norm::Inf => self.norm.max(other.norm),
        };
        Self { norm: joint, nonfinite: self.nonfinite + other.nonfinite }
    }

    /// That of some gradients.
    pub fn of<T: Real>(grads: &[T], norm: Norm) -> Self {
        Self::over(grads.iter().map(|g| g.to_f64()), norm)
    }

    /// The same, of gradients of any format.
    pub fn over(grads: impl Iterator<Item = f64>, norm: Norm) -> Self {
        let (mut sum, mut largest, mut nonfinite) = (0.0f64, 0.0f64, 0);
        for g in grads {
            nonfinite += u64::from(!g.is_finite());
            sum += g * g;
            largest = largest.max(g.abs());
        }
        let norm = match norm {
            _ if nonfinite > 0 => f64::INFINITY,
            Norm::L2 => sum.sqrt(),
            Norm::Inf => largest,
        };
        Self { norm, nonfinite }
    }
}

/// What the scaler remembers from step to step, and what is counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Control {
    /// The scale that the next gradients come with; 1 without a scaler.
    pub scale: f32,
    /// Clean steps since the scale last moved.
    pub growth_tracker: u32,
    /// Steps that were left out.
    pub skipped: u64,
}

/// What was decided of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Whether it is left out.
    pub skip: bool,
    /// What gradients are multiplied by, for each scope.
    pub factors: Vec<f64>,
}

impl Control {
    /// Before the first step.
    pub fn new(chain: &Chain) -> Self {
        let scale = chain.scaler.as_ref().map_or(1.0, |scaler| scaler.init_scale as f32);
        Self { scale, growth_tracker: 0, skipped: 0 }
    }

    /// Refuses what no chain of these settings can have come to.
    ///
    /// # Errors
    /// [`Error::Setting`] for a scale that is not finite or not above 0, and for a growth tracker that is not below the
    /// scaler's `growth_interval`; without a scaler, for any scale but 1 and any tracker but 0.
    pub fn check(&self, chain: &Chain) -> Result<(), Error> {
        let refuse = |setting, found: String, expected: String| {
            Err(Error::Setting { rule: super::NAME, setting, found, expected })
        };
        let (scale, tracker) = (self.scale, self.growth_tracker);
        let Some(Scaler { growth_interval, .. }) = chain.scaler else {
            return match (scale == 1.0, tracker) {
                (true, 0) => Ok(()),
                (false, _) => refuse("scaler.scale", scale.to_string(), "1, since there is no scaler".into()),
                _ => refuse("scaler.growth_tracker", tracker.to_string(), "0, since there is no scaler".into()),
            };
        };
        if !(scale.is_finite() && scale > 0.0) {
            return refuse("scaler.scale", scale.to_string(), "a finite number > 0".into());
        }
        if tracker >= growth_interval {
            let expected = format!("scaler.growth_tracker < scaler.growth_interval, which is {growth_interval}");
            return refuse("scaler.growth_tracker", tracker.to_string(), expected);
        }
        Ok(())
    }

    /// The same under another interval: where it became shorter than the tracker has come, the next clean step is the
    /// one that grows, as it was before.
    pub fn within(self, chain: &Chain) -> Self {
        let last = chain.scaler.as_ref().map_or(u32::MAX, |scaler| scaler.growth_interval.saturating_sub(1));
        Self { growth_tracker: self.growth_tracker.min(last), ..self }
    }

    /// Decides a step from the measures of its scopes, and remembers it.
    pub fn decide(&mut self, chain: &Chain, measures: &[Measure]) -> Verdict {
        let found = measures.iter().any(|measure| measure.nonfinite > 0);
        let unscale = 1.0 / f64::from(self.scale);
        let norm_clip = chain.clip.as_ref().filter(|clip| clip.over != Over::Value);
        let factor = |measure: &Measure| unscale * norm_clip.map_or(1.0, |clip| clipped(clip, measure.norm * unscale));
        let verdict = Verdict { skip: found && chain.scaler.is_some(), factors: measures.iter().map(factor).collect() };
        self.skipped = self.skipped.saturating_add(verdict.skip.into());
        self.update(chain, found);
        verdict
    }

    /// `GradScaler.update`. Source: PyTorch 2.15, `aten/src/ATen/native/cuda/AmpKernels.cu`.
    fn update(&mut self, chain: &Chain, found: bool) {
        let Some(scaler) = &chain.scaler else { return };
        let (growth, backoff) = (scaler.growth_factor as f32, scaler.backoff_factor as f32);
        let (grown, less) = (self.scale * growth, self.scale * backoff);
        let clean = if found { 0 } else { self.growth_tracker.saturating_add(1) };
        // Not only when it is equal: the interval may have become shorter.
        let grows = clean >= scaler.growth_interval;
        if found && less >= f32::MIN_POSITIVE {
            self.scale = less;
        } else if grows && grown <= f32::MAX {
            self.scale = grown;
        }
        self.growth_tracker = if grows { 0 } else { clean };
    }
}

/// What a gradient of this norm is multiplied by.
pub fn clipped(clip: &Clip, norm: f64) -> f64 {
    factor(norm, clip.eps(), clip.max)
}

/// The text of the factor; in `f32` on the device.
fn factor<T: Real>(norm: T, eps: T, max_norm: T) -> T {
    let one = T::from_f64(1.0);
    // <clip>
    let reach = norm + eps;
    let factor = select(one, max_norm / reach, reach > max_norm);
    // </clip>
    factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_that_would_become_infinite_stays() {
        let chain = Chain {
            scaler: Some(Scaler { init_scale: 1e38, growth_interval: 1, growth_factor: 4.0, ..Scaler::PYTORCH }),
            ..Chain::default()
        };
        let mut control = Control::new(&chain);
        control.decide(&chain, &[Measure::default()]);
        assert_eq!((control.scale, control.growth_tracker), (1e38, 0));
    }
}
