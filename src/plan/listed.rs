//! Dispatches over listed rows of one tensor.

use super::{Lanes, Limits, Piece, Place, Placement, QUAD, Span, WORKGROUP, groups};

/// The rows of a tensor, and a list of some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Rows that there are.
    pub rows: u64,
    /// Elements of a row.
    pub width: u64,
    /// Rows that are listed, at most.
    pub most: u64,
}

/// One dispatch: a stretch of the lanes of all listed rows, and the piece of the tensor in which it looks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedRun {
    /// The window whose state is bound.
    pub window: usize,
    /// How elements are walked.
    pub lanes: Lanes,
    /// What is bound of the parameters' buffer.
    pub params: Span,
    /// What is bound of the gradients' buffer.
    pub grads: Span,
    /// Workgroups.
    pub groups: u64,
    /// The first lane, among those of all listed rows.
    first: u64,
    /// The tensor's piece, in lanes: its place in each buffer, its first lane, and how many it has.
    piece: [u64; 5],
    /// What it is rounded by, where chance is: the tensor's word, and the piece's first element.
    chance: [u64; 2],
    list: Listed,
}

impl Listed {
    /// The most elements that can be listed: their lanes are counted in 32 bits, in whole workgroups.
    pub const MOST: u64 = u32::MAX as u64 / WORKGROUP * WORKGROUP;

    /// The dispatches of a step: for each piece of the tensor one, or more where the list is longer than a dispatch.
    /// `places` are the tensor's parameters and gradient.
    pub fn runs(
        &self,
        placement: &Placement,
        tensor: usize,
        places: &(Place, Place),
        limits: &Limits,
    ) -> Vec<ListedRun> {
        placement.pieces_of(tensor).flat_map(|piece| self.runs_of(piece, places, limits)).collect()
    }

    /// Rows are whole quads, or words: a quad that belongs to two rows cannot be stepped for one of them.
    fn runs_of(&self, piece: &Piece, (params, grads): &(Place, Place), limits: &Limits) -> Vec<ListedRun> {
        let own = [params, grads].map(|place| place.piece(piece));
        let covers = own.map(|place| place.span.cover(&place.span, limits.alignment));
        let aligned = own.iter().zip(&covers).all(|(place, cover)| place.is_aligned(cover));
        let lanes = if aligned && self.width.is_multiple_of(QUAD) { Lanes::Quads } else { Lanes::Words };
        let lane = |elements: u64| elements / lanes.elements();
        let within = |place: &Place, cover: &Span| lane((place.span.offset - cover.offset) / place.element);
        let [params, grads] = covers;
        let (first, second) = (within(&own[0], &params), within(&own[1], &grads));
        let owned = [first, second, lane(piece.at), lane(piece.start), lane(piece.len)];
        let all = groups(lane(self.most * self.width));
        let step = limits.dispatch();
        let run = |first: u64| ListedRun {
            window: piece.window,
            lanes,
            params,
            grads,
            groups: step.min(all - first),
            first: first * WORKGROUP,
            piece: owned,
            chance: [piece.key.unwrap_or_default().into(), piece.start],
            list: *self,
        };
        (0..all).step_by(step as usize).map(run).collect()
    }
}

impl ListedRun {
    /// The dispatched grid, folded where a row would be too long.
    pub fn grid(&self, limits: &Limits) -> (u32, u32) {
        super::folded(self.groups, limits)
    }

    /// The run as `rows.wgsl` reads it, in a window with this stride, where list and count start at these words of what
    /// is bound of them.
    pub fn words(&self, stride: u64, list: u64, count: u64, limits: &Limits) -> [u32; 16] {
        let [params, grads, state, start, lanes] = self.piece;
        let lane = self.lanes.elements();
        let (rows, width) = (self.list.rows, self.list.width / lane);
        let walk = [self.groups, self.grid(limits).0.into(), stride / lane, params, grads, state, start, lanes];
        let [key, element] = self.chance;
        let listed = [rows, width, list, self.list.most, count, self.first, key, element];
        std::array::from_fn(|i| if i < 8 { walk[i] } else { listed[i - 8] } as u32)
    }
}
