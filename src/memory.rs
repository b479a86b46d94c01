//! What an optimizer takes of a device, told before it is taken.

mod arenas;
mod around;

use crate::Error;
use crate::chain::Chain;
use crate::format::Formats;
use crate::format::noise::tensor_key;
use crate::format::stored::Stored;
use crate::plan::{Item, Kinds, Launch, Limits, Place, Placement, Run, Window, launches};
use crate::roster::join;
use crate::rule::{Rule, kept_slots, variant};
use crate::watch::Watch;
use arenas::Arenas;

#[cfg(feature = "gpu")]
pub(crate) use around::FEWEST;

/// Bytes of a chunk on its way between host and device.
pub const CHUNK: u64 = 8 << 20;
/// Bytes from one row of a uniform buffer to the next: what WebGPU aligns offsets to by default, and no device more.
pub(crate) const ROW: u64 = 256;
/// Chunks that a transfer has in flight.
pub const RING: usize = 2;

/// A buffer, or buffers of one use, and their bytes. They have the label `wgpu-optim NAME` on the device.
pub type Named = (&'static str, u64);

/// A group to be planned: its settings, its formats, and the name and length in elements of each tensor.
pub type Planned<'a, R> = (R, Formats, Vec<(&'a str, u64)>);

/// Bytes of everything, for tensors in an arena for each pair of formats, in this order. For buffers of the caller's
/// own, `state` is the same and `arena` and `grads` are theirs.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPlan {
    /// Bytes of each page of parameters.
    pub arena: Vec<u64>,
    /// Bytes of each page of gradients.
    pub grads: Vec<u64>,
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
    /// What decides about a step on the device, where the chain has a clip by norm or a scaler: bytes of each buffer.
    pub decision: Vec<Named>,
    /// What is watched: bytes of each buffer. `tables of updates` are like [`tables`](Self::tables), and labelled as
    /// they.
    pub watched: Vec<Named>,
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
    /// Bytes of its parameters.
    pub size: u64,
    /// Bytes of its gradient.
    pub grads: u64,
    /// Bytes of each slot that it keeps, the scales of blocks included.
    pub slots: Vec<(&'static str, u64)>,
    /// Windows that its state is cut into.
    pub windows: usize,
}

impl MemoryPlan {
    /// Bytes on the device while the optimizer lives, the arena included, staging not.
    pub fn total(&self) -> u64 {
        let around: u64 = self.decision.iter().chain(&self.watched).map(|(_, size)| size).sum();
        let lent: u64 = self.arena.iter().chain(&self.grads).sum();
        lent + self.state.iter().sum::<u64>() + self.tables + self.scalars + around
    }
}

/// Plans groups of tensors, given as settings and (name, length in elements), with a chain around them and what is to
/// be [watched](crate::Watch) of them, at a device's limits (`plan::Limits::from(&device.limits())`). Allocates
/// nothing.
///
/// ```
/// use wgpu_optim::plan::Limits;
/// use wgpu_optim::{Adam, Chain, Clip, Watch, memory_plan};
///
/// let groups = [(Adam::PYTORCH, vec![("w", 1 << 20), ("b", 1 << 10)])];
/// let chain = Chain { clip: Some(Clip::global_norm(1.0)), ..Chain::default() };
/// let plan = memory_plan(&groups, &chain, Watch { depth: 4, updates: true }, &Limits::DEFAULT)?;
/// assert!(plan.total() > 4 * 4 * (1 << 20));
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
///
/// # Errors
/// [`Error::Setting`], [`Error::Empty`], [`Error::DuplicateName`], [`Error::TooLarge`] for a tensor that no buffer
/// of the device can hold.
pub fn memory_plan<R: Rule>(
    groups: &[(R, Vec<(&str, u64)>)],
    chain: &Chain,
    watch: impl Into<Watch>,
    limits: &Limits,
) -> Result<MemoryPlan, Error> {
    let plain = |(settings, tensors): &(R, Vec<_>)| (settings.clone(), Formats::default(), tensors.clone());
    memory_plan_with(&groups.iter().map(plain).collect::<Vec<_>>(), chain, watch, limits)
}

