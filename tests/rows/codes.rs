//! Tensors with rows in the formats of a group, side by side in two buffers, as the bytes that they lie in; and the same
//! on the CPU.

use std::collections::BTreeMap;
use std::ops::Range;

use wgpu_optim::cpu::{self, Slice, SliceMut};
use wgpu_optim::format::codes::Codes;
use wgpu_optim::format::{Format, Formats, KAHAN, Q8Zero, Storage};
use wgpu_optim::{BufferRange, Chain, Group, Kernels, Optimizer, Rows, Rule, Tensor, readback, wgpu};

use crate::stand::{Lists, list, values};
use crate::support::Gpu;

/// What no tensor's bytes are: as numbers of 16 bits NaN, so that a norm that reached them would know.
const CANARY: u8 = 0xff;

/// A tensor to be: rows, elements of each, and elements off a quad, or nothing where it begins where the last one ends, be
/// it within a word.
pub type Spec = (usize, usize, Option<usize>);

/// The numbers of one slot: those of elements, and of scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    pub storage: Storage,
    pub codes: Codes,
}

impl Slot {
    /// The same: of a block whose scale is 0 no code says anything.
    pub fn said(mut self) -> Self {
        let blocks = self.codes.elements.chunks_mut(256).zip(self.codes.scales.chunks(4));
        blocks.filter(|(_, scale)| **scale == [0; 4]).for_each(|(codes, _)| codes.fill(0));
        self
    }
}

/// One tensor, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub params: Vec<u8>,
    pub grads: Vec<u8>,
    pub slots: BTreeMap<&'static str, Slot>,
}

/// Numbers of a format, aligned as such.
#[derive(Clone)]
pub struct Numbers {
    format: Format,
    words: Vec<u32>,
    size: usize,
}

impl Numbers {
    pub fn new(format: Format, bytes: &[u8]) -> Self {
        let mut words = vec![0u32; bytes.len().div_ceil(4)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self { format, words, size: bytes.len() }
    }

    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.size]
    }

    pub fn slice(&self) -> Slice<'_> {
        Slice::of_bytes(self.format, self.bytes()).unwrap()
    }

    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        SliceMut::of_bytes(self.format, &mut bytemuck::cast_slice_mut(&mut self.words)[..self.size]).unwrap()
    }
}

/// Numbers as they are stored, each the nearest.
pub fn nearest(storage: Storage, values: &[f32]) -> Codes {
    Codes::of(storage, Q8Zero::default(), values)
}

/// An optimizer with its tensors, and its twin.
pub struct Narrow<R: Rule> {
    pub gpu: Gpu,
    pub formats: Formats,
    pub optimizer: Optimizer<R>,
    pub params: wgpu::Buffer,
    pub grads: wgpu::Buffer,
    pub twin: cpu::Optimizer<R, f32>,
    steps: usize,
}

impl<R: Rule> Narrow<R> {
    pub fn new(gpu: &Gpu, rule: R, formats: &Formats, chain: &Chain, specs: &[Spec]) -> Self {
        let mut end = 5;
        let mut place = |&(rows, width, shift): &Spec| {
            let first = shift.map_or(end, |shift| usize::next_multiple_of(end, 64) + shift);
            end = first + rows * width;
            first
        };
        let firsts: Vec<usize> = specs.iter().map(&mut place).collect();
        let [params, grads] = [formats.params, formats.grads].map(|format| canaries(gpu, end + 9, format));
        let tensor =
            |(i, &(rows, width, _)): (usize, &Spec)| tensor(i, formats, [&params, &grads], firsts[i], [rows, width]);
        let tensors: Vec<Tensor> = specs.iter().enumerate().map(tensor).collect();
        let group = Group::new(rule.clone(), tensors.clone()).with_formats(formats.clone());
        let kernels = Kernels::new(&gpu.device).unwrap();
        let optimizer = Optimizer::with_chain(&gpu.device, &kernels, chain.clone(), [group]).unwrap();
        let mut twin = cpu::Optimizer::with_chain(Chain { zero_grads: false, ..chain.clone() }).unwrap();
        let named = specs.iter().zip(&tensors).map(|((rows, width, _), tensor)| (tensor.name(), rows * width));
        twin.add_group_with(rule, formats.clone(), named).unwrap();
        let (gpu, formats) = (gpu.clone(), formats.clone());
        let stand = Self { gpu, formats, optimizer, params, grads, twin, steps: 0 };
        for (i, tensor) in tensors.iter().enumerate() {
            let own = values(i, tensor.params().len_of(stand.formats.params) as usize);
            stand.upload(tensor.params(), &nearest(stand.formats.params.storage(), &own).elements);
        }
        stand
    }

