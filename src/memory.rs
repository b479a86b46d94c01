//! What an optimizer takes of a device, told before it is taken.

use crate::Error;
use crate::format::Storage;
use crate::plan::{ELEMENT, Item, Launch, Limits, Place, Placement, Run, Span, Window, arena, launches};
use crate::rule::{Rule, kept_slots, variant};

/// Bytes of a chunk on its way between host and device.
pub const CHUNK: u64 = 8 << 20;
/// Bytes from one row of a uniform buffer to the next: what WebGPU aligns offsets to by default, and no device more.
pub(crate) const ROW: u64 = 256;
/// Chunks that a transfer has in flight.
pub const RING: usize = 2;

/// Bytes of everything, for tensors in an arena in this order. For buffers of the caller's own, `state` is the same and
/// `arena` is theirs.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPlan {
    /// Bytes of each page of the arena: once for parameters, once for gradients.
    pub arena: Vec<u64>,
    /// Bytes of each page of state, padding included.
    pub state: Vec<u64>,
    /// The windows of the state.
    pub windows: Vec<Window>,
    /// Each tensor, in the order given.
    pub tensors: Vec<TensorMemory>,
    /// What is bound together in a step.
    pub launches: Vec<Launch>,
    /// The dispatches of a step while the tensors of a group share a step count, each with its launch's number.
    pub dispatches: Vec<(usize, Run)>,
    /// Bytes of the launches' tables, and of what each dispatch reads besides.
    pub tables: u64,
    /// Bytes of the fresh buffer of one recorded step, while the tensors of a group share a step count.
    pub scalars: u64,
    /// The most bytes that a transfer stages at once.
    pub staging: u64,
}

/// Bytes of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMemory {
    /// The name.
    pub name: String,
    /// Elements.
    pub len: u64,
    /// Bytes of its parameters, and of its gradient.
    pub size: u64,
    /// Bytes of each slot that it keeps.
    pub slots: Vec<(&'static str, u64)>,
    /// Windows that its state is cut into.
    pub windows: usize,
}

impl MemoryPlan {
    /// Bytes on the device while the optimizer lives, the arena included, staging not.
    pub fn total(&self) -> u64 {
        2 * self.arena.iter().sum::<u64>() + self.state.iter().sum::<u64>() + self.tables + self.scalars
    }
}

/// Plans groups of tensors, given as settings and (name, length in elements), at a device's limits
/// (`plan::Limits::from(&device.limits())`). Allocates nothing.
///
/// # Errors
/// [`Error::Setting`], [`Error::Empty`], [`Error::DuplicateName`], [`Error::TooLarge`] for a tensor that no buffer
/// of the device can hold.
pub fn memory_plan<R: Rule>(groups: &[(R, Vec<(&str, u64)>)], limits: &Limits) -> Result<MemoryPlan, Error> {
    let settings: Vec<R> = groups.iter().map(|(settings, _)| settings.clone()).collect();
    settings.iter().try_for_each(Rule::check)?;
    let members: Vec<(usize, &str, u64)> = (0..)
        .zip(groups)
        .flat_map(|(group, (_, tensors))| tensors.iter().map(move |&(name, len)| (group, name, len)))
        .collect();
    let named: Vec<(&str, u64)> = members.iter().map(|&(_, name, len)| (name, len)).collect();
    let layout = arena(&named, limits)?;
    let item = |(&(group, _, len), room): (&(usize, &str, u64), &u64)| {
        let planes = vec![Storage::F32; kept_slots(&settings[group]).len()];
        Item { variant: variant(&settings, group), group, planes, key: None, len, room: room / ELEMENT }
    };
    let items: Vec<Item> = members.iter().zip(&layout.rooms).map(item).collect();
    let mut placement = Placement::default();
    placement.extend(&items, limits, |tensor| (layout.spans[tensor].buffer, layout.spans[tensor].offset));
    let places: Vec<(Place, Place)> = layout.spans.iter().zip(&layout.rooms).map(lent).collect();
    let launches = launches(&placement, &places, limits, |tensor| members[tensor].1.to_string())?;
    let mut windows = vec![0; members.len()];
    placement.pieces.iter().for_each(|piece| windows[piece.tensor] += 1);
    let tensors = members
        .iter()
        .zip(windows)
        .map(|(&(group, name, len), windows)| TensorMemory {
            name: name.into(),
            len,
            size: len * ELEMENT,
            slots: kept_slots(&settings[group]).into_iter().map(|slot| (R::SLOTS[slot], len * ELEMENT)).collect(),
            windows,
        })
        .collect();
    let class_of: Vec<u32> = members.iter().map(|&(group, ..)| group as u32).collect();
    let runs =
        |(number, launch): (usize, &Launch)| launch.runs(&class_of, u32::MAX).into_iter().map(move |run| (number, run));
    let dispatches: Vec<(usize, Run)> = launches.iter().enumerate().flat_map(runs).collect();
    let tables: u64 = launches.iter().map(|launch| launch.table_size().next_multiple_of(ROW)).sum();
    Ok(MemoryPlan {
        arena: layout.pages,
        state: placement.pages,
        windows: placement.windows,
        tensors,
        tables: tables + dispatches.len() as u64 * ROW,
        dispatches,
        launches,
        scalars: groups.len() as u64 * ROW,
        staging: CHUNK * RING as u64,
    })
}

/// The places that an arena lends: a page is a buffer of parameters and one of gradients.
fn lent((span, &room): (&Span, &u64)) -> (Place, Place) {
    let place = |role| Place { span: Span { buffer: span.buffer * 2 + role, ..*span }, room, element: ELEMENT };
    (place(0), place(1))
}
