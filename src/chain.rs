//! What happens around a rule's update: to the gradient before it, to the parameter after it.
//!
//! ```text
//! gradient -> non-finite check -> unscale -> clip -> update -> clamp -> average -> zero the gradient
//! ```
//!
//! The chain knows no rule, and no rule knows the chain. Everything in it that needs a decision (was there an
//! infinity, how long is the gradient) is decided where the step runs: on the GPU without a byte read back.

pub mod control;
pub mod gate;
#[cfg(feature = "serde")]
mod table;

use crate::Error;
use crate::rule::{Range, words};

/// The name of the chain in messages.
const NAME: &str = "chain";

/// The parts of the chain; the default has none of them, and costs nothing.
///
/// With feature `serde` it is a table of tables, one for each part that is on. Keys that are not known are refused;
/// ranges are for [`check`](Chain::check).
///
/// ```toml
/// accumulate = true      # zero_grads too; false by default
///
/// [clip]                 # one of global_norm, group_norm, tensor_norm, value
/// global_norm = 1.0
/// norm = "l2"            # "inf"
/// form = "pytorch"       # "keras", "optax"; by default that of Clip's constructors
///
/// [scaler]               # the rest is Scaler::PYTORCH's
/// init_scale = 1024.0
///
/// [clamp]
/// min = -1.0
/// max = 1.0
///
/// [ema]
/// decay = 0.99
/// overwrite_every = 100  # 0 by default
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Chain {
    /// Hold the gradient to a length.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub clip: Option<Clip>,
    /// Gradients come scaled; steps with a gradient that is not finite are skipped.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub scaler: Option<Scaler>,
    /// Hold parameters to a range, after the update.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub clamp: Option<Clamp>,
    /// Keep a running average of the parameters, in the slot `ema`.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub ema: Option<Ema>,
    /// Gradients are summed up by `accumulate`, in the slot `accumulated_grad`, and the step takes the sum.
    pub accumulate: bool,
    /// Leave zeros where the gradient was, in the same pass: also where the step is skipped.
    pub zero_grads: bool,
}

/// The slot of the running average.
pub const EMA: &str = "ema";
/// The slot of the summed gradients.
pub const ACCUMULATED: &str = "accumulated_grad";

impl Chain {
    /// Whether anything is done at all.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether something must be known of all gradients before the first of them is used.
    pub(crate) fn measures(&self) -> bool {
        self.scaler.is_some() || self.clip.as_ref().is_some_and(|clip| clip.over != Over::Value)
    }

    /// The norm that must be taken of gradients, and over what; where there is a scaler alone, to find what is not
    /// finite.
    pub(crate) fn measured(&self) -> (Norm, Over) {
        let clip = self.clip.as_ref().filter(|clip| clip.over != Over::Value);
        clip.map_or((Norm::L2, Over::All), |clip| (clip.norm, clip.over))
    }

    /// The most that the magnitude of an element may be.
    pub(crate) fn limit(&self) -> Option<f64> {
        self.clip.as_ref().filter(|clip| clip.over == Over::Value).map(|clip| clip.max)
    }

