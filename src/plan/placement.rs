//! Where state lies: pieces of tensors in windows, windows in pages.

use super::{Limits, STAGGER, Span, WORKGROUP, cut, grain, groups, has_blocks, planes_size, scales_size, width};
use crate::format::Storage;

/// A tensor to be placed.
#[derive(Clone, Debug)]
pub struct Item {
    /// Those of one variant keep the same slots, and may lie in one window.
    pub variant: usize,
    /// Its group: neighbours of one group are stepped by one dispatch.
    pub group: usize,
    /// How each slot that it keeps lies.
    pub planes: Vec<Storage>,
    /// The word that its noise starts from, where numbers are rounded by chance.
    pub key: Option<u32>,
    /// Elements.
    pub len: u64,
    /// Elements that it has to itself in parameters and gradients, padding included: as many are kept of each slot, so
    /// that neighbours in an arena are neighbours here, too, and one stretch.
    pub room: u64,
}

/// A stretch of state: planes of `stride` elements each, one behind the other, and behind them the scales of those that
/// go by blocks, in one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// What its tensors keep.
    pub variant: usize,
    /// How each plane lies.
    pub planes: Vec<Storage>,
    /// The page it lies in.
    pub page: usize,
    /// Byte in the page.
    pub offset: u64,
    /// Elements of a plane.
    pub stride: u64,
}

impl Window {
    /// Bytes.
    pub fn size(&self) -> u64 {
        planes_size(&self.planes, self.stride)
    }
}

/// A stretch of a tensor whose state lies in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The tensor's number, in the order placed.
    pub tensor: usize,
    /// The window's number.
    pub window: usize,
    /// First element, in the tensor.
    pub start: u64,
    /// Elements.
    pub len: u64,
    /// Elements of each plane that are its own: whole quads or blocks, and `len` at least.
    pub room: u64,
    /// First element, in each plane of the window; a multiple of [`QUAD`](super::QUAD), or of a block.
    pub at: u64,
    /// Whether its state goes by blocks.
    pub blocks: bool,
    /// The word that its noise starts from, where numbers are rounded by chance.
    pub key: Option<u32>,
}

impl Piece {
    /// Where one slot of this piece lies in its page, the scales of blocks apart.
    pub fn state(&self, window: &Window, plane: usize) -> Span {
        let (before, own) = (width(&window.planes[..plane]), window.planes[plane].size());
        let offset = window.offset + before * window.stride + self.at * own;
        Span { buffer: window.page, offset, size: self.len * own }
    }

    /// Where the scales of one slot's blocks lie, if it has them; the last block may be short.
    pub fn scales(&self, window: &Window, plane: usize) -> Option<Span> {
        window.planes[plane].has_scales().then(|| {
            let before = window.planes[..plane].iter().filter(|storage| storage.has_scales()).count() as u64;
            let first = window.offset + width(&window.planes) * window.stride + before * scales_size(window.stride);
            let size = scales_size(self.len.next_multiple_of(grain(&window.planes)));
            Span { buffer: window.page, offset: first + scales_size(self.at), size }
        })
    }
}

/// Where every tensor's state lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// In the order filled.
    pub windows: Vec<Window>,
    /// By window.
    pub pieces: Vec<Piece>,
    /// Bytes of each page.
    pub pages: Vec<u64>,
    /// Each tensor's pieces, in order.
    of: Vec<Vec<usize>>,
}

impl Placement {
    /// Places more tensors, in pages of their own. `order` sorts them; neighbours in memory should be
    /// neighbours there.
    pub fn extend<K: Ord>(&mut self, items: &[Item], limits: &Limits, order: impl Fn(usize) -> K) {
        let mut tensors: Vec<usize> = (0..items.len()).collect();
        tensors.sort_by_key(|&tensor| (items[tensor].variant, items[tensor].group, order(tensor)));
        let first_page = self.pages.len();
        let first_tensor = self.of.len();
        self.of.resize(first_tensor + items.len(), Vec::new());
        let mut open = Open::none();
        for tensor in tensors {
            let item = &items[tensor];
            let mut start = 0;
            while start < item.len {
                let rest = item.len - start;
                if !open.takes(item, rest, limits) {
                    self.close(&mut open, limits, first_page);
                    open = Open { item: Some(item.clone()), used: 0, groups: 0 };
                }
                let most = open.room(item, limits);
                let len = rest.min(most);
                let padding = if len == rest { item.room.saturating_sub(item.len) } else { 0 };
                let room = (len + padding).min(most).max(len).next_multiple_of(grain(&item.planes));
                let (tensor, window, at) = (first_tensor + tensor, self.windows.len(), open.used);
                self.of[tensor].push(self.pieces.len());
                let (blocks, key) = (has_blocks(&item.planes), item.key);
                self.pieces.push(Piece { tensor, window, start, len, room, at, blocks, key });
                open.used += room;
                open.groups += groups(room);
                start += len;
            }
        }
        self.close(&mut open, limits, first_page);
    }

    /// Turns the open window into one with a place in a page.
    fn close(&mut self, open: &mut Open, limits: &Limits, first_page: usize) {
        let Some(item) = open.item.take() else { return };
        let stride = stagger(open.used, &item.planes, limits);
        let mut window = Window { variant: item.variant, planes: item.planes, page: 0, offset: 0, stride };
        let fits = |page: u64| page.next_multiple_of(limits.alignment) + window.size() <= limits.buffer;
        match self.pages.last() {
            Some(&page) if self.pages.len() > first_page && fits(page) => {
                window.offset = page.next_multiple_of(limits.alignment);
            }
            _ => self.pages.push(0),
        }
        window.page = self.pages.len() - 1;
        self.pages[window.page] = window.offset + window.size();
        self.windows.push(window);
    }

    /// The pieces of one tensor, in order.
    pub fn pieces_of(&self, tensor: usize) -> impl Iterator<Item = &Piece> {
        self.of[tensor].iter().map(|&piece| &self.pieces[piece])
    }
}

/// The window that is being filled.
struct Open {
    item: Option<Item>,
    used: u64,
    groups: u64,
}

impl Open {
    fn none() -> Self {
        Self { item: None, used: 0, groups: 0 }
    }

    /// Whether what is left of a tensor goes into this window: whole, or as much as an empty one would take.
    fn takes(&self, item: &Item, rest: u64, limits: &Limits) -> bool {
        let empty = Self::none();
        self.item.as_ref().is_some_and(|open| open.variant == item.variant)
            && rest.min(empty.room(item, limits)) <= self.room(item, limits)
    }

    /// How many elements still go in.
    fn room(&self, item: &Item, limits: &Limits) -> u64 {
        let plane = limits.plane(&item.planes).saturating_sub(self.used);
        let groups = limits.dispatch().saturating_sub(self.groups);
        plane.min(groups * WORKGROUP).min(limits.piece(cut(&item.planes)))
    }
}

/// The distance between planes of `used` elements: apart from a power of two, where there is room for it.
fn stagger(used: u64, planes: &[Storage], limits: &Limits) -> u64 {
    let rounded = used.next_multiple_of(STAGGER);
    let staggered = rounded + STAGGER * u64::from(rounded.is_multiple_of(16 * STAGGER));
    if used >= 16 * STAGGER && planes_size(planes, staggered) <= limits.usable() { staggered } else { used }
}
