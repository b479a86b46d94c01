//! PyTorch's triangles, which bring an lr of their own and move the momentum against it.

use super::arguments::{Arguments, arguments, choice};
use super::{Curve, power};
use crate::Error;

arguments! {
    /// `torch.optim.lr_scheduler.CyclicLR`: straight up from `base_lr` to `max_lr` in `step_size_up` steps, down again
    /// in `step_size_down`, for ever, and the momentum the other way. The group's own lr is not looked at.
    ///
    /// The swing of cycle `c` (from 0) at step `t` is scaled by 1, `2^-c` or `gamma^t`, as `mode` has it.
    pub struct Cyclic {
        /// The lowest lr, `>= 0`.
        base_lr: f64,
        /// The highest lr, `>= base_lr`.
        max_lr: f64,
        ..
        /// Steps up, at least 1.
        step_size_up: u64 = 2000,
        /// Steps down; as many as up if not given. 0 falls at once.
        step_size_down: Option<u64> = None,
        /// How the swing shrinks.
        mode: Mode = Mode::Triangular,
        /// In `[0, 1]`, for `exp_range` alone. Above 1, which PyTorch takes, the lr would leave `max_lr` behind and
        /// the momentum would go below 0.
        gamma: f64 = 1.0,
        /// Whether beta1 (Adam) or momentum (RMSprop) moves too.
        cycle_momentum: bool = true,
        /// The momentum at `max_lr`, in `[0, max_momentum]`.
        base_momentum: f64 = 0.8,
        /// The momentum at `base_lr`, in `[0, 1)`.
        max_momentum: f64 = 0.9,
    }
}

choice! {
    /// How the swing of [`Cyclic`] shrinks.
    pub enum Mode {
        /// Not at all.
        Triangular = "triangular",
        /// By half at each cycle.
        Triangular2 = "triangular2",
        /// By `gamma` at each step.
        ExpRange = "exp_range",
    }
}

impl Cyclic {
    /// Where between low (0) and high (1) the step is.
    fn height(&self, step: u64) -> f64 {
        let up = u128::from(self.step_size_up.max(1));
        let down = self.step_size_down.map_or(up, u128::from);
        let (cycle, within) = (u128::from(step) / (up + down), u128::from(step) % (up + down));
        let height = if within <= up { within as f64 / up as f64 } else { (up + down - within) as f64 / down as f64 };
        height
            * match self.mode {
                Mode::Triangular => 1.0,
                Mode::Triangular2 => power(0.5, cycle as f64),
                Mode::ExpRange => power(self.gamma, step as f64),
            }
    }
}

impl Curve for Cyclic {
    fn check(&self, arguments: Arguments) -> Result<(), Error> {
        arguments.not_negative("base_lr", self.base_lr)?;
        arguments.not_negative("max_lr", self.max_lr)?;
        arguments.at_least("max_lr", self.max_lr, ("base_lr", self.base_lr))?;
        arguments.steps("step_size_up", self.step_size_up)?;
        arguments.share("gamma", self.gamma)?;
        arguments.below_one("base_momentum", self.base_momentum)?;
        arguments.below_one("max_momentum", self.max_momentum)?;
        arguments.at_least("max_momentum", self.max_momentum, ("base_momentum", self.base_momentum))
    }

    fn lr(&self, step: u64, _base: f64) -> f64 {
        self.base_lr + (self.max_lr - self.base_lr) * self.height(step)
    }

    fn momentum(&self, step: u64) -> Option<f64> {
        let swing = self.max_momentum - self.base_momentum;
        self.cycle_momentum.then(|| self.max_momentum - swing * self.height(step))
    }
}