    pub fn upload(&self, range: &BufferRange, bytes: &[u8]) {
        readback::upload_blocking(&self.gpu.device, &self.gpu.queue, range, bytes).unwrap();
    }

    pub fn download(&self, range: &BufferRange) -> Vec<u8> {
        readback::download_blocking(&self.gpu.device, &self.gpu.queue, range).unwrap()
    }

    pub fn names(&self) -> Vec<String> {
        self.optimizer.tensors().iter().map(|tensor| tensor.name().to_string()).collect()
    }

    /// Rows of a tensor, and elements of each.
    pub fn shape(&self, tensor: usize) -> [usize; 2] {
        let shape = self.optimizer.tensors()[tensor].shape().unwrap();
        [shape[0] as usize, shape[1] as usize]
    }

    /// Gradients of the next step.
    pub fn draw(&mut self) {
        self.steps += 1;
        for (i, tensor) in self.optimizer.tensors().iter().enumerate() {
            let range = tensor.grads();
            let own = values(1000 * self.steps + i, range.len_of(self.formats.grads) as usize);
            self.upload(range, &nearest(self.formats.grads.storage(), &own).elements);
        }
    }

    pub fn held(&self) -> Vec<Held> {
        let held = |tensor: &Tensor| Held {
            params: self.download(tensor.params()),
            grads: self.download(tensor.grads()),
            slots: self.slots(tensor.name()),
        };
        self.optimizer.tensors().iter().map(held).collect()
    }

