//! Where the tensors of an arena lie.

use super::{ELEMENT, Limits, QUAD, Span};
use crate::Error;

/// Where the parameters of an arena's tensors lie, or their gradients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaLayout {
    /// Bytes of each page.
    pub pages: Vec<u64>,
    /// For each tensor; the buffer is the page.
    pub spans: Vec<Span>,
    /// For each tensor, bytes from its first to the next tensor's, or to the end of the page: its padding is its own.
    pub rooms: Vec<u64>,
}

/// Lays tensors of 32 bits, given as names and lengths in elements, into pages.
///
/// # Errors
/// As [`arena_of`].
pub fn arena(tensors: &[(&str, u64)], limits: &Limits) -> Result<ArenaLayout, Error> {
    let [params, _] = arena_of(tensors, [ELEMENT; 2], limits)?;
    Ok(params)
}

/// Lays the parameters and the gradients of tensors, given as names and lengths in elements, into pages, where an
/// element has so many bytes of each: the same tensors in the same pages of both.
///
/// # Errors
/// [`Error::Empty`], [`Error::DuplicateName`], [`Error::TooLarge`].
pub fn arena_of(tensors: &[(&str, u64)], elements: [u64; 2], limits: &Limits) -> Result<[ArenaLayout; 2], Error> {
    let mut layout = ArenaLayout { pages: Vec::new(), spans: Vec::new(), rooms: Vec::new() };
    let mut names = std::collections::HashSet::new();
    // In elements, until all have their places.
    let [params, grads] = elements;
    let alignment = limits.alignment.max(QUAD * ELEMENT) / params.min(grads);
    let buffer = limits.buffer / params.max(grads);
    let most = (buffer / alignment * alignment).min(u32::MAX.into());
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
        let room = len.next_multiple_of(alignment);
        let offset = match layout.pages.last() {
            Some(&used) if used + room <= buffer => used,
            _ => {
                layout.pages.push(0);
                0
            }
        };
        let buffer = layout.pages.len() - 1;
        layout.pages[buffer] = offset + room;
        layout.spans.push(Span { buffer, offset, size: len });
        layout.rooms.push(room);
    }
    Ok(elements.map(|element| layout.in_bytes(element)))
}

impl ArenaLayout {
    /// A layout in elements as one in bytes.
    fn in_bytes(&self, element: u64) -> Self {
        let span = |span: &Span| Span { offset: span.offset * element, size: span.size * element, ..*span };
        let all = |of: &[u64]| of.iter().map(|elements| elements * element).collect();
        Self { pages: all(&self.pages), spans: self.spans.iter().map(span).collect(), rooms: all(&self.rooms) }
    }
}
