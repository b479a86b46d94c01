//! The lr that falls where a metric stops improving.

use super::arguments::{Arguments, choice};
use crate::Error;

/// `torch.optim.lr_scheduler.ReduceLROnPlateau`: multiplies the lr by `factor` once the metric has not improved for
/// more than `patience` calls in a row.
///
/// It is no kind of [`Schedule`](super::Schedule): a metric is not known when steps are recorded ahead. Call
/// [`step`](Plateau::step) where you have one, and retune the optimizer to what it answers. The last three fields are
/// what it remembers; save them with the rest to go on later.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Plateau {
    /// Whether the metric is to fall or to rise.
    pub mode: PlateauMode,
    /// In `[0, 1)`. Default: 0.1.
    pub factor: f64,
    /// Calls without an improvement that are forgiven. Default: 10.
    pub patience: u64,
    /// How much better counts as an improvement, `>= 0`. Default: 1e-4.
    pub threshold: f64,
    /// What `threshold` is a part of.
    pub threshold_mode: ThresholdMode,
    /// Calls after a reduction that are not counted. Default: 0.
    pub cooldown: u64,
    /// The lowest lr, `>= 0`. Default: 0.
    pub min_lr: f64,
    /// A reduction of no more than this is left out, `>= 0`. Default: 1e-8.
    pub eps: f64,
    /// The best metric so far, once there was one.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub best: Option<f64>,
    /// Calls in a row without an improvement.
    pub num_bad_epochs: u64,
    /// Calls that will not be counted.
    pub cooldown_counter: u64,
}

choice! {
    /// Where a better metric lies.
    pub enum PlateauMode {
        /// Lower is better: the default.
        Min = "min",
        /// Higher is better.
        Max = "max",
    }
}

choice! {
    /// What a [`Plateau`]'s `threshold` is a part of.
    pub enum ThresholdMode {
        /// Of the best metric: the default.
        Rel = "rel",
        /// It is the difference itself.
        Abs = "abs",
    }
}

impl Default for Plateau {
    fn default() -> Self {
        Self {
            mode: PlateauMode::Min,
            factor: 0.1,
            patience: 10,
            threshold: 1e-4,
            threshold_mode: ThresholdMode::Rel,
            cooldown: 0,
            min_lr: 0.0,
            eps: 1e-8,
            best: None,
            num_bad_epochs: 0,
            cooldown_counter: 0,
        }
    }
}

impl Plateau {
    /// The lr to use from now on, after `lr` has led to `metric`. NaN is no improvement.
    pub fn step(&mut self, metric: f64, lr: f64) -> f64 {
        self.count(metric);
        if self.num_bad_epochs <= self.patience {
            return lr;
        }
        self.cooldown_counter = self.cooldown;
        self.num_bad_epochs = 0;
        let reduced = (lr * self.factor).max(self.min_lr);
        if lr - reduced > self.eps { reduced } else { lr }
    }

    /// Refuses what [`step`](Plateau::step) has no meaning for.
    ///
    /// # Errors
    ///
    /// [`Error::Schedule`], by the name of the argument.
    pub fn check(&self) -> Result<(), Error> {
        let arguments = Arguments("plateau");
        arguments.below_one("factor", self.factor)?;
        arguments.not_negative("threshold", self.threshold)?;
        arguments.not_negative("min_lr", self.min_lr)?;
        arguments.not_negative("eps", self.eps)
    }

    fn count(&mut self, metric: f64) {
        if self.is_better(metric) {
            self.best = Some(metric);
            self.num_bad_epochs = 0;
        } else {
            self.num_bad_epochs = self.num_bad_epochs.saturating_add(1);
        }
        if self.cooldown_counter > 0 {
            self.cooldown_counter -= 1;
            self.num_bad_epochs = 0;
        }
    }

    fn is_better(&self, metric: f64) -> bool {
        let t = self.threshold;
        match (self.mode, self.threshold_mode) {
            (PlateauMode::Min, ThresholdMode::Rel) => metric < self.best.unwrap_or(f64::INFINITY) * (1.0 - t),
            (PlateauMode::Min, ThresholdMode::Abs) => metric < self.best.unwrap_or(f64::INFINITY) - t,
            (PlateauMode::Max, ThresholdMode::Rel) => metric > self.best.unwrap_or(f64::NEG_INFINITY) * (1.0 + t),
            (PlateauMode::Max, ThresholdMode::Abs) => metric > self.best.unwrap_or(f64::NEG_INFINITY) + t,
        }
    }
}
