//! Memory for long arrays that are walked together: in huge pages, and off powers of two.
//!
//! Arrays that start a power of two apart fall into the same sets of a CPU's caches, which costs a step that walks
//! five of them up to 3.7x. Huge pages give 3 to 8 %.

use std::ops::{Deref, DerefMut};

use bytemuck::Pod;

use crate::Error;

/// Bytes from which an array is mapped, by the feature `parallel`; shorter ones stay in a cache anyway.
#[cfg(feature = "parallel")]
const MAPPED: usize = 1 << 20;
/// Bytes by which each array of a row is shifted: a page, and a line of the cache.
#[cfg(feature = "parallel")]
const SHIFT: usize = 4096 + 64;

/// An array of numbers.
#[derive(Debug)]
pub struct Pages<T>(Memory<T>);

#[derive(Debug)]
enum Memory<T> {
    Heap(Vec<T>),
    #[cfg(feature = "parallel")]
    Mapped {
        map: memmap2::MmapMut,
        start: usize,
        len: usize,
    },
}

impl<T: Pod + PartialEq> Pages<T> {
    /// `len` numbers, all `initial`. Arrays that are walked together should differ in `row`, from 0 up: they are
    /// shifted by it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(len: usize, row: usize, initial: T) -> Result<Self, Error> {
        let size = len.saturating_mul(size_of::<T>());
        let refused = |message: String| Error::OutOfMemory { doing: format!("{size} bytes of memory"), message };
        #[cfg(feature = "parallel")]
        if size >= MAPPED {
            let start = row * SHIFT;
            let map = map(size.saturating_add(start)).map_err(|error| refused(error.to_string()))?;
            let mut pages = Self(Memory::Mapped { map, start, len });
            if initial != T::zeroed() {
                pages.fill(initial);
            }
            return Ok(pages);
        }
        let _ = row;
        let mut values = Vec::new();
        values.try_reserve_exact(len).map_err(|error| refused(error.to_string()))?;
        values.resize(len, initial);
        Ok(Self(Memory::Heap(values)))
    }
}

/// Zeros in huge pages, where the system has them.
#[cfg(feature = "parallel")]
fn map(size: usize) -> std::io::Result<memmap2::MmapMut> {
    let map = memmap2::MmapMut::map_anon(size)?;
    // Advice: a system that does not take it gives small pages.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

impl<T> Default for Pages<T> {
    /// No numbers.
    fn default() -> Self {
        Self(Memory::Heap(Vec::new()))
    }
}

impl<T: Pod> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Memory::Heap(values) => values,
            #[cfg(feature = "parallel")]
            Memory::Mapped { map, start, len } => bytemuck::cast_slice(&map[*start..*start + len * size_of::<T>()]),
        }
    }
}

impl<T: Pod> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Memory::Heap(values) => values,
            #[cfg(feature = "parallel")]
            Memory::Mapped { map, start, len } => {
                bytemuck::cast_slice_mut(&mut map[*start..*start + *len * size_of::<T>()])
            }
        }
    }
}

impl<T: Pod> Clone for Pages<T> {
    /// A copy on the heap: what is cloned is seldom stepped.
    fn clone(&self) -> Self {
        Self(Memory::Heap(self.to_vec()))
    }
}
