//! From tensors to launches, with no GPU in sight.
//!
//! First each tensor's state is *placed*: cut into pieces that fit a binding, gathered into windows (all slots of
//! a window lie in one stretch of a buffer, as planes), and the windows into pages. Placement never changes.
//! Then the pieces are *launched*: those whose parameters and gradients can be bound together share a table, and
//! that is done again whenever gradients move. A launch is *run* by one dispatch for each stretch of tensors that
//! share a class, which is decided again when classes change.

mod arena;
mod kinds;
mod launch;
mod listed;
mod placement;
mod remap;
mod run;

pub use arena::{ArenaLayout, arena, arena_of};
pub(crate) use kinds::Kinds;
pub use launch::{Lanes, Launch, Place, Segment, launches};
pub use listed::{Listed, ListedRun};
pub use placement::{Item, Piece, Placement, Window};
pub use remap::{Stretch, stretches};
pub use run::{Places, Run};

use crate::format::Storage;
use crate::format::blocks::BLOCK;
use crate::format::stored::{has_blocks, scales_size, width};

/// Bytes of an element of 32 bits, and of a word: bindings are whole words.
pub const ELEMENT: u64 = 4;
/// Elements of a quad, a lane of `shaders/quads`.
pub const QUAD: u64 = 4;
/// Invocations of a workgroup; 64 to 512 were alike when measured, and 256 is WebGPU's default limit.
pub const WORKGROUP: u64 = 256;
/// Pieces are cut at multiples of this many elements, so that every piece of an aligned tensor is aligned.
const CUT: u64 = 64;
/// Planes a power of two apart fall into one set of a CPU's caches; this many elements (4 KiB) between them do
/// not.
const STAGGER: u64 = 1024;
/// Vulkan and DX12 end a binding here, whatever a driver may say.
const MOST_BINDING: u64 = (1 << 31) - 256;

/// What a device allows, as far as planning must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `max_storage_buffer_binding_size`, in bytes.
    pub binding: u64,
    /// `max_buffer_size`, in bytes.
    pub buffer: u64,
    /// `max_compute_workgroups_per_dimension`.
    pub groups: u64,
    /// `min_storage_buffer_offset_alignment`, in bytes.
    pub alignment: u64,
}

impl Limits {
    /// WebGPU's defaults, at which everything works.
    pub const DEFAULT: Self = Self { binding: 128 << 20, buffer: 256 << 20, groups: 65_535, alignment: 256 };

    /// Bytes of a binding that can be used, in whole alignments.
    fn usable(&self) -> u64 {
        self.binding.min(self.buffer).min(MOST_BINDING) / self.alignment * self.alignment
    }

    /// Workgroups of a dispatch, folded in two dimensions.
    fn dispatch(&self) -> u64 {
        self.groups.saturating_mul(self.groups).min(u64::from(u32::MAX) / WORKGROUP)
    }

    /// The most elements of a tensor in one launch, however it lies in its buffers, in multiples of `cut`.
    fn piece(&self, cut: u64) -> u64 {
        let bound = self.usable().saturating_sub(self.alignment) / ELEMENT;
        (bound.min(self.dispatch() * WORKGROUP) / cut * cut).max(cut)
    }

    /// The most elements of one plane in a window of these planes.
    fn plane(&self, planes: &[Storage]) -> u64 {
        let cut = cut(planes);
        let elements = self.usable() * BLOCK / planes_size(planes, BLOCK).max(1);
        (elements.saturating_sub(2 * STAGGER).max(elements.min(cut)) / cut * cut).max(cut)
    }
}

/// A stretch of a buffer, in bytes; buffers are numbered by whoever plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The buffer's number.
    pub buffer: usize,
    /// The first byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

impl Span {
    /// The byte after the last.
    pub fn end(&self) -> u64 {
        self.offset + self.size
    }

    /// Whether a byte belongs to both.
    pub fn meets(&self, other: &Self) -> bool {
        self.buffer == other.buffer && self.offset < other.end() && other.offset < self.end()
    }

    /// The smallest span of whole words that holds both and starts at a multiple of `alignment`.
    fn cover(&self, other: &Self, alignment: u64) -> Self {
        let offset = self.offset.min(other.offset) / alignment * alignment;
        let end = self.end().max(other.end()).next_multiple_of(ELEMENT);
        Self { buffer: self.buffer, offset, size: end - offset }
    }
}

/// A grid of so many workgroups, folded where a row would be too long.
fn folded(groups: u64, limits: &Limits) -> (u32, u32) {
    let width = groups.min(limits.groups).max(1);
    (width as u32, groups.div_ceil(width) as u32)
}

/// Elements at whose multiples pieces of tensors with these planes are cut: whole blocks, where state goes by them.
fn cut(planes: &[Storage]) -> u64 {
    if has_blocks(planes) { BLOCK } else { CUT }
}

/// Elements of which a tensor with these planes has whole ones to itself.
fn grain(planes: &[Storage]) -> u64 {
    if has_blocks(planes) { BLOCK } else { QUAD }
}

/// Bytes of planes of so many elements each, with the scales of those that go by blocks behind them.
fn planes_size(planes: &[Storage], elements: u64) -> u64 {
    let scaled = planes.iter().filter(|storage| storage.has_scales()).count() as u64;
    width(planes) * elements + scaled * scales_size(elements)
}

/// Workgroups for a segment of this many lanes.
fn groups(lanes: u64) -> u64 {
    lanes.div_ceil(WORKGROUP)
}
