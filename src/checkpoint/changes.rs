//! Settings of a file beside those of an optimizer.

use super::Disagreement;
use crate::rule::{Rule, Value};

/// A setting, its value in a file, and in an optimizer.
pub(super) type Change = (&'static str, Value, Value);

/// The settings in which two differ.
pub(super) fn changes<R: Rule>(theirs: &R, ours: &R) -> Vec<Change> {
    let pairs = theirs.settings().into_iter().zip(ours.settings());
    pairs.map(|((setting, theirs), (_, ours))| (setting, theirs, ours)).filter(|(_, a, b)| a != b).collect()
}

/// The settings of structure in which two differ. What only one of them has hangs on another that differs.
pub(super) fn changed_structure<R: Rule>(theirs: &R, ours: &R) -> Vec<Change> {
    let ours = ours.structure();
    let both = theirs.structure().into_iter().filter_map(|(setting, theirs)| {
        let (_, ours) = ours.iter().find(|(name, _)| *name == setting)?;
        Some((setting, theirs, ours.clone()))
    });
    both.filter(|(_, theirs, ours)| theirs != ours).collect()
}

/// The same as disagreements of a group.
pub(super) fn tell(group: usize, changes: Vec<Change>) -> impl Iterator<Item = Disagreement> {
    changes.into_iter().map(move |(setting, file, optimizer)| {
        let (file, optimizer) = (file.to_string(), optimizer.to_string());
        Disagreement::Setting { group, setting, file, optimizer }
    })
}
