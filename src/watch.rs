//! What is told of a step besides what it does: what was asked for, and what parameters were moved by.

use crate::wgsl::Real;

/// Bytes of what a decision tells of a step: `struct Report` of `control.wgsl`.
pub(crate) const REPORT: u64 = 32;
/// Bytes of what is told of its update: the sums of `moves.wgsl`.
pub(crate) const MOVED: u64 = 16;
/// Bytes of one reading.
pub(crate) const READING: u64 = REPORT + MOVED;

/// What a device is to tell of its steps. A number stands for that depth, and no updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Readings that are under way at once, at most; 0 watches nothing. A step that finds none free is not told of.
    pub depth: usize,
    /// Whether the update is measured: its norm and its largest element. Cost: a step of two dispatches where tensors
    /// do not end at 16 bytes, also in an arena, since no padding is measured; 16 bytes written for each 1024 elements;
    /// one dispatch more. Parameters and state get the same bits, but where a compiler fuses the two kernels'
    /// arithmetic differently, which WGSL lets it.
    pub updates: bool,
}

impl From<usize> for Watch {
    fn from(depth: usize) -> Self {
        Self { depth, updates: false }
    }
}

/// What a step moved parameters by: `p' - p` of each element that was stepped, as they lie in memory before and after
/// it. All zeros where the step was skipped; infinite where `p' - p` of an element is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Update {
    /// The root of the sum of squares, over all elements of all tensors.
    pub norm: f64,
    /// The largest magnitude.
    pub largest: f64,
}

/// Elements that are summed up as one, always the same ones, so that a norm has the same bits at every number of
/// threads.
pub(crate) const CHUNK: usize = 1 << 16;

/// Part of an update.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    squares: f64,
    largest: f64,
}

impl Moved {
    /// That of some elements.
    pub fn of<T: Real>(before: &[T], after: &[T]) -> Self {
        let mut moved = Self::default();
        for (before, after) in before.iter().zip(after) {
            let by = (after.to_f64() - before.to_f64()).abs();
            let by = if by.is_finite() { by } else { f64::INFINITY };
            moved = moved.with(Self { squares: by * by, largest: by });
        }
        moved
    }

    /// That of both.
    pub fn with(self, other: Self) -> Self {
        Self { squares: self.squares + other.squares, largest: self.largest.max(other.largest) }
    }

    /// The whole, from its parts.
    pub fn update(self) -> Update {
        Update { norm: self.squares.sqrt(), largest: self.largest }
    }
}

/// The update of all tensors, on one thread.
pub(crate) fn update<T: Real>(before: &[Vec<T>], after: &[&mut [T]]) -> Update {
    let chunks = before.iter().zip(after).flat_map(|(before, after)| before.chunks(CHUNK).zip(after.chunks(CHUNK)));
    chunks.map(|(before, after)| Moved::of(before, after)).fold(Moved::default(), Moved::with).update()
}
