//! Learning-rate schedules, worked out on the host in `f64`: what lr, and for two kinds what momentum, each step uses.
//!
//! A [`Schedule`] is plain data. [`Schedule::at`] answers for any step by a closed form and remembers nothing, so a
//! run that goes on from step k needs nothing but k. Answers are PyTorch's, Keras's and optax's to 1e-12 of the value:
//! `tests/schedules` replays 74 sequences that these frameworks gave in `f64`. ([`Cosine`] past its end is the
//! exception that is told there.)
//!
//! ```
//! use wgpu_optim::schedule::{Base, Cosine, Linear, Schedule};
//!
//! // 5 steps of warm-up, then a cosine over 55.
//! let warmup = Linear { start_factor: 0.1, ..Linear::default() };
//! let schedule = Schedule::from(warmup).then(5, Cosine::new(55));
//! schedule.check()?;
//! let base = Base { lr: 0.01, momentum: None };
//! assert_eq!(schedule.at(0, base).lr, 0.001);
//! assert_eq!(schedule.at(5, base).lr, 0.01);
//! # Ok::<(), wgpu_optim::Error>(())
//! ```
//!
//! # Kinds
//!
//! `t` is the 0-based step, `base` the group's own lr. Arguments have the names of the source, in snake case, and its
//! defaults. Sources: PyTorch 2.15 `torch/optim/lr_scheduler.py`, transformers `optimization.py`, Keras 3.15
//! `keras/src/optimizers/schedules/learning_rate_schedule.py`, optax 0.2.8 `optax/schedules/_schedule.py`.
//! `cos01(x)` is `(1 + cos(pi * x)) / 2`, which falls from 1 to 0.
//!
//! | kind | lr | source |
//! |---|---|---|
//! | [`constant`](Constant) | `base * factor` before `total_iters`, then `base` | `ConstantLR` |
//! | [`linear`](Linear) | `base * (start_factor + (end_factor - start_factor) * min(t / total_iters, 1))` | `LinearLR` |
//! | [`cosine`](Cosine) | `eta_min + (base - eta_min) * cos01(t / t_max)` | `CosineAnnealingLR` |
//! | [`cosine_warm_restarts`](CosineWarmRestarts) | the same, within rounds of `t_0 * t_mult^i` steps | `CosineAnnealingWarmRestarts` |
//! | [`step`](Step) | `base * gamma^floor(t / step_size)` | `StepLR` |
//! | [`multi_step`](MultiStep) | `base * gamma^(milestones passed)` | `MultiStepLR` |
//! | [`exponential`](Exponential) | `base * gamma^t` | `ExponentialLR` |
//! | [`polynomial`](Polynomial) | `base * (1 - min(t / total_iters, 1))^power` | `PolynomialLR` |
//! | [`one_cycle`](OneCycle) | `max_lr / div_factor`, up to `max_lr`, down to `max_lr / div_factor / final_div_factor` | `OneCycleLR` |
//! | [`cyclic`](Cyclic) | a triangle between `base_lr` and `max_lr` | `CyclicLR` |
//! | [`warmup_stable_decay`](WarmupStableDecay) | `base` times a trapezoid | transformers `get_wsd_schedule` |
//! | [`keras_cosine_decay`](KerasCosineDecay) | a line to `warmup_target`, then `cos01` down to `alpha` of it | Keras `CosineDecay` |
//! | [`keras_exponential_decay`](KerasExponentialDecay) | `initial_learning_rate * decay_rate^(t / decay_steps)` | Keras `ExponentialDecay` |
//! | [`keras_inverse_time_decay`](KerasInverseTimeDecay) | `initial_learning_rate / (1 + decay_rate * t / decay_steps)` | Keras `InverseTimeDecay` |
//! | [`optax_cosine_decay`](OptaxCosineDecay) | `init_value * ((1 - alpha) * cos01(t / decay_steps)^exponent + alpha)` | `optax.cosine_decay_schedule` |
//! | [`optax_exponential_decay`](OptaxExponentialDecay) | `init_value * decay_rate^((t - transition_begin) / transition_steps)` | `optax.exponential_decay` |
//! | [`optax_warmup_cosine_decay`](OptaxWarmupCosineDecay) | a line to `peak_value`, then `cos01` to `end_value` | `optax.warmup_cosine_decay_schedule` |
//! | [`optax_cosine_onecycle`](OptaxCosineOnecycle) | `cos01` up to `peak_value`, then down | `optax.cosine_onecycle_schedule` |
//!
//! `one_cycle`, `cyclic` and all of Keras's and optax's bring their own lr and do not look at `base`. `one_cycle` and
//! `cyclic` also move the momentum (beta1 in Adam) against the lr, unless `cycle_momentum` is false.
//!
//! PyTorch's `ReduceLROnPlateau` wants a metric, which is not known when a step is recorded; it is [`Plateau`], beside
//! these. `LambdaLR` and `MultiplicativeLR` are code: call the optimizer's `retune` with what yours answers.
//!
//! # In files
//!
//! With feature `serde` a schedule is a table with its `kind` and arguments; `[[schedule.then]]` tables follow, each
//! with the step `at` which it takes over. Unknown kinds and keys are refused, and what they could be is named.
//!
//! ```toml
//! [schedule]
//! kind = "linear"
//! start_factor = 0.1
//!
//! [[schedule.then]]
//! at = 5
//! kind = "cosine"
//! t_max = 55
//! ```

