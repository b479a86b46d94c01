//! Where the slots lie.

use super::{ARRAYS, Slice, SliceMut, array_of};
use crate::Error;
use crate::format::blocks::{BLOCK, Map};
use crate::format::halves::Half;
use crate::format::{Plane, Q8Zero, Rounding, Storage};
use crate::pages::Pages;
use crate::roster::Roster;
use crate::rule::Rule;
use crate::wgsl::Real;

/// All arrays of a tensor: those that an update sees, and what its formats keep besides.
pub(crate) const ALL: usize = ARRAYS + 1;

/// The slots of all tensors: those of a group that lie alike in one array for each slot, so that many small ones lie as
/// one large.
#[derive(Clone, Debug)]
pub(crate) struct State<T: Real> {
    blocks: Vec<Block<T>>,
    /// Each tensor's block, and its place there.
    of: Vec<(usize, usize)>,
}

#[derive(Clone, Debug)]
struct Block<T: Real> {
    /// For each slot; empty where it is not kept.
    arrays: [Array<T>; ALL],
    places: Places,
}

/// Where tensors lie in each array of a block.
#[derive(Clone, Debug)]
struct Places {
    /// Tensors start at multiples of so many elements.
    line: usize,
    end: usize,
    /// (first element, elements) of each tensor.
    all: Vec<(usize, usize)>,
}

#[derive(Clone, Debug)]
enum Array<T: Real> {
    Full(Pages<T>),
    Half(Half, Pages<u16>),
    Q8 { map: Map, codes: Pages<u8>, scales: Pages<f32> },
}

impl<T: Real> Default for State<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), of: Vec::new() }
    }
}

impl<T: Real> State<T> {
    /// Adds tensors of a group that have taken no step.
    pub fn add<R: Rule>(&mut self, roster: &Roster<R>, group: usize, lens: Vec<usize>) -> Result<(), Error> {
        let mut alike: Vec<(Vec<Plane>, Places)> = Vec::new();
        let mut of = Vec::new();
        for len in lens {
            let planes = roster.planes_of(group, len as u64);
            let known = alike.iter().position(|(known, _)| *known == planes);
            let block = known.unwrap_or(alike.len());
            if known.is_none() {
                alike.push((planes.clone(), Places::new(&planes)));
            }
            of.push((self.blocks.len() + block, alike[block].1.add(len)));
        }
        let block = |(planes, places): (Vec<Plane>, Places)| Block::new(roster, group, &planes, places);
        let blocks = alike.into_iter().map(block).collect::<Result<Vec<_>, _>>()?;
        self.blocks.extend(blocks);
        self.of.extend(of);
        Ok(())
    }

    /// Every array of every tensor, empty where it is not kept.
    pub fn arrays(&mut self) -> impl Iterator<Item = [SliceMut<'_, T>; ALL]> {
        let mut rests: Vec<_> = self.blocks.iter_mut().map(Block::rest).collect();
        self.of.iter().map(move |&(block, place)| {
            let (rest, places) = &mut rests[block];
            let (_, len) = places.all[place];
            rest.each_mut().map(|rest| rest.split_off(places.padded(len)).split_off(len))
        })
    }

    /// The arrays that an update sees, where they lie as they are computed with, and empty otherwise.
    pub fn slices(&mut self) -> impl Iterator<Item = [&mut [T]; ARRAYS]> {
        self.arrays().map(|[a, b, c, ema, sums, _]| [a, b, c, ema, sums].map(SliceMut::full))
    }

    /// An array that is kept.
    pub fn view(&self, tensor: usize, array: usize) -> Slice<'_, T> {
        let (block, place) = self.of[tensor];
        let Block { arrays, places } = &self.blocks[block];
        let (start, len) = places.all[place];
        arrays[array].view(start, len)
    }

    /// An array that is kept.
    pub fn view_mut(&mut self, tensor: usize, array: usize) -> SliceMut<'_, T> {
        let (block, place) = self.of[tensor];
        let Block { arrays, places } = &mut self.blocks[block];
        let (start, len) = places.all[place];
        let mut rest = arrays[array].all_mut();
        rest.split_off(start);
        rest.split_off(len)
    }

    /// Bytes of all tensors' slots.
    pub fn size(&self) -> usize {
        let of_tensor = |tensor| (0..ALL).map(move |array| self.view(tensor, array).size()).sum::<usize>();
        (0..self.of.len()).map(of_tensor).sum()
    }
}