/// [`memory_plan`] of groups with formats of their own. What a chain keeps is `f32`.
///
/// # Errors
/// As [`memory_plan`]; [`Error::Setting`] for formats that do not go together.
pub fn memory_plan_with<R: Rule>(
    groups: &[Planned<'_, R>],
    chain: &Chain,
    watch: impl Into<Watch>,
    limits: &Limits,
) -> Result<MemoryPlan, Error> {
    memory_plan_together(groups, &[], chain, watch, limits)
}

/// [`memory_plan_with`] of groups of which some are clipped together: a group and another for each call of
/// `Optimizer::clip_together`, in their order.
///
/// # Errors
/// As [`memory_plan_with`]; [`Error::UnknownGroup`].
pub fn memory_plan_together<R: Rule>(
    groups: &[Planned<'_, R>],
    together: &[(usize, usize)],
    chain: &Chain,
    watch: impl Into<Watch>,
    limits: &Limits,
) -> Result<MemoryPlan, Error> {
    check(groups, chain)?;
    let settings: Vec<R> = groups.iter().map(|(settings, ..)| settings.clone()).collect();
    let members = members(groups);
    let formats: Vec<(&Formats, &str, u64)> =
        members.iter().map(|&(group, name, len)| (&groups[group].1, name, len)).collect();
    let Arenas { params, grads, places } = Arenas::lay(&formats, limits)?;
    let stored: Vec<Stored> =
        members.iter().map(|&(group, _, len)| stored_of(&settings[group], &groups[group].1, chain, len)).collect();
    let mut placement = Placement::default();
    placement.extend(&items(&settings, &members, &stored, &places), limits, |tensor| {
        (places[tensor].0.span.buffer, places[tensor].0.span.offset)
    });
    let group_of: Vec<usize> = members.iter().map(|&(group, ..)| group).collect();
    let mut scope_of: Vec<usize> = (0..groups.len()).collect();
    together.iter().try_for_each(|&(group, with)| join(&mut scope_of, group, with))?;
    let shape = around::Shape::of(chain, &group_of, &scope_of);
    let step = |places: &[(Place, Place)]| {
        let launches = launches(&placement, places, limits, |tensor| members[tensor].1.to_string())?;
        let dispatches = runs(&launches, &shape.class_of);
        Ok::<_, Error>((launches, dispatches))
    };
    let (launches, dispatches) = step(&places)?;
    let watch = watch.into();
    let (others, their_runs) = match watch.updates {
        // What parameters move by is told of them alone, so that no padding is stepped over.
        true => step(&places.iter().map(alone).collect::<Vec<_>>())?,
        false => Default::default(),
    };
    let tensor = |(tensor, &(group, name, len)): (usize, &(usize, &str, u64))| TensorMemory {
        name: name.into(),
        len,
        size: len * groups[group].1.params.size(),
        grads: len * groups[group].1.grads.size(),
        slots: stored[tensor].planes.iter().map(|plane| (plane.slot, plane.storage.size_of(len))).collect(),
        windows: placement.pieces_of(tensor).count(),
    };
    Ok(MemoryPlan {
        arena: params,
        grads,
        tensors: members.iter().enumerate().map(tensor).collect(),
        tables: tables(&launches, &dispatches),
        scalars: shape.fresh::<R>(chain),
        decision: shape.decision(chain, &dispatches),
        watched: around::watched(watch, &others, &their_runs),
        state: placement.pages,
        windows: placement.windows,
        dispatches,
        launches,
        staging: CHUNK * RING as u64,
    })
}

fn check<R: Rule>(groups: &[Planned<'_, R>], chain: &Chain) -> Result<(), Error> {
    groups.iter().try_for_each(|(settings, ..)| settings.check())?;
    groups.iter().try_for_each(|(settings, formats, _)| formats.check_with(settings))?;
    chain.check()
}

/// Each tensor's group, name and length.
fn members<'a, R: Rule>(groups: &[Planned<'a, R>]) -> Vec<(usize, &'a str, u64)> {
    let tensors = |(group, (.., tensors)): (usize, &Planned<'a, R>)| {
        tensors.iter().map(|&(name, len)| (group, name, len)).collect::<Vec<_>>()
    };
    groups.iter().enumerate().flat_map(tensors).collect()
}

/// The tensors, as they are placed.
fn items<R: Rule>(
    settings: &[R],
    members: &[(usize, &str, u64)],
    stored: &[Stored],
    places: &[(Place, Place)],
) -> Vec<Item> {
    let mut kinds = Kinds::default();
    let item = |(tensor, &(group, name, len)): (usize, &(usize, &str, u64))| {
        let (stored, (params, grads)) = (&stored[tensor], &places[tensor]);
        let (planes, key) = (stored.storages(), stored.has_chance().then(|| tensor_key(name)));
        let variant = kinds.number(variant(settings, group), &planes, key.is_some());
        let room = (params.room / params.element).min(grads.room / grads.element);
        Item { variant, group, planes, key, len, room }
    };
    members.iter().enumerate().map(item).collect()
}

/// The dispatches of a step, each with its launch's number.
fn runs(launches: &[Launch], class_of: &[u32]) -> Vec<(usize, Run)> {
    let runs =
        |(number, launch): (usize, &Launch)| launch.runs(class_of, u32::MAX).into_iter().map(move |run| (number, run));
    launches.iter().enumerate().flat_map(runs).collect()
}

/// Bytes of the launches' tables, and of what each dispatch reads besides.
fn tables(launches: &[Launch], dispatches: &[(usize, Run)]) -> u64 {
    let tables: u64 = launches.iter().map(|launch| launch.table_size().next_multiple_of(ROW)).sum();
    tables + dispatches.len() as u64 * ROW
}

/// The places of a tensor without the padding behind it.
fn alone((params, grads): &(Place, Place)) -> (Place, Place) {
    let own = |place: &Place| Place { room: place.span.size, ..*place };
    (own(params), own(grads))
}

/// How what a step moves of a tensor lies.
fn stored_of<R: Rule>(settings: &R, formats: &Formats, chain: &Chain, len: u64) -> Stored {
    let own = kept_slots(settings).into_iter().map(|slot| (R::SLOTS[slot], R::is_signed(slot)));
    let Formats { params, grads, rounding, q8_zero, .. } = *formats;
    Stored { params, grads, planes: formats.planes(own, chain.slots(), len), rounding, q8_zero }
}