mod arguments;
mod cosine;
mod cyclic;
mod factor;
mod keras;
mod one_cycle;
mod optax;
mod plateau;
mod stable;

pub use cosine::{Cosine, CosineWarmRestarts};
pub use cyclic::{Cyclic, Mode};
pub use factor::{Constant, Exponential, Linear, MultiStep, Polynomial, Step};
pub use keras::{KerasCosineDecay, KerasExponentialDecay, KerasInverseTimeDecay};
pub use one_cycle::{AnnealStrategy, OneCycle};
pub use optax::{OptaxCosineDecay, OptaxCosineOnecycle, OptaxExponentialDecay, OptaxWarmupCosineDecay};
pub use plateau::{Plateau, PlateauMode, ThresholdMode};
pub use stable::{Ramp, WarmupStableDecay};

use arguments::Arguments;

use crate::Error;

/// A schedule: a kind, and the kinds that take over from it. The module's docs list them.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Schedule {
    /// What begins, at step 0.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub first: Kind,
    /// What follows, in order.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Vec::is_empty"))]
    pub then: Vec<Then>,
}

/// A part of a [`Schedule`] that takes over from the one before it.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Then {
    /// The step at which it takes over, counted from the start of training. It is the part's own step 0.
    pub at: u64,
    /// What takes over.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub kind: Kind,
}

/// What a schedule starts from: the settings of the group that it is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Base {
    /// The group's own lr, `>= 0`.
    pub lr: f64,
    /// The group's own beta1 (Adam) or momentum (RMSprop), if its rule has one.
    pub momentum: Option<f64>,
}

/// What one step uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The learning rate.
    pub lr: f64,
    /// The beta1 or momentum: what a part with `cycle_momentum` says, else the base's.
    pub momentum: Option<f64>,
}

impl Schedule {
    /// Lets another schedule take over at step `at`, counted from the start of this one, as PyTorch's `SequentialLR`
    /// does with `at` as its milestone. The other one starts at its own step 0, from the group's own lr.
    ///
    /// A part that brings its own lr leaves the others' alone. (In PyTorch it overwrites the `initial_lr` that
    /// schedulers made after it start from.)
    #[must_use]
    pub fn then(mut self, at: u64, next: impl Into<Schedule>) -> Self {
        let next = next.into();
        self.then.push(Then { at, kind: next.first });
        self.then.extend(next.then.into_iter().map(|part| Then { at: at.saturating_add(part.at), kind: part.kind }));
        self
    }

    /// What update number `step` uses, from 0: PyTorch's values after `step` calls of `scheduler.step()`.
    ///
    /// Any step up to `u64::MAX` has an answer: no panic, and for arguments that [`check`](Schedule::check) takes and
    /// a finite `base.lr >= 0`, no NaN and no lr below 0 or above `f64::MAX`. What a kind does past its end is told
    /// with that kind. A part that leaves the momentum alone goes on with what the part before it used last, as in
    /// PyTorch; where no part has touched it, it is `base.momentum`.
    ///
    /// Cost: one or two evaluations of a formula, tens of nanoseconds.
    pub fn at(&self, step: u64, base: Base) -> Point {
        let active = self.then.partition_point(|part| part.at <= step);
        let (start, kind) = self.part(active);
        let lr = kind.curve().lr(step.saturating_sub(start), base.lr);
        Point { lr: lr.clamp(0.0, f64::MAX), momentum: self.momentum(active, step).or(base.momentum) }
    }

