//! Where state lies: pieces of tensors in windows, windows in pages.

use super::{ELEMENT, Limits, QUAD, STAGGER, Span, WORKGROUP, groups};

/// A tensor to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// Those of one variant keep the same slots, and may lie in one window.
    pub variant: usize,
    /// Its group: neighbours of one group are stepped by one dispatch.
    pub group: usize,
    /// Slots that it keeps.
    pub slots: u64,
    /// Elements.
    pub len: u64,
    /// Elements that it has to itself in parameters and gradients, padding included: as many are kept of each slot, so
    /// that neighbours in an arena are neighbours here, too, and one stretch.
    pub room: u64,
}

/// A stretch of state: `slots` planes, `stride` elements apart, in one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// What its tensors keep.
    pub variant: usize,
    /// Planes.
    pub slots: u64,
    /// The page it lies in.
    pub page: usize,
    /// Byte in the page.
    pub offset: u64,
    /// Elements from one plane to the next.
    pub stride: u64,
}

impl Window {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.slots * self.stride * ELEMENT
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
    /// Elements of each plane that are its own: whole quads, and `len` at least.
    pub room: u64,
    /// First element, in each plane of the window; a multiple of [`QUAD`].
    pub at: u64,
}

impl Piece {
    /// Where one slot of this piece lies in its page.
    pub fn state(&self, window: &Window, plane: u64) -> Span {
        let offset = window.offset + (plane * window.stride + self.at) * ELEMENT;
        Span { buffer: window.page, offset, size: self.len * ELEMENT }
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
                    open = Open { item: Some(*item), used: 0, groups: 0 };
                }
                let most = open.room(item, limits);
                let len = rest.min(most);
                let padding = if len == rest { item.room.saturating_sub(item.len) } else { 0 };
                let room = (len + padding).min(most).max(len).next_multiple_of(QUAD);
                let (tensor, window, at) = (first_tensor + tensor, self.windows.len(), open.used);
                self.of[tensor].push(self.pieces.len());
                self.pieces.push(Piece { tensor, window, start, len, room, at });
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
        let stride = stagger(open.used, item.slots, limits);
        let mut window = Window { variant: item.variant, slots: item.slots, page: 0, offset: 0, stride };
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
        let empty = Self { item: Some(*item), used: 0, groups: 0 };
        self.item.is_some_and(|open| open.variant == item.variant)
            && rest.min(empty.room(item, limits)) <= self.room(item, limits)
    }

    /// How many elements still go in.
    fn room(&self, item: &Item, limits: &Limits) -> u64 {
        let plane = limits.plane(item.slots).saturating_sub(self.used);
        let groups = limits.dispatch().saturating_sub(self.groups);
        plane.min(groups * WORKGROUP).min(limits.piece())
    }
}

/// The distance between planes of `used` elements: apart from a power of two, where there is room for it.
fn stagger(used: u64, slots: u64, limits: &Limits) -> u64 {
    let rounded = used.next_multiple_of(STAGGER);
    let staggered = rounded + STAGGER * u64::from(rounded.is_multiple_of(16 * STAGGER));
    if used >= 16 * STAGGER && staggered * slots * ELEMENT <= limits.usable() { staggered } else { used }
}
