//! Where the rows of a tensor come from when some are added, dropped or put in another order.

use crate::Error;

/// The mark of a row that comes from no other.
pub const FRESH: u32 = u32::MAX;

/// For each row that is to be, the row of now that it comes from, or [`FRESH`].
///
/// A row may come to several places, as a splat that is split in two does; one that comes to none is dropped.
///
/// ```
/// use wgpu_optim::map::{FRESH, Map};
///
/// assert_eq!(Map::append(2, 1), Map::new([0, 1, FRESH]));
/// assert_eq!(Map::drop(4, [1, 2]), Map::new([0, 3]));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map(Vec<u32>);

impl Map {
    /// These rows, in this order: a permutation, where each is there once.
    pub fn new(rows: impl Into<Vec<u32>>) -> Self {
        Self(rows.into())
    }

    /// All `rows` rows, and `more` fresh ones behind them.
    pub fn append(rows: u32, more: u32) -> Self {
        Self((0..rows).chain((0..more).map(|_| FRESH)).collect())
    }

    /// All `rows` rows but these, in the order in which they are.
    pub fn drop(rows: u32, dropped: impl IntoIterator<Item = u32>) -> Self {
        let dropped: std::collections::HashSet<u32> = dropped.into_iter().collect();
        Self((0..rows).filter(|row| !dropped.contains(row)).collect())
    }

    /// The row that each row comes from.
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }

    /// Refuses a map that is not one from so many rows to so many others.
    pub(crate) fn check(&self, name: &str, rows: u64, expected: u64) -> Result<(), Error> {
        let found = self.0.len() as u64;
        if found != expected {
            return Err(Error::Map { name: name.into(), found, expected });
        }
        let gone = |(_, from): &(usize, &u32)| **from != FRESH && u64::from(**from) >= rows;
        match self.0.iter().enumerate().find(gone) {
            Some((row, &from)) => Err(Error::MapRow { name: name.into(), row: row as u64, from, rows }),
            None => Ok(()),
        }
    }
}
