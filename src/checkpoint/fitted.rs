//! What is wanted of a file, and what is then to be done to an optimizer.

use super::Report;
use super::cast::Array;
use crate::chain::Chain;
use crate::chain::control::Control;
use crate::format::Storage;
use crate::roster::{Count, Roster};
use crate::rule::Rule;
use crate::schedule::Schedule;

/// What is wanted of a file.
pub(crate) struct Request<'a> {
    pub params: bool,
    pub extras: &'a [&'a str],
    pub retune: bool,
    /// What may be cast to the optimizer's format: slots by name, and `params`.
    pub cast: &'a [&'a str],
    /// What fits is taken, what does not is told.
    pub partial: bool,
    /// The highest step count that there is room for.
    pub most: u64,
}

/// What is to be done to an optimizer that a file fits.
pub(crate) struct Fitted<R> {
    pub moves: Vec<Move>,
    pub counts: Vec<Count>,
    pub settings: Vec<(usize, R, Option<Schedule>)>,
    pub chain: Option<Chain>,
    /// How many steps there were, of whatever tensors.
    pub recorded: Option<u64>,
    pub control: Option<Control>,
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
    /// The scales of such a slot's blocks.
    Scales(usize),
    Params,
}

/// What it is filled with.
pub(crate) enum From {
    /// An entry of the file, by its number, as it is.
    Entry(usize),
    /// These numbers, in the array's format.
    Made(Numbers, Array),
}

/// Numbers in no format yet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Numbers {
    /// What the rule starts from, everywhere.
    Initial(f32),
    /// Those of an entry that are stored so, with the entry of the scales of its blocks.
    Stored { entry: usize, scales: Option<usize>, storage: Storage },
}

impl<R: Rule> Fitted<R> {
    /// The roster as it will be, to be put in place when all data are where they belong.
    pub fn settled(&self, roster: &Roster<R>) -> Result<Roster<R>, crate::Error> {
        let mut roster = roster.clone();
        for (group, settings, schedule) in &self.settings {
            roster.set_schedule(*group, None)?;
            roster.retune(*group, settings.clone())?;
            roster.set_schedule(*group, schedule.clone())?;
        }
        if let Some(chain) = &self.chain {
            roster.retune_chain(chain.clone())?;
        }
        if let Some(recorded) = self.recorded {
            roster.set_recorded(recorded);
        }
        roster.restore(&self.counts);
        Ok(roster)
    }
}
