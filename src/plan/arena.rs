//! Where the tensors of an arena lie.

use super::{ELEMENT, Limits, QUAD, Span};
use crate::Error;

/// Where the tensors of an arena lie: the same for parameters and gradients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaLayout {
    /// Bytes of each page.
    pub pages: Vec<u64>,
    /// For each tensor; the buffer is the page.
    pub spans: Vec<Span>,
    /// For each tensor, bytes from its first to the next tensor's, or to the end of the page: its padding is its own.
    pub rooms: Vec<u64>,
}

/// Lays tensors, given as names and lengths in elements, into pages.
///
/// # Errors
/// [`Error::Empty`], [`Error::DuplicateName`], [`Error::TooLarge`].
pub fn arena(tensors: &[(&str, u64)], limits: &Limits) -> Result<ArenaLayout, Error> {
    let mut layout = ArenaLayout { pages: Vec::new(), spans: Vec::new(), rooms: Vec::new() };
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
        layout.rooms.push(room);
    }
    Ok(layout)
}