    /// The slots that it keeps beside the rule's, in the order of their planes.
    pub fn slots(&self) -> Vec<&'static str> {
        let kept = [(EMA, self.ema.is_some()), (ACCUMULATED, self.accumulate)];
        kept.into_iter().filter(|(_, kept)| *kept).map(|(slot, _)| slot).collect()
    }

    /// Refuses settings outside their ranges.
    ///
    /// # Errors
    /// [`Error::Setting`] with the first that is.
    pub fn check(&self) -> Result<(), Error> {
        if let Some(clip) = &self.clip {
            clip.check()?;
        }
        if let Some(scaler) = &self.scaler {
            scaler.check()?;
        }
        if let Some(clamp) = &self.clamp {
            clamp.check()?;
        }
        self.ema.as_ref().map_or(Ok(()), Ema::check)
    }

    /// Refuses another chain where it would need other state, or other bookkeeping, than this one.
    pub(crate) fn check_retuned(&self, to: &Self) -> Result<(), Error> {
        match self.changed_structure(to).next() {
            Some((part, from, to)) => Err(Error::Chain { part, from, to }),
            None => Ok(()),
        }
    }

    /// The parts that need other state or other bookkeeping in another chain, with what they are here and there.
    pub(crate) fn changed_structure(
        &self,
        to: &Self,
    ) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        // A scaler measures anyway, so that a clip by value may become one by norm, and back.
        let measured = |chain: &Self| chain.scaler.is_some() && chain.clip.is_some();
        let free = measured(self) && measured(to);
        let parts = self.structure().into_iter().zip(to.structure());
        let changed = parts.filter(move |((part, from), (_, to))| from != to && !(free && *part == "clip"));
        changed.map(|((part, from), (_, to))| (part, from, to))
    }

    fn structure(&self) -> [(&'static str, &'static str); 4] {
        [
            ("ema", on(self.ema.is_some())),
            ("accumulate", on(self.accumulate)),
            ("scaler", on(self.scaler.is_some())),
            ("clip", self.kind_of_clip()),
        ]
    }

    /// A clip by a norm measures, which one by value does not.
    fn kind_of_clip(&self) -> &'static str {
        match &self.clip {
            None => "off",
            Some(clip) if clip.over == Over::Value => "by value",
            Some(_) => "by norm",
        }
    }
}

fn on(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

words! {
    /// What a clip looks at together.
    pub enum Over {
        /// Each element by itself: `torch.nn.utils.clip_grad_value_`, Keras's `clipvalue`, `optax.clip`.
        Value = "value",
        /// The norm of each tensor: Keras's `clipnorm`.
        Tensor = "tensor",
        /// The norm of each group: `clip_grad_norm_` called once for each.
        Group = "group",
        /// The norm of all gradients: `torch.nn.utils.clip_grad_norm_`, Keras's `global_clipnorm`,
        /// `optax.clip_by_global_norm`.
        All = "all",
    }
}

words! {
    /// Which norm.
    pub enum Norm {
        /// The root of the sum of squares.
        L2 = "l2",
        /// The largest magnitude.
        Inf = "inf",
    }
}

words! {
    /// How a norm becomes a factor.
    pub enum ClipForm {
        /// `min(1, max / (norm + 1e-6))`. Source: PyTorch 2.15, `torch/nn/utils/clip_grad.py`.
        PyTorch = "pytorch",
        /// `max * min(1 / norm, 1 / max)`. Source: Keras 3.15, `optimizers/base_optimizer.py`.
        Keras = "keras",
        /// `1` below `max`, else `max / norm`. Source: optax 0.2.8, `clip_by_global_norm`. In real numbers it is
        /// Keras's.
        Optax = "optax",
    }
}

/// Holds gradients to a length, before weight decay is added to them.
///
/// Where a gradient is not finite, and no [`Scaler`] leaves the step out, its norm is infinite and nothing is left of
/// those that are finite, as in PyTorch for an infinity. (A NaN makes every gradient NaN in PyTorch, and an
/// infinity, too, in Keras.)
///
/// Cost: a norm reads each gradient once more (4 bytes an element); a value costs nothing.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "table::ClipTable", into = "table::ClipTable"))]
pub struct Clip {
    /// The most that a norm, or the magnitude of an element, may be, `> 0`.
    pub max: f64,
    /// Of what.
    pub over: Over,
    /// Which norm; means nothing for [`Over::Value`].
    pub norm: Norm,
    /// How the norm becomes a factor; means nothing for [`Over::Value`].
    pub form: ClipForm,
}

impl Clip {
    /// `clip_grad_norm_(parameters, max_norm)`, over everything.
    pub const fn global_norm(max: f64) -> Self {
        Self { max, over: Over::All, norm: Norm::L2, form: ClipForm::PyTorch }
    }

    /// `clip_grad_norm_` called for each group by itself.
    pub const fn group_norm(max: f64) -> Self {
        Self { over: Over::Group, ..Self::global_norm(max) }
    }

    /// Keras's `clipnorm`: each tensor by its own norm. Each is then a dispatch of its own.
    pub const fn tensor_norm(max: f64) -> Self {
        Self { max, over: Over::Tensor, norm: Norm::L2, form: ClipForm::Keras }
    }

    /// `clip_grad_value_(parameters, max)`.
    pub const fn value(max: f64) -> Self {
        Self { over: Over::Value, ..Self::global_norm(max) }
    }

    /// What is added to the norm before it is divided by.
    pub(crate) fn eps(&self) -> f64 {
        match self.form {
            ClipForm::PyTorch => 1e-6,
            ClipForm::Keras | ClipForm::Optax => 0.0,
        }
    }

    fn check(&self) -> Result<(), Error> {
        Range(NAME).positive("clip.max", self.max)
    }
}

/// Dynamic loss scaling, as `torch.amp.GradScaler`.
///
/// The caller's loss is multiplied by the scale, which lies on the device for that. The step divides gradients by it,
/// and is skipped as a whole where one of them is not finite: parameters, every slot and every step count stay what
/// they were, and the scale backs off, unless it would leave f32's normal numbers, whose inverses are finite.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Scaler {
    /// The first scale, `> 0`.
    pub init_scale: f64,
    /// What the scale is multiplied by after `growth_interval` clean steps, `>= 1`. A scale that would become infinite
    /// stays.
    pub growth_factor: f64,
    /// What the scale is multiplied by after a step that was skipped, in `(0, 1]`.
    pub backoff_factor: f64,
    /// Clean steps in a row before the scale grows, `> 0`.
    pub growth_interval: u32,
}

