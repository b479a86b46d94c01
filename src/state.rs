//! The optimizer's own memory: pages of planes.

use crate::Error;
use crate::format::codes::Codes;
use crate::kernel::guarded;
use crate::plan::{self, Item, Placement};
use crate::roster::Roster;
use crate::rows::Rows;
use crate::rule::Rule;
use crate::tensor::{BufferRange, Tensor};

/// Every tensor's state, and where it lies.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub placement: Placement,
    pub pages: Vec<wgpu::Buffer>,
}

impl State {
    /// This state with more tensors behind it, each slot at what the rule starts from.
    pub fn extended<R: Rule, K: Ord>(
        &self,
        device: &wgpu::Device,
        items: &[Item],
        limits: &plan::Limits,
        order: impl Fn(usize) -> K,
        roster: &Roster<R>,
    ) -> Result<Self, Error> {
        let mut state = self.clone();
        state.placement.extend(items, limits, order);
        for page in state.pages.len()..state.placement.pages.len() {
            state.pages.push(new_page(device, &state.placement, page, roster)?);
        }
        Ok(state)
    }

    /// Refuses a tensor that lies in these pages: what a step writes must not be what it reads as something else.
    pub fn check_apart(&self, tensor: &Tensor) -> Result<(), Error> {
        for (what, range) in [("parameters", tensor.params()), ("gradient", tensor.grads())] {
            if self.pages.contains(range.buffer()) {
                let first = "the optimizer's own state".into();
                let second = format!("{what} of {:?}", tensor.name());
                let (start, end) = (range.offset(), range.offset() + range.size());
                return Err(Error::Overlap { first, second, start, end });
            }
        }
        Ok(())
    }

    /// Refuses a list of rows that lies in these pages, which a step writes.
    pub fn check_list(&self, rows: &Rows, name: &str) -> Result<(), Error> {
        let lists = [("rows", Some(&rows.list)), ("the count of rows", rows.count.as_ref())];
        let inside = |(_, range): &(&str, Option<&BufferRange>)| range.is_some_and(|r| self.pages.contains(r.buffer()));
        match lists.into_iter().find(inside) {
            Some((what, _)) => Err(Error::SameBuffer { what, name: name.into(), of: "state" }),
            None => Ok(()),
        }
    }

    /// Where one plane of a tensor lies, in order, the scales of blocks apart.
    pub fn ranges(&self, tensor: usize, plane: usize) -> Vec<BufferRange> {
        let range = |piece: &plan::Piece| {
            let span = piece.state(&self.placement.windows[piece.window], plane);
            BufferRange::new(&self.pages[span.buffer], span.offset, span.size)
        };
        self.placement.pieces_of(tensor).map(range).collect()
    }

    /// Where the scales of one plane's blocks lie, in order: nothing where it has none.
    pub fn scale_ranges(&self, tensor: usize, plane: usize) -> Vec<BufferRange> {
        let range = |piece: &plan::Piece| {
            let span = piece.scales(&self.placement.windows[piece.window], plane)?;
            Some(BufferRange::new(&self.pages[span.buffer], span.offset, span.size))
        };
        self.placement.pieces_of(tensor).filter_map(range).collect()
    }
}

/// A page of state, holding what the rule starts from.
fn new_page<R: Rule>(
    device: &wgpu::Device,
    placement: &Placement,
    page: usize,
    roster: &Roster<R>,
) -> Result<wgpu::Buffer, Error> {
    let size = placement.pages[page];
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let fills = fills(placement, page, roster);
    let label = Some("wgpu-optim state");
    let mapped_at_creation = !fills.is_empty();
    let doing = format!("{size} bytes of state");
    let (buffer, filled) = guarded(device, &doing, || {
        let buffer = device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation });
        let filled = fills.iter().try_for_each(|(offset, bytes)| fill(&buffer, *offset, bytes));
        if mapped_at_creation {
            buffer.unmap();
        }
        (buffer, filled)
    })?;
    filled.map_err(|error| Error::OutOfMemory { doing, message: error.to_string() })?;
    Ok(buffer)
}

/// What must be written to a new page, from which byte on: buffers start as zeros, which is where most slots start.
fn fills<R: Rule>(placement: &Placement, page: usize, roster: &Roster<R>) -> Vec<(u64, Vec<u8>)> {
    let mut fills = Vec::new();
    for piece in &placement.pieces {
        let window = &placement.windows[piece.window];
        if window.page != page {
            continue;
        }
        let stored = roster.stored(piece.tensor);
        for (number, plane) in stored.planes.iter().enumerate() {
            let initial = roster.initial(piece.tensor, plane.slot) as f32;
            if initial == 0.0 {
                continue;
            }
            let len = piece.len.next_multiple_of(plan::QUAD) as usize;
            let codes = Codes::of(plane.storage, stored.q8_zero, &vec![initial; len]);
            fills.push((piece.state(window, number).offset, codes.elements));
            fills.extend(piece.scales(window, number).map(|span| (span.offset, codes.scales)));
        }
    }
    fills
}

fn fill(buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<(), wgpu::MapRangeError> {
    // Mapped ranges start at multiples of 8, scales at multiples of 4.
    let start = offset / 8 * 8;
    let mut view = buffer.get_mapped_range_mut(start..offset + bytes.len() as u64)?;
    view.slice((offset - start) as usize..).copy_from_slice(bytes);
    Ok(())
}
