//! Stretches of a tensor between which rows are moved.

use std::ops::Range;

use super::{CUT, ELEMENT, Limits, Piece, Place, Placement, Span, Window, folded, groups, width};
use crate::format::Storage;
use crate::format::blocks::BLOCK;

/// A stretch of a tensor that is bound at once: of its parameters, or of some planes of its state. It is counted in units:
/// elements, or as many of them as a word or a scale is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// What is bound.
    pub span: Span,
    /// Its first unit there.
    pub first: u64,
    /// Its first unit, in the tensor.
    pub start: u64,
    /// Units.
    pub len: u64,
    /// Units from one plane to the next.
    pub stride: u64,
    /// Planes.
    pub planes: u64,
    /// Bytes of a unit.
    pub unit: u64,
    /// Elements of a unit.
    pub elements: u64,
}

/// A tensor's parameters, in stretches that a binding holds.
pub fn stretches(place: &Place, limits: &Limits) -> Vec<Stretch> {
    let (len, most, unit) = (place.span.size / place.element, limits.piece(CUT), place.element);
    let stretch = |start: u64| {
        let size = (len - start).min(most) * unit;
        let own = Span { offset: place.span.offset + start * unit, size, ..place.span };
        let span = own.cover(&own, limits.alignment);
        let first = (own.offset - span.offset) / unit;
        Stretch { span, first, start, len: size / unit, stride: 0, planes: 1, unit, elements: 1 }
    };
    (0..len).step_by(most as usize).map(stretch).collect()
}

impl Placement {
    /// All of a tensor's state: for each run of planes of one width its stretches, by the window that holds them, and so
    /// for the scales behind the planes, where there are any. Spans count pages.
    pub fn stretches(&self, tensor: usize) -> Vec<Vec<Stretch>> {
        let Some(piece) = self.pieces_of(tensor).next() else { return Vec::new() };
        let planes = &self.windows[piece.window].planes;
        let mut all: Vec<Vec<Stretch>> = alike(planes).into_iter().map(|run| self.stretches_of(tensor, run)).collect();
        let scaled = planes.iter().filter(|storage| storage.has_scales()).count() as u64;
        if scaled > 0 {
            let scales = |piece: &Piece| piece.scale_stretch(&self.windows[piece.window], scaled);
            all.push(self.pieces_of(tensor).map(scales).collect());
        }
        all
    }

    /// Some neighbouring planes of one width of a tensor's state.
    pub fn stretches_of(&self, tensor: usize, planes: Range<usize>) -> Vec<Stretch> {
        let stretch = |piece: &Piece| piece.stretch(&self.windows[piece.window], planes.clone());
        self.pieces_of(tensor).map(stretch).collect()
    }
}

impl Piece {
    fn stretch(&self, window: &Window, planes: Range<usize>) -> Stretch {
        let (unit, before) = (window.planes[planes.start].size(), width(&window.planes[..planes.start]));
        let first = before * window.stride / unit + self.at;
        let (stride, planes) = (window.stride, planes.len() as u64);
        Stretch { span: window.span(), first, start: self.start, len: self.len, stride, planes, unit, elements: 1 }
    }

    /// The scales of so many planes.
    fn scale_stretch(&self, window: &Window, planes: u64) -> Stretch {
        let first = (width(&window.planes) * window.stride) / ELEMENT + self.at / BLOCK;
        let (start, len, stride) = (self.start / BLOCK, self.len.div_ceil(BLOCK), window.stride / BLOCK);
        Stretch { span: window.span(), first, start, len, stride, planes, unit: ELEMENT, elements: BLOCK }
    }
}

impl Window {
    fn span(&self) -> Span {
        Span { buffer: self.page, offset: self.offset, size: self.size() }
    }
}

/// Neighbours of one width.
fn alike(planes: &[Storage]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (plane, storage) in planes.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if planes[run.start].size() == storage.size() => run.end += 1,
            _ => runs.push(plane..plane + 1),
        }
    }
    runs
}

impl Stretch {
    /// The same by words, where rows of so many elements begin and end with words in it.
    pub fn in_words(&self, width: u64) -> Option<Self> {
        let elements = ELEMENT / self.unit;
        let whole = [self.first, self.start, self.len, self.stride].iter().all(|n| n.is_multiple_of(elements));
        (whole && width.is_multiple_of(elements * self.elements)).then(|| Self {
            first: self.first / elements,
            start: self.start / elements,
            len: self.len / elements,
            stride: self.stride / elements,
            unit: ELEMENT,
            elements: elements * self.elements,
            ..*self
        })
    }

    /// Workgroups that write it.
    pub fn groups(&self) -> u64 {
        groups(self.len)
    }

    /// The grid in which they are dispatched.
    pub fn grid(&self, limits: &Limits) -> (u32, u32) {
        folded(self.groups(), limits)
    }

    /// The stretch as `remap.wgsl` reads it.
    pub fn words(&self) -> [u32; 4] {
        [self.first, self.start, self.len, self.stride].map(|word| word as u32)
    }

    /// The bytes of one plane, from unit `from` of the tensor up to unit `to`, and on to the end of a word: planes have
    /// padding there.
    pub fn bytes(&self, plane: u64, from: u64, to: u64) -> Span {
        let first = self.first + plane * self.stride + from - self.start;
        let size = ((to - from) * self.unit).next_multiple_of(ELEMENT);
        Span { buffer: self.span.buffer, offset: self.span.offset + first * self.unit, size }
    }
}
