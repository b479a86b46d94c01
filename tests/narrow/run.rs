//! A few tensors of one optimizer in some formats, and everything that a step may move, as bits.

use std::collections::BTreeMap;

use half::{bf16, f16};
use wgpu_optim::cpu::{Optimizer, Slice, SliceMut};
use wgpu_optim::format::{Format, Formats, Q8Zero, Rounding, StateFormat};
use wgpu_optim::{Chain, Error, Rule};

/// From one element to several tasks of several threads, odd ones and whole blocks.
pub const LENS: [usize; 9] = [1, 3, 255, 256, 257, 1021, 4096, 5000, 70_001];

/// Numbers that a caller keeps in their format.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Stored {
    pub fn new(format: Format, values: impl IntoIterator<Item = f32>) -> Self {
        let values = values.into_iter();
        match format {
            Format::F32 => Self::F32(values.collect()),
            Format::F16 => Self::F16(values.map(f16::from_f32).collect()),
            Format::Bf16 => Self::Bf16(values.map(bf16::from_f32).collect()),
        }
    }

    pub fn slice(&self) -> Slice<'_> {
        match self {
            Self::F32(values) => Slice::from(values.as_slice()),
            Self::F16(values) => Slice::from(values.as_slice()),
            Self::Bf16(values) => Slice::from(values.as_slice()),
        }
    }

    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        match self {
            Self::F32(values) => SliceMut::from(values.as_mut_slice()),
            Self::F16(values) => SliceMut::from(values.as_mut_slice()),
            Self::Bf16(values) => SliceMut::from(values.as_mut_slice()),
        }
    }
}

/// What is stored, as bits.
pub fn bits(slice: Slice<'_>) -> Vec<u32> {
    match slice {
        Slice::Full(values) => values.iter().map(|x| x.to_bits()).collect(),
        Slice::F16(values) => values.iter().map(|x| x.to_bits().into()).collect(),
        Slice::Bf16(values) => values.iter().map(|x| x.to_bits().into()).collect(),
        Slice::Q8 { codes, scales, .. } => {
            codes.iter().map(|&code| code.into()).chain(scales.iter().map(|x| x.to_bits())).collect()
        }
    }
}

/// A number between -1 and 1 that looks like chance.
pub fn number(seed: usize) -> f32 {
    let x = (seed as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((x >> 40) as f32 / (1 << 23) as f32) - 1.0
}

/// A gradient: of several magnitudes, and sometimes 0.
pub fn grad(tensor: usize, step: usize, i: usize) -> f32 {
    let x = number(7 + i * 31 + step * 1_000_003 + tensor * 77_777_777);
    match i % 7 {
        0 => 0.0,
        1 => x * 1e-4,
        2 => x * 30.0,
        _ => x,
    }
}

#[derive(Clone)]
pub struct Run<R: Rule> {
    pub optimizer: Optimizer<R, f32>,
    pub formats: Formats,
    pub params: Vec<Stored>,
    lens: Vec<usize>,
}

pub type Step<R> = fn(&mut Optimizer<R, f32>, &mut [SliceMut<'_>], &[Slice<'_>]) -> Result<(), Error>;

impl<R: Rule> Run<R> {
    pub fn new(settings: &R, chain: &Chain, formats: &Formats, lens: &[usize]) -> Self {
        let names: Vec<String> = lens.iter().map(|len| format!("of {len}")).collect();
        let mut optimizer = Optimizer::with_chain(chain.clone()).unwrap();
        let tensors = names.iter().map(String::as_str).zip(lens.iter().copied());
        optimizer.add_group_with(settings.clone(), formats.clone(), tensors).unwrap();
        let start = |(tensor, &len): (usize, &usize)| {
            Stored::new(formats.params, (0..len).map(|i| if i % 11 == 5 { 0.0 } else { number(i * 13 + tensor) }))
        };
        let params = lens.iter().enumerate().map(start).collect();
        Self { optimizer, formats: formats.clone(), params, lens: lens.to_vec() }
    }

    pub fn grads(&self, step: usize) -> Vec<Stored> {
        let of =
            |(tensor, &len): (usize, &usize)| Stored::new(self.formats.grads, (0..len).map(|i| grad(tensor, step, i)));
        self.lens.iter().enumerate().map(of).collect()
    }

    pub fn step(&mut self, step: usize, by: Step<R>) {
        let grads = self.grads(step);
        let grads: Vec<Slice<'_>> = grads.iter().map(Stored::slice).collect();
        let mut params: Vec<SliceMut<'_>> = self.params.iter_mut().map(Stored::slice_mut).collect();
        by(&mut self.optimizer, &mut params, &grads).unwrap();
    }

    /// Every parameter and every slot.
    pub fn bits(&self) -> Vec<Vec<u32>> {
        let mut all: Vec<Vec<u32>> = self.params.iter().map(|params| bits(params.slice())).collect();
        for name in self.optimizer.names() {
            for slot in self.optimizer.slots(name).unwrap() {
                all.push(bits(self.optimizer.stored(name, slot).unwrap()));
            }
        }
        all
    }
}

/// Formats that together hold everything there is.
pub fn all() -> Vec<(&'static str, Formats)> {
    let halves = |params, grads| Formats { params, grads, ..Formats::default() };
    let bf16 = halves(Format::Bf16, Format::Bf16);
    let f16 = halves(Format::F16, Format::F16);
    let by_chance = Formats { rounding: Rounding::Stochastic, seed: 1 << 40 | 5, ..bf16.clone() };
    let kahan = Formats { rounding: Rounding::Kahan, ..bf16.clone() };
    let q8 = Formats { state: StateFormat::Q8, q8_min: 256, ..Formats::default() };
    vec![
        ("plain", Formats::default()),
        ("bf16", bf16.clone()),
        ("bf16 of f32 gradients", halves(Format::Bf16, Format::F32)),
        ("f16", f16.clone()),
        ("f32 of f16 gradients", halves(Format::F32, Format::F16)),
        ("pure bf16", Formats { state: StateFormat::Bf16, ..bf16.clone() }),
        ("bf16 by chance", by_chance.clone()),
        ("pure bf16 by chance", Formats { state: StateFormat::Bf16, ..by_chance.clone() }),
        ("f16 by chance", Formats { rounding: Rounding::Stochastic, ..f16.clone() }),
        (
            "f32 with bf16 state by chance",
            Formats { params: Format::F32, state: StateFormat::Bf16, ..by_chance.clone() },
        ),
        ("bf16 with Kahan's", kahan.clone()),
        ("f16 with Kahan's", Formats { rounding: Rounding::Kahan, ..f16.clone() }),
        ("bf16 with a master", Formats { master: true, ..bf16.clone() }),
        ("f16 with a master by chance", Formats { master: true, rounding: Rounding::Stochastic, ..f16.clone() }),
        ("q8", q8.clone()),
        ("q8 as the reference", Formats { q8_min: 0, q8_zero: Q8Zero::Reference, ..q8.clone() }),
        ("q8 of bf16", Formats { params: Format::Bf16, grads: Format::Bf16, ..q8.clone() }),
        ("q8 with Kahan's", Formats { state: StateFormat::Q8, ..kahan.clone() }),
    ]
}

/// The first slot of a rule in 8 bits, the second in bf16, the others in `f32`.
pub fn mixed<R: Rule>() -> Formats {
    let formats = R::SLOTS.iter().zip([StateFormat::Q8, StateFormat::Bf16]);
    let slots: BTreeMap<String, StateFormat> = formats.map(|(slot, format)| (slot.to_string(), format)).collect();
    Formats { slots, params: Format::Bf16, ..Formats::default() }
}
