//! Which tensors may share a window.

use crate::format::Storage;

/// What keeps tensors out of each other's windows: other slots, other widths, and a word of chance for each.
#[derive(Debug, Default)]
pub(crate) struct Kinds(Vec<(usize, Vec<Storage>, bool)>);

impl Kinds {
    /// The number of a kind, new or not.
    pub fn number(&mut self, structure: usize, planes: &[Storage], chance: bool) -> usize {
        let known = |kind: &(usize, Vec<Storage>, bool)| (kind.0, &kind.1[..], kind.2) == (structure, planes, chance);
        if let Some(number) = self.0.iter().position(known) {
            return number;
        }
        self.0.push((structure, planes.to_vec(), chance));
        self.0.len() - 1
    }
}
