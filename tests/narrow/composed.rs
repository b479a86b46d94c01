//! A step in a format is: every number decoded, the step that knows of no format, every number encoded.

use wgpu_optim::cpu::{Optimizer, step};
use wgpu_optim::format::blocks::{self, Map};
use wgpu_optim::format::halves::Half;
use wgpu_optim::format::noise::{noise, step_key, stream, tensor_key};
use wgpu_optim::format::{Format, Formats, KAHAN, MASTER, Rounding, Storage};
use wgpu_optim::rule::{Rule, Visitor, cast, visit};
use wgpu_optim::wgsl::U32;
use wgpu_optim::{Chain, Clip};

use super::run::{LENS, Run, Stored, all, bits, mixed};

const STEPS: usize = 3;

#[test]
fn every_format_is_what_it_is_composed_of() {
    struct Each;
    impl Visitor for Each {
        fn rule<R: Rule>(&mut self) {
            for (format, formats) in all().into_iter().chain([("mixed", mixed::<R>())]) {
                composes(format, &R::PRESETS[0].2, &formats);
            }
        }
    }
    visit(&mut Each);
}

fn composes<R: Rule>(format: &str, settings: &R, formats: &Formats) {
    let mut run = Run::new(settings, &Chain::default(), formats, &LENS);
    let mut plain: Vec<Plain> =
        LENS.iter().zip(&run.params).map(|(len, start)| Plain::new(&run, *len, start)).collect();
    for t in 0..STEPS {
        let grads = run.grads(t);
        run.step(t, Optimizer::step_slices);
        for ((plain, grads), params) in plain.iter_mut().zip(&grads).zip(&run.params) {
            plain.step(settings, formats, t as u64, &grads.slice().to_vec());
            assert!(plain.params == bits(params.slice()), "{} in {format}: params {}", R::NAME, plain.name);
            for (slot, storage, codes) in &plain.slots {
                let stored = bits(run.optimizer.stored(&plain.name, slot).unwrap());
                assert!(*codes == stored, "{} in {format}: {slot} ({storage:?}) {}", R::NAME, plain.name);
            }
        }
    }
}

/// One tensor as bits, decoded and encoded whole.
struct Plain {
    name: String,
    format: Storage,
    params: Vec<u32>,
    /// In the order of planes.
    slots: Vec<(&'static str, Storage, Vec<u32>)>,
}

impl Plain {
    fn new<R: Rule>(run: &Run<R>, len: usize, start: &Stored) -> Self {
        let name = format!("of {len}");
        let slot = |slot| {
            let storage = run.optimizer.storage(&name, slot).unwrap();
            (slot, storage, bits(run.optimizer.stored(&name, slot).unwrap()))
        };
        let slots = run.optimizer.slots(&name).unwrap().into_iter().map(slot).collect();
        Self { format: run.formats.params.storage(), params: bits(start.slice()), slots, name }
    }

    fn step<R: Rule>(&mut self, settings: &R, formats: &Formats, recorded: u64, grads: &[f32]) {
        let by_chance = formats.rounding == Rounding::Stochastic;
        let key = U32(step_key(formats.seed, recorded));
        let tensor = U32(tensor_key(&self.name));
        let chance = |what: u32| by_chance.then(|| stream(key, tensor, U32(what)));
        let len = grads.len();
        let mut params = decoded(self.format, formats, &self.params, len);
        if let Some((_, storage, lost)) = self.slots.iter().find(|(slot, ..)| *slot == KAHAN) {
            let lost = decoded(*storage, formats, lost, len);
            params.iter_mut().zip(lost).for_each(|(p, lost)| *p += lost);
        }
        if let Some((_, _, master)) = self.slots.iter().find(|(slot, ..)| *slot == MASTER) {
            let taken = params.iter_mut().zip(master).filter(|(_, master)| **master != 0);
            taken.for_each(|(p, master)| *p = f32::from_bits(*master));
        }
        let mut slots = self.decoded_slots::<R>(formats, len);
        step(settings, &cast(&settings.fold(recorded + 1)), &mut params, grads, &mut slots);
        let rounding = if formats.rounding == Rounding::Kahan { None } else { chance(0) };
        self.params = encoded(self.format, formats, &params, rounding);
        for (plane, (slot, storage, codes)) in self.slots.iter_mut().enumerate() {
            *codes = match *slot {
                MASTER => encoded(Storage::F32, formats, &params, None),
                KAHAN => {
                    let kept = decoded(self.format, formats, &self.params, len);
                    let lost: Vec<f32> = params.iter().zip(kept).map(|(p, kept)| p - kept).collect();
                    encoded(*storage, formats, &lost, None)
                }
                own => {
                    let values = &slots[R::SLOTS.iter().position(|known| *known == own).unwrap()];
                    encoded(*storage, formats, values, chance(1 + plane as u32))
                }
            };
        }
    }

