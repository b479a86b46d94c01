//! From tensors to launches, with no GPU in sight.
//!
//! First each tensor's state is *placed*: cut into pieces that fit a binding, gathered into windows (all slots of
//! a window lie in one stretch of a buffer, as planes), and the windows into pages. Placement never changes.
//! Then the pieces are *launched*: those whose parameters and gradients can be bound together become one
//! dispatch with a table of segments. That is done again whenever gradients move.

use crate::Error;

/// Bytes of an element.
pub const ELEMENT: u64 = 4;
/// Elements of a quad, the lane of `quads.wgsl`.
pub const QUAD: u64 = 4;
/// Invocations of a workgroup; 64 to 512 were alike when measured, and 256 is WebGPU's default limit.
pub const WORKGROUP: u64 = 256;
/// Words of a segment in the tables, `SEGMENT` in `step.wgsl`.
const SEGMENT_WORDS: usize = 6;
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

    /// The most elements of a tensor in one launch, however it lies in its buffers.
    fn piece(&self) -> u64 {
        let bound = self.usable().saturating_sub(self.alignment) / ELEMENT;
        (bound.min(self.dispatch() * WORKGROUP) / CUT * CUT).max(CUT)
    }

    /// The most elements of one plane in a window of `slots` planes.
    fn plane(&self, slots: u64) -> u64 {
        let elements = self.usable() / ELEMENT / slots;
        (elements.saturating_sub(2 * STAGGER).max(elements.min(CUT)) / CUT * CUT).max(CUT)
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

    /// The smallest span that holds both and starts at a multiple of `alignment`.
    fn cover(&self, other: &Self, alignment: u64) -> Self {
        let offset = self.offset.min(other.offset) / alignment * alignment;
        Self { buffer: self.buffer, offset, size: self.end().max(other.end()) - offset }
    }
}

/// A tensor to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// Which kernel steps it; those of one variant keep the same slots.
    pub variant: usize,
    /// Slots that it keeps.
    pub slots: u64,
    /// Elements.
    pub len: u64,
}

/// A stretch of state: `slots` planes, `stride` elements apart, in one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Which kernel steps its tensors.
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
    tensors: usize,
}

impl Placement {
    /// Places more tensors, in pages of their own. `order` sorts them; neighbours in memory should be
    /// neighbours there.
    pub fn extend<K: Ord>(&mut self, items: &[Item], limits: &Limits, order: impl Fn(usize) -> K) {
        let mut tensors: Vec<usize> = (0..items.len()).collect();
        tensors.sort_by_key(|&tensor| (items[tensor].variant, order(tensor)));
        let first_page = self.pages.len();
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
                let len = rest.min(open.room(item, limits));
                let window = self.windows.len();
                self.pieces.push(Piece { tensor: self.tensors + tensor, window, start, len, at: open.used });
                open.used += len.next_multiple_of(QUAD);
                open.groups += groups(len);
                start += len;
            }
        }
        self.close(&mut open, limits, first_page);
        self.tensors += items.len();
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
        self.pieces.iter().filter(move |piece| piece.tensor == tensor)
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

/// Workgroups for a segment of this many lanes.
fn groups(lanes: u64) -> u64 {
    lanes.div_ceil(WORKGROUP)
}

/// How a launch walks its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lanes {
    /// Four elements for each invocation: `quads.wgsl`.
    Quads,
    /// One: `words.wgsl`.
    Words,
}

impl Lanes {
    fn elements(self) -> u64 {
        match self {
            Lanes::Quads => QUAD,
            Lanes::Words => 1,
        }
    }
}

/// Where a tensor's values lie, and how much of it is its own.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The values.
    pub span: Span,
    /// Bytes from the start of the span that nobody else uses: the size of the span, or more in an arena.
    pub room: u64,
}

impl Place {
    fn piece(&self, piece: &Piece) -> Self {
        let start = piece.start * ELEMENT;
        let span = Span { buffer: self.span.buffer, offset: self.span.offset + start, size: piece.len * ELEMENT };
        Self { span, room: self.room - start }
    }
}

/// A stretch of one tensor in a launch; all but `tensor` in lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// The tensor's number.
    pub tensor: usize,
    /// How many.
    pub lanes: u64,
    /// The first, in the bound parameters.
    pub params: u64,
    /// The first, in the bound gradients.
    pub grads: u64,
    /// The first, in the window's first plane.
    pub state: u64,
}

