//! What PyTorch's `state_dict()` of an optimizer holds, and which of our rules it is of.
//!
//! Source: PyTorch 2.15, `torch/optim/optimizer.py` (`state_dict`, `load_state_dict`), `adam.py`, `rmsprop.py`.

use crate::roster::Roster;
use crate::rule::Rule;

/// The key in the metadata that says what a file is.
pub(super) const GROUPS: &str = "param_groups";
pub(super) const CLASS: &str = "optimizer";
pub(super) const STEP: &str = "step";
/// The first whole number that PyTorch's step count, an F32, cannot tell from its neighbour.
pub(super) const INEXACT: u64 = 1 << 24;

/// An optimizer of PyTorch's.
#[derive(Debug)]
pub(super) struct Class {
    pub name: &'static str,
    pub rule: &'static str,
    /// The preset that it is, as [`Rule::PRESETS`] calls it.
    pub preset: &'static str,
    /// What its groups hold that decides how a step is made.
    pub keys: &'static [&'static str],
}

pub(super) const CLASSES: [Class; 3] = [
    Class { name: "Adam", rule: "adam", preset: "adam", keys: ADAM },
    Class { name: "AdamW", rule: "adam", preset: "adamw", keys: ADAM },
    Class { name: "RMSprop", rule: "rmsprop", preset: "rmsprop", keys: RMSPROP },
];
const ADAM: &[&str] = &["lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay"];
const RMSPROP: &[&str] = &["lr", "momentum", "alpha", "eps", "centered", "weight_decay", "maximize"];
/// Keys that every file has; PyTorch sets others itself where an older version did not write them.
pub(super) const ALWAYS: [&str; 6] = ["lr", "betas", "alpha", "eps", "weight_decay", "momentum"];
/// How a step is executed, not what it computes, and what it is called.
pub(super) const EXECUTION: [&str; 6] = ["params", "param_names", "foreach", "fused", "capturable", "differentiable"];
/// What schedulers leave behind. A schedule is none of the optimizer's.
pub(super) const SCHEDULE: [&str; 5] = ["initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"];

/// The numbers of the tensors of each group, in order.
pub(super) fn by_group<R: Rule>(roster: &Roster<R>) -> Vec<Vec<usize>> {
    let mut groups = vec![Vec::new(); roster.groups().len()];
    for (tensor, member) in roster.members().iter().enumerate() {
        groups[member.group].push(tensor);
    }
    groups
}