impl Scaler {
    /// `torch.amp.GradScaler`'s defaults. Source: PyTorch 2.15, `torch/amp/grad_scaler.py`.
    pub const PYTORCH: Self =
        Self { init_scale: 65_536.0, growth_factor: 2.0, backoff_factor: 0.5, growth_interval: 2000 };

    fn check(&self) -> Result<(), Error> {
        let range = Range(NAME);
        range.positive("scaler.init_scale", self.init_scale)?;
        range.between("scaler.growth_factor", self.growth_factor, 1.0, f64::from(f32::MAX))?;
        range.positive("scaler.backoff_factor", self.backoff_factor)?;
        range.between("scaler.backoff_factor", self.backoff_factor, 0.0, 1.0)?;
        range.positive("scaler.growth_interval", self.growth_interval.into())
    }
}

impl Default for Scaler {
    fn default() -> Self {
        Self::PYTORCH
    }
}

/// A range for parameters: those outside are set to its nearer end after the update.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Clamp {
    /// The least.
    pub min: f64,
    /// The most, `>= min`.
    pub max: f64,
}

impl Clamp {
    fn check(&self) -> Result<(), Error> {
        let most = f64::from(f32::MAX);
        Range(NAME).between("clamp.min", self.min, -most, most)?;
        Range(NAME).between("clamp.max", self.max, self.min, most)
    }
}

/// A running average of the parameters: `ema = decay * ema + (1 - decay) * p` after each step, and `ema = p` after the
/// first. Source: Keras 3.15, `optimizers/base_optimizer.py` (`use_ema`).
///
/// Cost: 8 bytes an element.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Ema {
    /// The share of the average that stays, in `[0, 1)`; Keras's `ema_momentum`, 0.99 there.
    pub decay: f64,
    /// Set the parameters to the average after every so many steps; 0 is never. Keras's `ema_overwrite_frequency`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub overwrite_every: u32,
}

impl Ema {
    /// Keras's defaults.
    pub const KERAS: Self = Self { decay: 0.99, overwrite_every: 0 };

    fn check(&self) -> Result<(), Error> {
        Range(NAME).share("ema.decay", self.decay)
    }

    /// The share that stays in the step that is a tensor's `step`th: the first takes the parameters as they are.
    pub(crate) fn keep(&self, step: u64) -> f64 {
        if step > 1 { self.decay } else { 0.0 }
    }

    /// Whether that step ends with the average in the parameters.
    pub(crate) fn overwrites(&self, step: u64) -> bool {
        self.overwrite_every > 0 && step.is_multiple_of(self.overwrite_every.into())
    }
}
