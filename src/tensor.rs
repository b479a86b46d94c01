//! The caller's buffers, checked once.

use wgpu::BufferUsages;

use crate::Error;
use crate::format::{Format, Formats};
use crate::plan::{ELEMENT, Place, Span};

/// A stretch of a buffer: the caller's buffer, never copied.
///
/// From `&buffer` (all of it) or from `buffer.slice(a..b)`, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct BufferRange {
    buffer: wgpu::Buffer,
    offset: u64,
    size: u64,
    /// Bytes from `offset` on that nobody else uses: `size`, or more in an arena.
    room: u64,
}

impl BufferRange {
    /// `size` bytes of `buffer` from `offset` on. Both must be whole elements, as the formats of the group have them.
    pub fn new(buffer: &wgpu::Buffer, offset: u64, size: u64) -> Self {
        Self { buffer: buffer.clone(), offset, size, room: size }
    }

    /// A range that has `room` bytes to itself, padding included.
    pub(crate) fn padded(buffer: &wgpu::Buffer, offset: u64, size: u64, room: u64) -> Self {
        Self { room, ..Self::new(buffer, offset, size) }
    }

    /// The buffer.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// The first byte.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Elements of `f32`: 4 bytes each.
    pub fn len(&self) -> u64 {
        self.len_of(Format::F32)
    }

    /// Elements of a format.
    pub fn len_of(&self, format: Format) -> u64 {
        self.size / format.size()
    }

    /// Whether the range holds no byte.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// As a resource for a bind group of the caller's. The offset must suit the device's alignment; those of an
    /// [`Arena`](crate::Arena) do, and the range must not be empty.
    pub fn as_binding(&self) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: self.offset,
            size: std::num::NonZeroU64::new(self.size),
        })
    }

    /// Elements that nobody else uses, from the first on.
    pub(crate) fn room(&self, format: Format) -> u64 {
        self.room / format.size()
    }

    pub(crate) fn place(&self, buffer: usize, format: Format) -> Place {
        let span = Span { buffer, offset: self.offset, size: self.size };
        Place { span, room: self.room, element: format.size() }
    }

    /// Refuses a range that no step could use.
    fn check(&self, what: &'static str, name: &str, format: Format) -> Result<(), Error> {
        if self.size == 0 {
            return Err(Error::Empty { what, name: name.into() });
        }
        let len = self.len_of(format);
        if len > u64::from(u32::MAX) {
            return Err(Error::TooLarge { what, name: name.into(), found: len, limit: u32::MAX.into() });
        }
        self.check_bytes(what, name, format.size())?;
        self.check_usage(what, name, BufferUsages::STORAGE)
    }

    /// Refuses a range that is not whole elements, or reaches out of the whole words of its buffer, which is what a device
    /// binds and copies.
    pub(crate) fn check_bytes(&self, what: &'static str, name: &str, multiple: u64) -> Result<(), Error> {
        let name = || name.to_string();
        if !self.offset.is_multiple_of(multiple) || !self.size.is_multiple_of(multiple) {
            let (offset, size) = (self.offset, self.size);
            return Err(Error::Misaligned { what, name: name(), offset, size, multiple });
        }
        let end = self.offset.saturating_add(self.size);
        let end = end.checked_next_multiple_of(ELEMENT).unwrap_or(end);
        if end > self.buffer.size() {
            return Err(Error::OutOfBounds { what, name: name(), end, buffer_size: self.buffer.size() });
        }
        Ok(())
    }

    pub(crate) fn check_usage(&self, what: &'static str, name: &str, usage: BufferUsages) -> Result<(), Error> {
        let missing = usage - self.buffer.usage();
        if missing.is_empty() {
            return Ok(());
        }
        let missing = missing.iter_names().map(|(flag, _)| flag).collect::<Vec<_>>().join(" | ");
        Err(Error::Usage { what, name: name.into(), missing })
    }
}

impl From<&wgpu::Buffer> for BufferRange {
    fn from(buffer: &wgpu::Buffer) -> Self {
        Self::new(buffer, 0, buffer.size())
    }
}

impl From<wgpu::BufferSlice<'_>> for BufferRange {
    fn from(slice: wgpu::BufferSlice<'_>) -> Self {
        Self::new(slice.buffer(), slice.offset(), slice.size())
    }
}

/// A named tensor: where its parameters lie, and where its gradient will be.
#[derive(Clone, Debug)]
pub struct Tensor {
    name: String,
    pub(crate) params: BufferRange,
    pub(crate) grads: BufferRange,
    shape: Option<Vec<u64>>,
}

