//! PyTorch's one cycle, which brings an lr of its own and moves the momentum against it.

use std::f64::consts::PI;

use super::arguments::{Arguments, arguments, choice};
use super::{Curve, half_cosine};
use crate::Error;

arguments! {
    /// `torch.optim.lr_scheduler.OneCycleLR`: from `max_lr / div_factor` up to `max_lr`, then down to
    /// `max_lr / div_factor / final_div_factor` at step `total_steps - 1`, and the momentum the other way. The group's
    /// own lr is not looked at.
    ///
    /// PyTorch refuses to step past `total_steps`; here the last values hold.
    pub struct OneCycle {
        /// The highest lr, `>= 0`.
        max_lr: f64,
        /// Steps of the whole cycle, at least 1: PyTorch's `epochs * steps_per_epoch`.
        total_steps: u64,
        ..
        /// The share of the steps that go up, in `[0, 1]`.
        pct_start: f64 = 0.3,
        /// The way between two values.
        anneal_strategy: AnnealStrategy = AnnealStrategy::Cos,
        /// Whether beta1 (Adam) or momentum (RMSprop) moves too.
        cycle_momentum: bool = true,
        /// The momentum at `max_lr`, in `[0, 1)`.
        base_momentum: f64 = 0.85,
        /// The momentum at both ends, in `[0, 1)`.
        max_momentum: f64 = 0.95,
        /// `max_lr` over the first lr, `> 0`.
        div_factor: f64 = 25.0,
        /// The first lr over the last, `> 0`.
        final_div_factor: f64 = 1e4,
        /// Go down to the first lr in as many steps as it went up, then on to the last one.
        three_phase: bool = false,
    }
}

choice! {
    /// The way between two values of [`OneCycle`].
    pub enum AnnealStrategy {
        /// Half a cosine.
        Cos = "cos",
        /// A straight line.
        Linear = "linear",
    }
}

/// A stretch of the cycle: the step it ends at, and what lr and momentum go from and to.
struct Phase {
    end: f64,
    lr: [f64; 2],
    momentum: [f64; 2],
}

impl OneCycle {
    fn phases(&self) -> Vec<Phase> {
        let (max_lr, initial_lr) = (self.max_lr, self.max_lr / self.div_factor);
        let min_lr = initial_lr / self.final_div_factor;
        let (low, high) = (self.base_momentum, self.max_momentum);
        let (total, up) = (self.total_steps as f64, self.pct_start * self.total_steps as f64);
        let mut phases = vec![Phase { end: up - 1.0, lr: [initial_lr, max_lr], momentum: [high, low] }];
        if self.three_phase {
            let end = 2.0 * self.pct_start * total - 2.0;
            phases.push(Phase { end, lr: [max_lr, initial_lr], momentum: [low, high] });
            phases.push(Phase { end: total - 1.0, lr: [initial_lr, min_lr], momentum: [high, high] });
        } else {
            phases.push(Phase { end: total - 1.0, lr: [max_lr, min_lr], momentum: [low, high] });
        }
        phases
    }

    fn value(&self, step: u64, ends: impl Fn(&Phase) -> [f64; 2]) -> f64 {
        let step = step.min(self.total_steps.saturating_sub(1)) as f64;
        let phases = self.phases();
        let current = phases.iter().position(|phase| step <= phase.end).unwrap_or(phases.len() - 1);
        let (start, end) = (if current == 0 { 0.0 } else { phases[current - 1].end }, phases[current].end);
        // A way up of one step is at its top.
        let share = if end > start { (step - start) / (end - start) } else { 1.0 };
        self.anneal(ends(&phases[current]), share)
    }

    fn anneal(&self, [start, end]: [f64; 2], share: f64) -> f64 {
        match self.anneal_strategy {
            AnnealStrategy::Cos => end + (start - end) * half_cosine(PI * share),
            AnnealStrategy::Linear => (end - start) * share + start,
        }
    }
}

impl Curve for OneCycle {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.not_negative("max_lr", self.max_lr)?;
        arguments.steps("total_steps", self.total_steps)?;
        arguments.share("pct_start", self.pct_start)?;
        arguments.below_one("base_momentum", self.base_momentum)?;
        arguments.below_one("max_momentum", self.max_momentum)?;
        arguments.divisor("div_factor", self.div_factor, self.max_lr)?;
        arguments.divisor("final_div_factor", self.final_div_factor, self.max_lr / self.div_factor)
    }

    fn lr(&self, step: u64, _base: f64) -> f64 {
        self.value(step, |phase| phase.lr)
    }

    fn momentum(&self, step: u64) -> Option<f64> {
        self.cycle_momentum.then(|| self.value(step, |phase| phase.momentum))
    }
}