    fn slots(&self, name: &str) -> BTreeMap<&'static str, Slot> {
        let all = |ranges: Vec<BufferRange>| ranges.iter().flat_map(|range| self.download(range)).collect();
        let slot = |slot: &'static str| {
            let elements = all(self.optimizer.state_ranges(name, slot).unwrap());
            let scales = all(self.optimizer.scale_ranges(name, slot).unwrap());
            (
                slot,
                Slot { storage: self.optimizer.storage(name, slot).unwrap(), codes: Codes { elements, scales } }.said(),
            )
        };
        self.optimizer.slots(name).unwrap().into_iter().map(slot).collect()
    }

    /// What of a buffer is no tensor's, which nothing may write.
    pub fn around(&self, buffer: &wgpu::Buffer) -> Vec<u8> {
        let tensors = self.optimizer.tensors().iter();
        self.beyond(buffer, tensors.flat_map(|tensor| [tensor.params(), tensor.grads()]))
    }

    /// The bytes of a buffer, without those of these ranges.
    pub fn beyond<'a>(&self, buffer: &wgpu::Buffer, ranges: impl IntoIterator<Item = &'a BufferRange>) -> Vec<u8> {
        let mut bytes = self.download(&buffer.into());
        for range in ranges.into_iter().filter(|range| range.buffer() == buffer) {
            bytes[range.offset() as usize..][..range.size() as usize].fill(CANARY);
        }
        bytes
    }

    pub fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device.create_command_encoder(&Default::default())
    }

    pub fn submit(&self, encoder: wgpu::CommandEncoder) {
        self.gpu.queue.submit([encoder.finish()]);
    }

    /// One step on the device, by lists there.
    pub fn step_rows(&mut self, rows: &[(usize, Rows)]) {
        let names = self.names();
        let named = rows.iter().map(|(tensor, rows)| (names[*tensor].as_str(), rows.clone()));
        let mut encoder = self.encoder();
        self.optimizer.record_rows(&self.gpu.device, &mut encoder, named).unwrap();
        self.submit(encoder);
    }

    /// Puts the twin's state where the device's is.
    pub fn twin_is(&mut self, held: &[Held]) {
        for (name, held) in self.names().iter().zip(held) {
            for (slot, Slot { codes, .. }) in &held.slots {
                match self.twin.stored_mut(name, slot).unwrap() {
                    SliceMut::Full(own) => bytemuck::cast_slice_mut(own).copy_from_slice(&codes.elements),
                    SliceMut::F16(own) => bytemuck::cast_slice_mut(own).copy_from_slice(&codes.elements),
                    SliceMut::Bf16(own) => bytemuck::cast_slice_mut(own).copy_from_slice(&codes.elements),
                    SliceMut::Q8 { codes: own, scales, .. } => {
                        own.copy_from_slice(&codes.elements);
                        bytemuck::cast_slice_mut(scales).copy_from_slice(&codes.scales);
                    }
                }
            }
        }
    }

    /// What the twin's slots are.
    pub fn twin_slots(&self, name: &str) -> BTreeMap<&'static str, Slot> {
        let slot = |slot: &'static str| {
            let (elements, scales): (&[u8], &[u8]) = match self.twin.stored(name, slot).unwrap() {
                Slice::Full(own) => (bytemuck::cast_slice(own), &[]),
                Slice::F16(own) => (bytemuck::cast_slice(own), &[]),
                Slice::Bf16(own) => (bytemuck::cast_slice(own), &[]),
                Slice::Q8 { codes, scales, .. } => (codes, bytemuck::cast_slice(scales)),
            };
            let codes = Codes { elements: elements.to_vec(), scales: scales.to_vec() };
            (slot, Slot { storage: self.twin.storage(name, slot).unwrap(), codes }.said())
        };
        self.twin.slots(name).unwrap().into_iter().map(slot).collect()
    }

    /// The twin one step after `before`.
    fn twin_step(&mut self, before: &[Held], lists: &Lists<'_>) -> Vec<Held> {
        self.twin_is(before);
        let names = self.names();
        let rows: Vec<_> = lists
            .iter()
            .map(|&(tensor, list)| (names[tensor].as_str(), cpu::Rows { width: self.shape(tensor)[1], list }))
            .collect();
        let mut params: Vec<Numbers> =
            before.iter().map(|held| Numbers::new(self.formats.params, &held.params)).collect();
        let grads: Vec<Numbers> = before.iter().map(|held| Numbers::new(self.formats.grads, &held.grads)).collect();
        let mut lent: Vec<SliceMut<'_>> = params.iter_mut().map(Numbers::slice_mut).collect();
        let mut given: Vec<Slice<'_>> = grads.iter().map(Numbers::slice).collect();
        if self.twin.chain().accumulate {
            given.clear();
        }
        self.twin.step_rows_slices(&mut lent, &given, rows).unwrap();
        let held = |((name, params), before): ((&String, &Numbers), &Held)| Held {
            params: params.bytes().to_vec(),
            grads: before.grads.clone(),
            slots: self.twin_slots(name),
        };
        names.iter().zip(&params).zip(before).map(held).collect()
    }

    /// One step by lists, held to the twin's: listed rows to what a correct device may store, all else to its bits. `rows`
    /// are the lists on the device, which may say more.
    pub fn verified_by(&mut self, lists: &Lists<'_>, rows: &[(usize, Rows)]) {
        self.draw();
        let (before, around) = (self.held(), [&self.params, &self.grads].map(|buffer| self.around(buffer)));
        self.step_rows(rows);
        let (after, expected) = (self.held(), self.twin_step(&before, lists));
        let mut off = Off::default();
        for (tensor, (after, expected)) in after.iter().zip(&expected).enumerate() {
            let listed = self.listed(tensor, lists);
            self.beside(tensor, [after, expected], &listed, &mut off);
            assert!(!listed.contains(&true) || *after != before[tensor], "t{tensor} was not stepped");
        }
        assert!(off.holds(), "{off:?} of {:?}", self.formats);
        assert!(around == [&self.params, &self.grads].map(|buffer| self.around(buffer)), "a neighbour was written");
    }

    pub fn verified_step(&mut self, lists: &Lists<'_>) {
        let rows: Vec<(usize, Rows)> = lists.iter().map(|&(tensor, rows)| (tensor, list(&self.gpu, rows))).collect();
        self.verified_by(lists, &rows);
    }

    /// The elements of the rows that are stepped: all, where there is no list.
    fn listed(&self, tensor: usize, lists: &Lists<'_>) -> Vec<bool> {
        let [rows, width] = self.shape(tensor);
        let list = lists.iter().find(|(listed, _)| *listed == tensor);
        let of = |row: u32| list.is_none_or(|(_, list)| list.contains(&row));
        (0..rows as u32).flat_map(|row| std::iter::repeat_n(of(row), width)).collect()
    }

    /// Compares one tensor with what it should be.
    fn beside(&self, tensor: usize, [found, expected]: [&Held; 2], listed: &[bool], off: &mut Off) {
        let params = self.formats.params.storage();
        let numbers = |bytes: &[u8]| Codes { elements: bytes.to_vec(), scales: Vec::new() }.values(params);
        let (own, theirs) = (numbers(&found.params), numbers(&expected.params));
        off.compare(params, [&found.params, &expected.params], listed, &format!("parameters of t{tensor}"));
        let zeroed = |(bytes, listed): (&[u8], &bool)| if *listed { vec![0; bytes.len()] } else { bytes.to_vec() };
        let grads = expected.grads.chunks(self.formats.grads.size() as usize).zip(listed);
        let grads: Vec<u8> = match self.optimizer.chain().zero_grads {
            true => grads.flat_map(zeroed).collect(),
            false => expected.grads.clone(),
        };
        assert!(found.grads == grads, "gradients of t{tensor}");
        for (slot, Slot { storage, codes }) in &found.slots {
            let (what, expected) = (format!("{slot} of t{tensor}"), &expected.slots[slot]);
            assert_eq!(*storage, expected.storage, "{what}");
            if *slot == KAHAN {
                // What one of two neighbours has lost is not what the other has.
                let (lost, theirs_lost) = (codes.values(*storage), expected.codes.values(*storage));
                let most = largest(&theirs) * 1e-5;
                for i in 0..own.len() {
                    let (a, b) = (own[i] + lost[i], theirs[i] + theirs_lost[i]);
                    assert!((a - b).abs() <= most, "{what}[{i}]: {a} for {b}");
                    assert!(listed[i] || lost[i].to_bits() == theirs_lost[i].to_bits(), "{what}[{i}] is not listed");
                }
            } else if storage.has_scales() {
                assert!(listed.iter().all(|listed| !listed), "{what}: no rows of it can be listed");
                assert!(*codes == expected.codes, "{what}");
            } else {
                off.compare(*storage, [&codes.elements, &expected.codes.elements], listed, &what);
            }
        }
    }
}