    /// Whether any part moves the momentum, which an optimizer without one cannot follow.
    pub fn cycles_momentum(&self) -> bool {
        self.kinds().any(|kind| kind.curve().momentum(0).is_some())
    }

    /// Refuses arguments that the kind has no meaning for, and parts that do not follow each other.
    ///
    /// # Errors
    ///
    /// [`Error::Schedule`], which names the kind, the argument, what it is and what was expected.
    pub fn check(&self) -> Result<(), Error> {
        self.kinds().try_for_each(|kind| kind.curve().check(Arguments(kind.name())))?;
        let mut before = 0;
        for part in &self.then {
            let expected = || format!("a step after {before}, where the part before it starts");
            Arguments(part.kind.name()).require(part.at > before, "at", part.at, expected)?;
            before = part.at;
        }
        Ok(())
    }

    fn kinds(&self) -> impl Iterator<Item = &Kind> {
        std::iter::once(&self.first).chain(self.then.iter().map(|part| &part.kind))
    }

    /// The step at which a part starts, and the part.
    fn part(&self, index: usize) -> (u64, &Kind) {
        match index.checked_sub(1) {
            None => (0, &self.first),
            Some(index) => (self.then[index].at, &self.then[index].kind),
        }
    }

    fn momentum(&self, active: usize, step: u64) -> Option<f64> {
        let mut last = step;
        (0..=active).rev().find_map(|index| {
            let (start, kind) = self.part(index);
            let momentum = kind.curve().momentum(last.saturating_sub(start));
            last = start.saturating_sub(1);
            momentum
        })
    }
}

/// Lists the kinds, each with the name that files use.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// The kinds of schedules, each with its arguments.
        #[derive(Clone, Debug, PartialEq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(tag = "kind"))]
        #[allow(missing_docs, reason = "each holds the arguments of its name")]
        pub enum Kind {
            $(#[cfg_attr(feature = "serde", serde(rename = $name))] $kind($kind),)*
        }

        impl Kind {
            /// The names of all kinds, as files have them.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// The name that files use: `one_cycle`.
            pub fn name(&self) -> &'static str {
                match self { $(Kind::$kind(_) => $name,)* }
            }

            fn curve(&self) -> &dyn Curve {
                match self { $(Kind::$kind(arguments) => arguments,)* }
            }
        }

        $(impl From<$kind> for Kind {
            fn from(arguments: $kind) -> Self {
                Kind::$kind(arguments)
            }
        }

        impl From<$kind> for Schedule {
            fn from(arguments: $kind) -> Self {
                Schedule { first: Kind::$kind(arguments), then: Vec::new() }
            }
        })*
    };
}

kinds! {
    Constant = "constant",
    Linear = "linear",
    Cosine = "cosine",
    CosineWarmRestarts = "cosine_warm_restarts",
    Step = "step",
    MultiStep = "multi_step",
    Exponential = "exponential",
    Polynomial = "polynomial",
    OneCycle = "one_cycle",
    Cyclic = "cyclic",
    WarmupStableDecay = "warmup_stable_decay",
    KerasCosineDecay = "keras_cosine_decay",
    KerasExponentialDecay = "keras_exponential_decay",
    KerasInverseTimeDecay = "keras_inverse_time_decay",
    OptaxCosineDecay = "optax_cosine_decay",
    OptaxExponentialDecay = "optax_exponential_decay",
    OptaxWarmupCosineDecay = "optax_warmup_cosine_decay",
    OptaxCosineOnecycle = "optax_cosine_onecycle",
}

/// One kind's formula. Only what `check` takes need mean anything, but nothing may panic.
trait Curve {
    fn check(&self, arguments: Arguments) -> Result<(), Error>;

    fn lr(&self, step: u64, base: f64) -> f64;

    /// The momentum, of a kind that moves it.
    fn momentum(&self, _step: u64) -> Option<f64> {
        None
    }
}

/// `x^n` for `x >= 0`, at most the largest `f64`: an infinite factor would make NaN of an lr of 0.
fn power(x: f64, n: f64) -> f64 {
    x.powf(n).clamp(0.0, f64::MAX)
}

/// How many periods have passed: whole ones alone, for a staircase.
fn periods(step: u64, period: u64, staircase: bool) -> f64 {
    if staircase { (step / period.max(1)) as f64 } else { step as f64 / period as f64 }
}

/// From 1 at 0 down to 0 at pi. The terms stand as PyTorch has them: near the end, where they cancel, its rounding
/// shows.
fn half_cosine(angle: f64) -> f64 {
    (1.0 + angle.cos()) / 2.0
}
