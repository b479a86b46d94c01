//! Which pieces are bound together, and the table of their workgroups.

use super::{Limits, Piece, Placement, QUAD, Span, WORKGROUP, groups};
use crate::Error;
use crate::format::blocks::BLOCK;

/// How a launch walks its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lanes {
    /// Four elements for each invocation: `shaders/quads`.
    Quads,
    /// One: `shaders/words`.
    Words,
}

impl Lanes {
    pub(super) fn elements(self) -> u64 {
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
    /// Bytes of an element.
    pub element: u64,
}

impl Place {
    pub(super) fn piece(&self, piece: &Piece) -> Self {
        let start = piece.start * self.element;
        let span = Span { buffer: self.span.buffer, offset: self.span.offset + start, size: piece.len * self.element };
        Self { span, room: self.room - start, ..*self }
    }

    /// Whether a cover of it can be walked in quads.
    pub(super) fn is_aligned(&self, cover: &Span) -> bool {
        (self.span.offset - cover.offset).is_multiple_of(QUAD * self.element)
    }

    /// Elements that are its own.
    fn owned(&self) -> u64 {
        self.room / self.element
    }
}

/// A stretch of one tensor in a launch; in lanes, where nothing else is said.
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
    /// The first, in the window's planes.
    pub state: u64,
    /// The first element, in the tensor.
    pub start: u64,
    /// The word that the tensor's noise starts from, where numbers are rounded by chance.
    pub key: Option<u32>,
}

/// Segments that are bound together, and stepped by one dispatch where they share a class.
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

    /// Whether numbers are rounded by chance, which is so for all of a launch or for none.
    pub fn has_chance(&self) -> bool {
        self.segments.iter().any(|segment| segment.key.is_some())
    }

    /// The launch's table, as `walk.wgsl` reads it: four words for each workgroup, or eight, where chance is.
    pub fn table(&self) -> Vec<u32> {
        let chance = self.has_chance();
        let mut words = Vec::with_capacity((self.table_size() / 4) as usize);
        for segment in &self.segments {
            for first in (0..segment.lanes).step_by(WORKGROUP as usize) {
                let lanes = (segment.lanes - first).min(WORKGROUP);
                let place = [segment.params + first, segment.grads + first, segment.state + first, lanes];
                words.extend(place.map(|word| word as u32));
                if chance {
                    let element = segment.start + first * self.lanes.elements();
                    words.extend([segment.key.unwrap_or_default(), element as u32, 0, 0]);
                }
            }
        }
        words
    }

    /// Bytes of the table.
    pub fn table_size(&self) -> u64 {
        table_size(self.groups(), self.has_chance())
    }
}

/// Bytes of the table of so many workgroups.
fn table_size(groups: u64, chance: bool) -> u64 {
    groups * if chance { 32 } else { 16 }
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
    let mut open: Option<Gathering> = None;
    for piece in &placement.pieces {
        let (params, grads) = places[piece.tensor];
        let part = Part { piece: *piece, params: params.piece(piece), grads: grads.piece(piece) };
        let alone = Gathering::of(part, limits);
        if alone.covers_meet() {
            return Err(shared_block(name(piece.tensor), &part, limits));
        }
        open = Some(match open.take() {
            None => alone,
            Some(gathering) => match gathering.with(&part, limits) {
                Ok(longer) => longer,
                Err(full) => {
                    full.launch(&mut launches);
                    alone
                }
            },
        });
    }
    if let Some(gathering) = open {
        gathering.launch(&mut launches);
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
    /// The elements stepped as quads, from the first on; where the tensor owns what follows it, they reach over its
    /// end, up to its neighbour.
    fn quads(&self, params: &Span, grads: &Span) -> u64 {
        if !self.params.is_aligned(params) || !self.grads.is_aligned(grads) {
            return 0;
        }
        if self.piece.blocks {
            // A block is encoded by one workgroup, and what pads it is no part of it.
            return self.piece.len / BLOCK * BLOCK;
        }
        let owned = self.piece.room.min(self.params.owned()).min(self.grads.owned());
        if owned >= self.piece.len { owned / QUAD * QUAD } else { self.piece.len / QUAD * QUAD }
    }

    /// The bytes that a launch of this part may touch.
    fn touched(&self, place: &Place) -> Span {
        let reach = place.room.min(self.piece.room * place.element);
        Span { size: reach.max(place.span.size), ..place.span }
    }
}

/// Pieces that share a dispatch.
struct Gathering {
    parts: Vec<Part>,
    params: Span,
    grads: Span,
    groups: u64,
}

impl Gathering {
    fn of(part: Part, limits: &Limits) -> Self {
        let (params, grads) = (part.touched(&part.params), part.touched(&part.grads));
        Self {
            params: params.cover(&params, limits.alignment),
            grads: grads.cover(&grads, limits.alignment),
            groups: groups(part.piece.room),
            parts: vec![part],
        }
    }

    fn covers_meet(&self) -> bool {
        self.params.meets(&self.grads)
    }

    /// All of it with one more part, or as it was if they cannot be bound together.
    fn with(mut self, part: &Part, limits: &Limits) -> Result<Self, Self> {
        let (params, grads) = (part.touched(&part.params), part.touched(&part.grads));
        let first = &self.parts[0];
        let together = first.piece.window == part.piece.window
            && self.params.buffer == params.buffer
            && self.grads.buffer == grads.buffer;
        if !together {
            return Err(self);
        }
        let params = self.params.cover(&params, limits.alignment);
        let grads = self.grads.cover(&grads, limits.alignment);
        let groups = self.groups + groups(part.piece.room);
        let largest = params.size.max(grads.size).max(table_size(groups, part.piece.key.is_some()));
        let fits = largest <= limits.usable() && groups <= limits.dispatch();
        if params.meets(&grads) || !fits {
            return Err(self);
        }
        self.parts.push(*part);
        Ok(Self { params, grads, groups, ..self })
    }

    /// Ends it: one launch of quads, and one of words for what quads cannot reach.
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
        let within = |place: &Place, cover: &Span| ((place.span.offset - cover.offset) / place.element + skip) / lane;
        Segment {
            tensor: part.piece.tensor,
            lanes: elements / lane,
            params: within(&part.params, &self.params),
            grads: within(&part.grads, &self.grads),
            state: (part.piece.at + skip) / lane,
            start: part.piece.start + skip,
            key: part.piece.key,
        }
    }
}