    /// The rule's slots; empty where it keeps none.
    fn decoded_slots<R: Rule>(&self, formats: &Formats, len: usize) -> Vec<Vec<f32>> {
        let slot = |slot: &&str| {
            let kept = self.slots.iter().find(|(own, ..)| own == slot);
            kept.map(|(_, storage, codes)| decoded(*storage, formats, codes, len)).unwrap_or_default()
        };
        R::SLOTS.iter().map(slot).collect()
    }
}

fn decoded(storage: Storage, formats: &Formats, codes: &[u32], len: usize) -> Vec<f32> {
    let half = |half: Half| codes.iter().map(|&code| half.widen(code as u16)).collect();
    match storage {
        Storage::F32 => codes.iter().map(|&code| f32::from_bits(code)).collect(),
        Storage::F16 => half(Half::F16),
        Storage::Bf16 => half(Half::Bf16),
        Storage::Q8Signed | Storage::Q8Unsigned => {
            let map = Map::new(storage == Storage::Q8Unsigned, formats.q8_zero);
            let scale = |i: usize| f32::from_bits(codes[len + i / 256]);
            (0..len).map(|i| map.decode(codes[i] as u8, scale(i))).collect()
        }
    }
}

fn encoded(storage: Storage, formats: &Formats, values: &[f32], stream: Option<U32>) -> Vec<u32> {
    let rounding = if stream.is_some() { Rounding::Stochastic } else { Rounding::Nearest };
    let noise = |i: usize| stream.map_or(0, |stream| noise(stream, U32(i as u32)).0);
    let half =
        |half: Half| values.iter().enumerate().map(|(i, &x)| half.narrow(x, rounding, noise(i)).into()).collect();
    match storage {
        Storage::F32 => values.iter().map(|x| x.to_bits()).collect(),
        Storage::F16 => half(Half::F16),
        Storage::Bf16 => half(Half::Bf16),
        Storage::Q8Signed | Storage::Q8Unsigned => {
            let map = Map::new(storage == Storage::Q8Unsigned, formats.q8_zero);
            let scales: Vec<f32> = values.chunks(256).map(blocks::scale).collect();
            let codes = values.iter().enumerate().map(|(i, &x)| map.encode(x, scales[i / 256]).into());
            codes.chain(scales.iter().map(|x| x.to_bits())).collect()
        }
    }
}

/// Gradients are measured, summed up and stepped with as the numbers that they are.
#[test]
fn gradients_of_16_bits_are_their_numbers() {
    use wgpu_optim::Adam;
    let chain = Chain { clip: Some(Clip::global_norm(0.5)), accumulate: true, ..Chain::default() };
    for grads in [Format::F16, Format::Bf16] {
        let narrow = Formats { grads, ..Formats::default() };
        let mut narrow = Run::new(&Adam::PYTORCH, &chain, &narrow, &LENS);
        let mut wide = Run::new(&Adam::PYTORCH, &chain, &Formats::default(), &LENS);
        for t in 0..3 {
            let of_16 = narrow.grads(t);
            let of_16: Vec<_> = of_16.iter().map(Stored::slice).collect();
            let of_32: Vec<Vec<f32>> = of_16.iter().map(|grads| grads.to_vec()).collect();
            let of_32: Vec<&[f32]> = of_32.iter().map(Vec::as_slice).collect();
            for weight in [0.5, 0.25] {
                narrow.optimizer.accumulate_slices(&of_16, weight).unwrap();
                wide.optimizer.accumulate(&of_32, weight).unwrap();
            }
            for run in [&mut narrow, &mut wide] {
                let mut params: Vec<_> = run.params.iter_mut().map(Stored::slice_mut).collect();
                run.optimizer.step_slices(&mut params, &[]).unwrap();
            }
            assert!(narrow.bits() == wide.bits());
        }
    }
}

#[test]
fn a_clip_measures_gradients_of_16_bits() {
    use wgpu_optim::Adam;
    let chain = Chain { clip: Some(Clip::global_norm(0.5)), ..Chain::default() };
    for grads in [Format::F16, Format::Bf16] {
        for by in [Optimizer::step_slices, Optimizer::step_slices_parallel] {
            let mut narrow = Run::new(&Adam::PYTORCH, &chain, &Formats { grads, ..Formats::default() }, &LENS);
            let mut wide = Run::new(&Adam::PYTORCH, &chain, &Formats::default(), &LENS);
            let values: Vec<Vec<f32>> = narrow.grads(0).iter().map(|grads| grads.slice().to_vec()).collect();
            narrow.step(0, by);
            let values: Vec<_> = values.iter().map(|values| values.as_slice().into()).collect();
            let mut params: Vec<_> = wide.params.iter_mut().map(Stored::slice_mut).collect();
            by(&mut wide.optimizer, &mut params, &values).unwrap();
            assert!(narrow.bits() == wide.bits());
        }
    }
}
