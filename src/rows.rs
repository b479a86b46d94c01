//! Lists and maps of rows that lie on the device.

use wgpu::BufferUsages;

use crate::Error;
use crate::map::Map;
use crate::plan::ELEMENT;
use crate::tensor::{BufferRange, Tensor};

/// Rows of a tensor: a list of `u32` on the device, each the number of a row, the first being 0.
///
/// A tensor has rows by its shape: the first dimension counts them, the product of the others is their length. The list
/// is read when the step runs, so that a kernel of the caller's, recorded before it, may write it. A number that is no row
/// is passed over. A row that is listed twice is the caller's mistake: nothing else is harmed, but what remains in it is
/// not defined: of its numbers either step, and of those of 16 bits any. The buffer needs usage `STORAGE`, and must be another than those of the tensor.
#[derive(Clone, Debug)]
pub struct Rows {
    pub(crate) list: BufferRange,
    pub(crate) count: Option<BufferRange>,
}

impl Rows {
    /// The rows that this range lists, 4 bytes each: none, where it is empty.
    pub fn new(list: impl Into<BufferRange>) -> Self {
        Self { list: list.into(), count: None }
    }

    /// Only as many of them as the `u32` at this byte of a buffer says when the step runs; where it says more than the
    /// list has, all of them. What is dispatched is for the whole list, so a range that is not much too long costs less.
    pub fn counted(self, buffer: &wgpu::Buffer, offset: u64) -> Self {
        Self { count: Some(BufferRange::new(buffer, offset, ELEMENT)), ..self }
    }

    /// Refuses a list that cannot be bound beside the tensor.
    pub(crate) fn check(&self, tensor: &Tensor, binding: u64, alignment: u64) -> Result<(), Error> {
        check_words(&self.list, "rows", tensor, binding, alignment)?;
        self.count.as_ref().map_or(Ok(()), |count| check_words(count, "the count of rows", tensor, binding, alignment))
    }
}

/// A [`Map`], made on the host or on the device.
///
/// On the device it is a range of `u32`, one for each row that is to be, read when what is recorded runs; there a number
/// that is no row marks a fresh one. The buffer needs usage `STORAGE`, and must be another than those of the tensor.
#[derive(Clone, Debug)]
pub enum RowMap {
    /// Made on the host; checked, and copied.
    Host(Map),
    /// Lies on the device.
    Device(BufferRange),
}

impl From<Map> for RowMap {
    fn from(map: Map) -> Self {
        Self::Host(map)
    }
}

impl From<BufferRange> for RowMap {
    fn from(range: BufferRange) -> Self {
        Self::Device(range)
    }
}

impl RowMap {
    /// Refuses a map that is not one from so many rows to the rows of `tensor`.
    pub(crate) fn check(&self, tensor: &Tensor, rows: u64, binding: u64, alignment: u64) -> Result<(), Error> {
        let (name, expected) = (tensor.name(), tensor.rows()?);
        match self {
            Self::Host(map) => {
                map.check(name, rows, expected)?;
                check_bound(expected * ELEMENT, binding, 0)
            }
            Self::Device(range) if range.len() != expected => {
                Err(Error::Map { name: name.into(), found: range.len(), expected })
            }
            Self::Device(range) => check_words(range, "the map", tensor, binding, alignment),
        }
    }
}

fn check_words(
    range: &BufferRange,
    what: &'static str,
    tensor: &Tensor,
    binding: u64,
    alignment: u64,
) -> Result<(), Error> {
    range.check_bytes(what, tensor.name(), 4)?;
    range.check_usage(what, tensor.name(), BufferUsages::STORAGE)?;
    for (of, other) in [("parameters", tensor.params()), ("gradient", tensor.grads())] {
        if range.buffer() == other.buffer() {
            return Err(Error::SameBuffer { what, name: tensor.name().into(), of });
        }
    }
    check_bound(range.size(), binding, alignment)
}

/// Refuses what no binding holds, with what may lie before it.
fn check_bound(size: u64, available: u64, alignment: u64) -> Result<(), Error> {
    let (limit, needed) = ("max_storage_buffer_binding_size", size + alignment);
    if needed > available { Err(Error::Limits { limit, needed, available }) } else { Ok(()) }
}
