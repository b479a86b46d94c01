//! Stretches of a tensor between which rows are moved.

use super::{CUT, ELEMENT, Limits, Place, Placement, Span, folded, groups};

/// A stretch of a tensor that is bound at once: of its parameters, or of all planes of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// What is bound.
    pub span: Span,
    /// Its first word there.
    pub word: u64,
    /// Its first element, in the tensor.
    pub start: u64,
    /// Elements.
    pub len: u64,
    /// Words from one plane to the next.
    pub stride: u64,
    /// Planes.
    pub planes: u64,
}

/// A tensor's parameters, in stretches that a binding holds.
pub fn stretches(place: &Place, limits: &Limits) -> Vec<Stretch> {
    let (len, most) = (place.span.size / ELEMENT, limits.piece(CUT));
    let stretch = |start: u64| {
        let size = (len - start).min(most) * ELEMENT;
        let own = Span { offset: place.span.offset + start * ELEMENT, size, ..place.span };
        let span = own.cover(&own, limits.alignment);
        let word = (own.offset - span.offset) / ELEMENT;
        Stretch { span, word, start, len: size / ELEMENT, stride: 0, planes: 1 }
    };
    (0..len).step_by(most as usize).map(stretch).collect()
}

impl Placement {
    /// A tensor's state, by the window that holds it. Spans count pages.
    pub fn stretches(&self, tensor: usize) -> Vec<Stretch> {
        let stretch = |piece: &super::Piece| {
            let window = &self.windows[piece.window];
            let span = Span { buffer: window.page, offset: window.offset, size: window.size() };
            let (stride, planes) = (window.stride, window.planes.len() as u64);
            Stretch { span, word: piece.at, start: piece.start, len: piece.len, stride, planes }
        };
        self.pieces_of(tensor).map(stretch).collect()
    }
}

impl Stretch {
    /// One plane of it alone.
    pub fn plane(&self, plane: u64) -> Self {
        Self { word: self.word + plane * self.stride, planes: 1, ..*self }
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
        [self.word, self.start, self.len, self.stride].map(|word| word as u32)
    }

    /// The bytes of one plane, from element `from` of the tensor up to element `to`.
    pub fn bytes(&self, plane: u64, from: u64, to: u64) -> Span {
        let first = self.word + plane * self.stride + from - self.start;
        Span { buffer: self.span.buffer, offset: self.span.offset + first * ELEMENT, size: (to - from) * ELEMENT }
    }
}