/// One dispatch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Launch {
    /// The window whose state is bound.
    pub window: usize,
    /// How elements are walked.
    pub lanes: Lanes,
    /// What is bound of the parameters' buffer.
    pub params: Span,
    /// What is bound of the gradients' buffer.
    pub grads: Span,
    /// What is stepped, in the order of workgroups.
    pub segments: Vec<Segment>,
}

impl Launch {
    /// Workgroups that have work.
    pub fn groups(&self) -> u64 {
        self.segments.iter().map(|segment| groups(segment.lanes)).sum()
    }

    /// The dispatched grid, folded where a row would be too long.
    pub fn grid(&self, limits: &Limits) -> (u32, u32) {
        let width = self.groups().min(limits.groups).max(1);
        (width as u32, self.groups().div_ceil(width) as u32)
    }

    /// Elements stepped, padding included.
    pub fn elements(&self) -> u64 {
        self.segments.iter().map(|segment| segment.lanes * self.lanes.elements()).sum()
    }

    /// The launch's tables, as `step.wgsl` reads them.
    pub fn tables(&self, window: &Window, limits: &Limits) -> Vec<u32> {
        let stride = window.stride / self.lanes.elements();
        let head = [u64::from(self.grid(limits).0), self.groups(), stride, self.segments.len() as u64];
        let mut words: Vec<u32> = head.iter().map(|&word| word as u32).collect();
        let mut first_group = 0;
        for segment in &self.segments {
            let fields =
                [first_group, segment.lanes, segment.tensor as u64, segment.params, segment.grads, segment.state];
            words.extend(fields.iter().map(|&word| word as u32));
            first_group += groups(segment.lanes);
        }
        for (row, segment) in self.segments.iter().enumerate() {
            words.extend(std::iter::repeat_n(row as u32, groups(segment.lanes) as usize));
        }
        words
    }

    /// Bytes of the tables.
    pub fn tables_size(&self) -> u64 {
        (4 + (self.segments.len() * SEGMENT_WORDS) as u64 + self.groups()) * 4
    }
}

/// The launches of one step. `places` gives each tensor's parameters and gradient.
///
/// # Errors
/// [`Error::SharedBlock`], for the tensor that `name` names.
pub fn launches(
    placement: &Placement,
    places: &[(Place, Place)],
    limits: &Limits,
    name: impl Fn(usize) -> String,
) -> Result<Vec<Launch>, Error> {
    let mut launches = Vec::new();
    let mut run: Option<Run> = None;
    for piece in &placement.pieces {
        let (params, grads) = places[piece.tensor];
        let part = Part { piece: *piece, params: params.piece(piece), grads: grads.piece(piece) };
        let alone = Run::of(part, limits);
        if alone.covers_meet() {
            return Err(shared_block(name(piece.tensor), &part, limits));
        }
        run = Some(match run.take() {
            None => alone,
            Some(open) => match open.with(&part, limits) {
                Ok(longer) => longer,
                Err(full) => {
                    full.launch(&mut launches);
                    alone
                }
            },
        });
    }
    if let Some(open) = run {
        open.launch(&mut launches);
    }
    Ok(launches)
}

fn shared_block(name: String, part: &Part, limits: &Limits) -> Error {
    Error::SharedBlock {
        name,
        params_start: part.params.span.offset,
        params_end: part.params.span.end(),
        grads_start: part.grads.span.offset,
        grads_end: part.grads.span.end(),
        alignment: limits.alignment,
    }
}

/// A piece with its places.
#[derive(Clone, Copy)]
struct Part {
    piece: Piece,
    params: Place,
    grads: Place,
}

impl Part {
    /// The elements stepped as quads, from the first on; where the tensor owns what follows it, the last quad may
    /// reach over its end.
    fn quads(&self, params: &Span, grads: &Span) -> u64 {
        let aligned = |place: &Place, cover: &Span| (place.span.offset - cover.offset).is_multiple_of(QUAD * ELEMENT);
        if !aligned(&self.params, params) || !aligned(&self.grads, grads) {
            return 0;
        }
        let whole = self.piece.len.next_multiple_of(QUAD);
        let owned = |place: &Place| place.room >= whole * ELEMENT;
        if owned(&self.params) && owned(&self.grads) { whole } else { self.piece.len / QUAD * QUAD }
    }

    /// The bytes that a launch of this part touches.
    fn touched(place: &Place) -> Span {
        let whole = place.span.size.next_multiple_of(QUAD * ELEMENT);
        Span { size: if place.room >= whole { whole } else { place.span.size }, ..place.span }
    }
}

