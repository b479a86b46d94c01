//! What is wanted of a file, and what is then to be done to an optimizer.

use super::Report;
use crate::roster::Roster;
use crate::rule::Rule;

/// What is wanted of a file.
pub(crate) struct Request<'a> {
    pub params: bool,
    pub extras: &'a [&'a str],
    pub retune: bool,
    /// What fits is taken, what does not is told.
    pub partial: bool,
}

/// What is to be done to an optimizer that a file fits.
pub(crate) struct Fitted<R> {
    pub moves: Vec<Move>,
    /// Tensor, step count, and whether it is frozen.
    pub counts: Vec<(usize, u64, Option<bool>)>,
    pub settings: Vec<(usize, R)>,
    pub report: Report,
}

/// One array to be filled.
pub(crate) struct Move {
    pub tensor: usize,
    pub plane: Plane,
    pub from: From,
}

/// Which array of a tensor: a slot by its number among those that are kept.
#[derive(Clone, Copy)]
pub(crate) enum Plane {
    Slot(usize),
    Params,
}

/// What it is filled with.
pub(crate) enum From {
    /// An entry of the file, by its number.
    Entry(usize),
    /// What the rule starts from.
    Initial(f32),
}

impl<R: Rule> Fitted<R> {
    /// The last act, when all data are where they belong.
    pub fn settle(self, roster: &mut Roster<R>) -> Result<Report, crate::Error> {
        for (group, settings) in self.settings {
            roster.retune(group, settings)?;
        }
        roster.restore(&self.counts);
        Ok(self.report)
    }
}