impl Tensor {
    /// A tensor of `f32` elements, or of what the [formats](crate::Group::with_formats) of its group say. The name is the key of its state. Both buffers need usage `STORAGE` and nothing
    /// else; `COPY_SRC` and `COPY_DST` are for [`readback`](crate::readback).
    pub fn new(name: impl Into<String>, params: impl Into<BufferRange>, grads: impl Into<BufferRange>) -> Self {
        Self { name: name.into(), params: params.into(), grads: grads.into(), shape: None }
    }

    /// Also checks that a shape of this many elements was meant. The first dimension counts the tensor's rows.
    pub fn with_shape(mut self, shape: impl Into<Vec<u64>>) -> Self {
        self.shape = Some(shape.into());
        self
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shape, where one was given.
    pub fn shape(&self) -> Option<&[u64]> {
        self.shape.as_deref()
    }

    /// How many rows it has.
    pub(crate) fn rows(&self) -> Result<u64, Error> {
        match self.shape.as_deref() {
            Some(&[rows, ..]) if rows > 0 => Ok(rows),
            _ => Err(Error::NoRows { name: self.name.clone() }),
        }
    }

    /// The elements of a row, in a group of these formats.
    pub(crate) fn row_width(&self, formats: &Formats) -> Result<u64, Error> {
        Ok(self.len(formats) / self.rows()?)
    }

    /// Where the parameters lie.
    pub fn params(&self) -> &BufferRange {
        &self.params
    }

    /// Where the gradient lies.
    pub fn grads(&self) -> &BufferRange {
        &self.grads
    }

    /// Elements, in a group of these formats.
    pub(crate) fn len(&self, formats: &Formats) -> u64 {
        self.params.len_of(formats.params)
    }

    pub(crate) fn check(&self, formats: &Formats) -> Result<(), Error> {
        self.params.check("parameters", &self.name, formats.params)?;
        self.grads.check("gradient", &self.name, formats.grads)?;
        let (expected, found) = (self.len(formats), self.grads.len_of(formats.grads));
        if expected != found {
            return Err(Error::Length { what: "gradient".into(), name: self.name.clone(), found, expected });
        }
        self.check_shape(expected)
    }

    fn check_shape(&self, len: u64) -> Result<(), Error> {
        let Some(shape) = &self.shape else { return Ok(()) };
        let product = match shape.contains(&0) {
            true => Some(0),
            false => shape.iter().try_fold(1u64, |product, &side| product.checked_mul(side)),
        };
        if product == Some(len) {
            return Ok(());
        }
        Err(Error::Shape {
            name: self.name.clone(),
            shape: shape.clone(),
            product: product.map_or("2^64 or more".into(), |product| product.to_string()),
            len,
        })
    }
}

/// Refuses tensors whose parameters, or gradients that are zeroed, share bytes with anything else that is bound.
pub(crate) fn check_overlaps(names: &[&str], places: &[(Place, Place)], zeroed: bool) -> Result<(), Error> {
    struct Entry {
        span: Span,
        tensor: usize,
        what: &'static str,
        written: bool,
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(places.len() * 2);
    for (tensor, (params, grads)) in places.iter().enumerate() {
        for (what, place, written) in [("parameters", params, true), ("gradient", grads, zeroed)] {
            // What is written is so with the padding that is stepped with it.
            let size = if written { place.room } else { place.span.size };
            entries.push(Entry { span: Span { size, ..place.span }, tensor, what, written });
        }
    }
    entries.sort_by_key(|entry| (entry.span.buffer, entry.span.offset));
    // The entries so far that reach furthest: of those that are written, and of all.
    let mut written: Option<&Entry> = None;
    let mut any: Option<&Entry> = None;
    let further =
        |a: Option<&Entry>, b: &Entry| a.is_none_or(|a| a.span.buffer != b.span.buffer || a.span.end() < b.span.end());
    for entry in &entries {
        let rival = if entry.written { any } else { written };
        if let Some(other) = rival.filter(|other| other.span.meets(&entry.span)) {
            let describe = |entry: &Entry| format!("{} of {:?}", entry.what, names[entry.tensor]);
            return Err(Error::Overlap {
                first: describe(other),
                second: describe(entry),
                start: other.span.offset.max(entry.span.offset),
                end: other.span.end().min(entry.span.end()),
            });
        }
        if entry.written && further(written, entry) {
            written = Some(entry);
        }
        if further(any, entry) {
            any = Some(entry);
        }
    }
    Ok(())
}