/// Pieces that share a dispatch.
struct Run {
    parts: Vec<Part>,
    params: Span,
    grads: Span,
    groups: u64,
}

impl Run {
    fn of(part: Part, limits: &Limits) -> Self {
        let (params, grads) = (Part::touched(&part.params), Part::touched(&part.grads));
        Self {
            params: params.cover(&params, limits.alignment),
            grads: grads.cover(&grads, limits.alignment),
            groups: groups(part.piece.len),
            parts: vec![part],
        }
    }

    fn covers_meet(&self) -> bool {
        self.params.meets(&self.grads)
    }

    /// The run with one more part, or the run as it was if they cannot be bound together.
    fn with(mut self, part: &Part, limits: &Limits) -> Result<Self, Self> {
        let (params, grads) = (Part::touched(&part.params), Part::touched(&part.grads));
        let first = &self.parts[0];
        let together = first.piece.window == part.piece.window
            && self.params.buffer == params.buffer
            && self.grads.buffer == grads.buffer;
        if !together {
            return Err(self);
        }
        let params = self.params.cover(&params, limits.alignment);
        let grads = self.grads.cover(&grads, limits.alignment);
        let groups = self.groups + groups(part.piece.len);
        let fits = params.size.max(grads.size) <= limits.usable() && groups <= limits.dispatch();
        if params.meets(&grads) || !fits {
            return Err(self);
        }
        self.parts.push(*part);
        Ok(Self { params, grads, groups, ..self })
    }

    /// Ends the run: one launch of quads, and one of words for what quads cannot reach.
    fn launch(self, launches: &mut Vec<Launch>) {
        let mut quads = Vec::new();
        let mut words = Vec::new();
        for part in &self.parts {
            let split = part.quads(&self.params, &self.grads);
            if split > 0 {
                quads.push(self.segment(part, 0, split, Lanes::Quads));
            }
            if split < part.piece.len {
                words.push(self.segment(part, split, part.piece.len - split, Lanes::Words));
            }
        }
        for (lanes, segments) in [(Lanes::Quads, quads), (Lanes::Words, words)] {
            if !segments.is_empty() {
                let window = self.parts[0].piece.window;
                launches.push(Launch { window, lanes, params: self.params, grads: self.grads, segments });
            }
        }
    }

    fn segment(&self, part: &Part, skip: u64, elements: u64, lanes: Lanes) -> Segment {
        let lane = lanes.elements();
        let within = |place: &Place, cover: &Span| ((place.span.offset - cover.offset) / ELEMENT + skip) / lane;
        Segment {
            tensor: part.piece.tensor,
            lanes: elements / lane,
            params: within(&part.params, &self.params),
            grads: within(&part.grads, &self.grads),
            state: (part.piece.at + skip) / lane,
        }
    }
}

/// Where the tensors of an arena lie: the same for parameters and gradients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaLayout {
    /// Bytes of each page.
    pub pages: Vec<u64>,
    /// For each tensor; the buffer is the page.
    pub spans: Vec<Span>,
}

/// Lays tensors, given as names and lengths in elements, into pages.
///
/// # Errors
/// [`Error::Empty`], [`Error::DuplicateName`], [`Error::TooLarge`].
pub fn arena(tensors: &[(&str, u64)], limits: &Limits) -> Result<ArenaLayout, Error> {
    let mut layout = ArenaLayout { pages: Vec::new(), spans: Vec::new() };
    let mut names = std::collections::HashSet::new();
    let alignment = limits.alignment.max(QUAD * ELEMENT);
    let most = (limits.buffer / alignment * alignment / ELEMENT).min(u32::MAX.into());
    for &(name, len) in tensors {
        let name = || name.to_string();
        if len == 0 {
            return Err(Error::Empty { what: "tensor", name: name() });
        }
        if len > most {
            return Err(Error::TooLarge { what: "range in an arena", name: name(), found: len, limit: most });
        }
        if !names.insert(name()) {
            return Err(Error::DuplicateName { name: name() });
        }
        let room = (len * ELEMENT).next_multiple_of(alignment);
        let offset = match layout.pages.last() {
            Some(&used) if used + room <= limits.buffer => used,
            _ => {
                layout.pages.push(0);
                0
            }
        };
        let buffer = layout.pages.len() - 1;
        layout.pages[buffer] = offset + room;
        layout.spans.push(Span { buffer, offset, size: len * ELEMENT });
    }
    Ok(layout)
}