/// How far a device is off.
#[derive(Debug, Default)]
pub struct Off {
    codes: u64,
    adjacent: u64,
}

impl Off {
    /// As many as `verify` lets be adjacent; of few codes, one or two.
    pub fn holds(&self) -> bool {
        self.adjacent <= 2 + self.codes / 200
    }

    /// Listed numbers are those expected, or near them; others are the very same.
    fn compare(&mut self, storage: Storage, [found, expected]: [&[u8]; 2], listed: &[bool], what: &str) {
        let size = storage.size() as usize;
        let values = |bytes: &[u8]| Codes { elements: bytes.to_vec(), scales: Vec::new() }.values(storage);
        let (own, theirs) = (values(found), values(expected));
        // A division may be some units off, and what is not a normal number may become 0.
        let most = 2e-6 * largest(&theirs) + f32::MIN_POSITIVE;
        for (i, (a, b)) in found.chunks(size).zip(expected.chunks(size)).enumerate() {
            self.codes += u64::from(listed[i]);
            if a == b {
                continue;
            }
            assert!(listed[i], "{what}[{i}] is not listed, and is {} for {}", own[i], theirs[i]);
            if (own[i] - theirs[i]).abs() <= most {
                continue;
            }
            let adjacent = size == 2 && place(a).abs_diff(place(b)) == 1;
            assert!(adjacent, "{what}[{i}]: {} for {}", own[i], theirs[i]);
            self.adjacent += 1;
        }
    }
}

#[test]
fn what_is_off_is_noticed() {
    let numbers: Vec<f32> = values(3, 400).iter().map(|x| x + 1.0).collect();
    let expected = nearest(Storage::Bf16, &numbers).elements;
    let compared = |off: &dyn Fn(&mut [u8]), listed: bool| {
        let mut found = expected.clone();
        off(&mut found);
        std::panic::catch_unwind(|| {
            let mut all = Off::default();
            all.compare(Storage::Bf16, [&found, &expected], &vec![listed; 400], "numbers");
            all
        })
    };
    let by_one = |found: &mut [u8], count: usize| (0..count).for_each(|i| found[160 * i] ^= 1);
    assert!(compared(&|found| by_one(found, 4), true).is_ok_and(|off| off.holds()));
    assert!(!compared(&|found| by_one(found, 5), true).is_ok_and(|off| off.holds()));
    assert!(compared(&|found| found[7 * 2] ^= 4, true).is_err());
    assert!(compared(&|found| by_one(found, 1), false).is_err());
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most: f32, x| most.max(x.abs()))
}

/// The number of a code of 16 bits among all, from the lowest up.
fn place(code: &[u8]) -> i32 {
    let code = i32::from(u16::from_le_bytes([code[0], code[1]]));
    if code & 0x8000 == 0 { code } else { 0x8000 - code }
}

/// A tensor of so many rows at element `first` of a buffer for each role.
pub fn tensor(
    i: usize,
    formats: &Formats,
    [params, grads]: [&wgpu::Buffer; 2],
    first: usize,
    [rows, width]: [usize; 2],
) -> Tensor {
    let range = |buffer, format: Format| {
        BufferRange::new(buffer, first as u64 * format.size(), (rows * width) as u64 * format.size())
    };
    let (params, grads) = (range(params, formats.params), range(grads, formats.grads));
    Tensor::new(format!("t{i}"), params, grads).with_shape([rows as u64, width as u64])
}

/// A buffer of canaries, with room for so many elements.
pub fn canaries(gpu: &Gpu, elements: usize, format: Format) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let size = (elements as u64 * format.size()).next_multiple_of(4);
    let label = Some("a buffer of the caller's");
    let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false });
    gpu.queue.write_buffer(&buffer, 0, &vec![CANARY; size as usize]);
    buffer
}

/// The bytes of a row of elements of so many bytes.
pub fn row(row: usize, width: usize, size: usize) -> Range<usize> {
    row * width * size..(row + 1) * width * size
}