impl<T: Real> Block<T> {
    fn new<R: Rule>(roster: &Roster<R>, group: usize, planes: &[Plane], places: Places) -> Result<Self, Error> {
        let (settings, formats) = (roster.group(group)?, roster.formats(group)?);
        let mut arrays: [Array<T>; ALL] = Default::default();
        for &Plane { slot, storage } in planes {
            let own = R::SLOTS.iter().position(|known| *known == slot);
            let initial = own.map_or(0.0, |slot| settings.initial(slot));
            let array = array_of::<R>(slot);
            arrays[array] = Array::new(storage, formats.q8_zero, (places.end, array + 1), initial)?;
        }
        Ok(Self { arrays, places })
    }

    /// What there is to hand out to its tensors in turn.
    fn rest(&mut self) -> ([SliceMut<'_, T>; ALL], &Places) {
        (self.arrays.each_mut().map(Array::all_mut), &self.places)
    }
}

impl Places {
    fn new(planes: &[Plane]) -> Self {
        // A line of the cache, in elements, or a block and its scale.
        let line = |plane: &Plane| if plane.storage.has_scales() { BLOCK } else { 64 / plane.storage.size() };
        Self { line: planes.iter().map(line).max().unwrap_or(1) as usize, end: 0, all: Vec::new() }
    }

    fn padded(&self, len: usize) -> usize {
        len.div_ceil(self.line).saturating_mul(self.line)
    }

    /// Appends a tensor; returns its place.
    fn add(&mut self, len: usize) -> usize {
        self.all.push((self.end, len));
        self.end = self.end.saturating_add(self.padded(len));
        self.all.len() - 1
    }
}

impl<T: Real> Array<T> {
    fn new(storage: Storage, zero: Q8Zero, (len, row): (usize, usize), initial: f64) -> Result<Self, Error> {
        let single = initial as f32;
        let half = |half: Half| {
            let code = half.narrow(single, Rounding::Nearest, 0);
            Ok(Self::Half(half, Pages::new(len, row, code)?))
        };
        match storage {
            Storage::F32 => Ok(Self::Full(Pages::new(len, row, T::from_f64(initial))?)),
            Storage::F16 => half(Half::F16),
            Storage::Bf16 => half(Half::Bf16),
            Storage::Q8Signed | Storage::Q8Unsigned => {
                let (map, scale) = (Map::new(storage == Storage::Q8Unsigned, zero), single.abs());
                let codes = Pages::new(len, row, map.encode(single, scale))?;
                Ok(Self::Q8 { map, codes, scales: Pages::new(len.div_ceil(BLOCK as usize), row, scale)? })
            }
        }
    }

    fn all(&self) -> Slice<'_, T> {
        match self {
            Self::Full(values) => Slice::Full(values),
            Self::Half(Half::F16, codes) => Slice::F16(bytemuck::cast_slice(codes)),
            Self::Half(Half::Bf16, codes) => Slice::Bf16(bytemuck::cast_slice(codes)),
            Self::Q8 { map, codes, scales } => Slice::Q8 { map: *map, codes, scales },
        }
    }

    fn all_mut(&mut self) -> SliceMut<'_, T> {
        match self {
            Self::Full(values) => SliceMut::Full(values),
            Self::Half(Half::F16, codes) => SliceMut::F16(bytemuck::cast_slice_mut(codes)),
            Self::Half(Half::Bf16, codes) => SliceMut::Bf16(bytemuck::cast_slice_mut(codes)),
            Self::Q8 { map, codes, scales } => SliceMut::Q8 { map: *map, codes, scales },
        }
    }

    fn view(&self, start: usize, len: usize) -> Slice<'_, T> {
        let mut rest = self.all();
        rest.split_off(start);
        rest.split_off(len)
    }
}

impl<T: Real> Default for Array<T> {
    fn default() -> Self {
        Self::Full(Pages::default())
    }
}
