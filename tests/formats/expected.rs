//! A step as a plain loop: decode, update, encode.

use wgpu_optim::Rule;
use wgpu_optim::format::blocks::{BLOCK, Map};
use wgpu_optim::format::halves::Half;
use wgpu_optim::format::{Format, Formats, KAHAN, MASTER, Rounding, Storage, noise};
use wgpu_optim::rule::{MAX_SLOTS, cast};
use wgpu_optim::wgsl::U32;

/// A tensor: codes of parameters and gradient, numbers of each slot, and the codes that they lie in.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    pub params: Vec<u32>,
    pub grads: Vec<u32>,
    pub slots: Vec<Slot>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    pub name: &'static str,
    pub storage: Storage,
    pub values: Vec<f32>,
    pub codes: Vec<u8>,
    pub scales: Vec<f32>,
}

pub fn widen(format: Format, code: u32) -> f32 {
    match format {
        Format::F32 => f32::from_bits(code),
        Format::F16 => Half::F16.widen(code as u16),
        Format::Bf16 => Half::Bf16.widen(code as u16),
    }
}

pub fn narrow(format: Format, x: f32, rounding: Rounding, noise: u32) -> u32 {
    match format {
        Format::F32 => x.to_bits(),
        Format::F16 => Half::F16.narrow(x, rounding, noise).into(),
        Format::Bf16 => Half::Bf16.narrow(x, rounding, noise).into(),
    }
}

/// What a step is taken with.
pub struct Step<'a, R> {
    pub settings: &'a R,
    pub formats: &'a Formats,
    pub name: &'a str,
    /// Its number, the first being 1; as many but one were recorded before.
    pub number: u64,
}

impl<R: Rule> Step<'_, R> {
    /// How many of the codes of `after` no number has that this step may make of `before`, whatever the device.
    pub fn compare(&self, before: &World, after: &World) -> Off {
        let mut off = Off::default();
        let expected = self.of(before);
        for (element, Stepped { params, .. }) in expected.iter().enumerate() {
            let code = |x| widen(self.formats.params, self.narrowed(x, 0, element));
            off.number("parameters", element, params, widen(self.formats.params, after.params[element]), code);
        }
        for (plane, slot) in after.slots.iter().enumerate() {
            let moves: Vec<Move> = match slot.name {
                // What is left of the whole over what the device has made of it.
                KAHAN => (0..expected.len()).map(|i| expected[i].params.over(self.kept(after, i))).collect(),
                _ => expected.iter().map(|stepped| stepped.slots[plane]).collect(),
            };
            match slot.storage {
                Storage::F32 => {
                    let all = moves.iter().zip(&slot.values).enumerate();
                    all.for_each(|(element, (own, &found))| off.number(slot.name, element, own, found, |x| x));
                }
                Storage::Q8Signed | Storage::Q8Unsigned => self.compare_blocks(&moves, slot, &mut off),
                half => self.compare_halves(half, plane as u32, &moves, slot, &mut off),
            }
        }
        off
    }

    /// A parameter without what is kept beside it.
    fn kept(&self, world: &World, element: usize) -> f32 {
        widen(self.formats.params, world.params[element])
    }

    fn compare_halves(&self, half: Storage, plane: u32, moves: &[Move], slot: &Slot, off: &mut Off) {
        let format = if half == Storage::F16 { Format::F16 } else { Format::Bf16 };
        let rounding = if slot.name == KAHAN { Rounding::Nearest } else { self.formats.rounding };
        for (element, own) in moves.iter().enumerate() {
            let code = |x| widen(format, narrow(format, x, rounding, self.noise(1 + plane, element)));
            off.number(slot.name, element, own, slot.values[element], code);
        }
    }

    fn compare_blocks(&self, moves: &[Move], slot: &Slot, off: &mut Off) {
        let map = Map::new(slot.storage == Storage::Q8Unsigned, self.formats.q8_zero);
        for (number, (moves, &found)) in moves.chunks(BLOCK as usize).zip(&slot.scales).enumerate() {
            // The largest of magnitudes, each of which may be more or less.
            let largest = |sign: f32| moves.iter().map(|own| own.to.abs() + sign * own.within).fold(0.0, f32::max);
            off.count("a scale", number, largest(-1.0) <= found && found <= largest(1.0), found, largest(0.0));
            for (i, own) in moves.iter().enumerate() {
                let element = number * BLOCK as usize + i;
                let least = if map.unsigned { 0.0 } else { f32::MIN };
                let code = |x: f32| map.decode(map.encode(x.max(least), found), found);
                off.number(slot.name, element, own, map.decode(slot.codes[element], found), code);
            }
        }
    }

    /// What becomes of each element, before it is rounded.
    fn of(&self, before: &World) -> Vec<Stepped> {
        let own = |name: &str| before.slots.iter().position(|slot| slot.name == name);
        let places: Vec<Option<usize>> = R::SLOTS.iter().map(|name| own(name)).collect();
        let step = |element: usize| {
            let mut p = widen(self.formats.params, before.params[element]);
            if let Some(master) = own(MASTER).map(|slot| before.slots[slot].values[element]) {
                p = if master.to_bits() == 0 { p } else { master };
            }
            p += own(KAHAN).map_or(0.0, |slot| before.slots[slot].values[element]);
            let g = widen(self.formats.grads, before.grads[element]);
            let mut state = [0.0; MAX_SLOTS];
            for (value, place) in state.iter_mut().zip(&places) {
                *value = place.map_or(0.0, |slot| before.slots[slot].values[element]);
            }
            let [params, moved @ ..] = self.moves(p, g, state);
            let mut slots = vec![Move::default(); before.slots.len()];
            for (own, place) in moved.iter().zip(&places) {
                if let Some(slot) = place {
                    slots[*slot] = *own;
                }
            }
            if let Some(slot) = own(MASTER) {
                slots[slot] = params;
            }
            Stepped { params, slots }
        };
        (0..before.params.len()).map(step).collect()
    }

    /// Of a parameter, then of each slot. What cancels is as uncertain as what goes in.
    fn moves(&self, p: f32, g: f32, state: [f32; MAX_SLOTS]) -> [Move; 1 + MAX_SLOTS] {
        let hyper: R::Hyper<f32> = cast(&self.settings.fold(self.number));
        let step = |g: f32| {
            let (p, [a, b, c]) = self.settings.update(&hyper, p, g, state);
            [p, a, b, c]
        };
        let (to, nudged, [a, b, c]) = (step(g), step(g * (1.0 + NUDGE)), state);
        let from = [p, a, b, c];
        std::array::from_fn(|i| Move::new(from[i], to[i], (nudged[i] - to[i]).abs()))
    }

    fn narrowed(&self, x: f32, what: u32, element: usize) -> u32 {
        narrow(self.formats.params, x, self.formats.rounding, self.noise(what, element))
    }

    fn noise(&self, what: u32, element: usize) -> u32 {
        let key = U32(noise::step_key(self.formats.seed, self.number - 1));
        let stream = noise::stream(key, U32(noise::tensor_key(self.name)), U32(what));
        noise::noise(stream, U32(element as u32)).0
    }
}

/// Four roundings of a gradient.
const NUDGE: f32 = 2.4e-7;
/// The share of what is added up that a device may be off by: division and square root may be 5e-7 off in WGSL.
const SHARE: f32 = 2e-6;

/// What becomes of an element.
struct Stepped {
    params: Move,
    slots: Vec<Move>,
}

/// A number that a step moves, and how far a device may be from where it goes.
#[derive(Clone, Copy, Debug, Default)]
struct Move {
    to: f32,
    within: f32,
}

impl Move {
    /// What is 0 and stays it has no error; of all else a device may flush what is no normal number.
    fn new(from: f32, to: f32, nudged: f32) -> Self {
        let is_nothing = from == 0.0 && to == 0.0;
        let within = SHARE * (from.abs() + to.abs()) + nudged + f32::MIN_POSITIVE;
        Self { to, within: if is_nothing { 0.0 } else { within } }
    }

    /// What is left over another number.
    fn over(self, kept: f32) -> Self {
        Self { to: self.to - kept, ..self }
    }

    /// The most, or the least, that a device may make of it.
    fn end(self, sign: f32) -> f32 {
        self.to + sign * self.within
    }
}

/// How far a device is off.
#[derive(Debug, Default)]
pub struct Off {
    pub compared: u64,
    /// Numbers that are none of those that may be.
    pub wrong: u64,
    /// The first of them: what it is of, which element, what was found and what was expected.
    pub first: Option<(&'static str, usize, f32, f32)>,
}

impl Off {
    /// What was found must lie between what is stored of both ends.
    fn number(&mut self, of: &'static str, element: usize, own: &Move, found: f32, stored: impl Fn(f32) -> f32) {
        let holds = stored(own.end(-1.0)) <= found && found <= stored(own.end(1.0));
        self.count(of, element, holds, found, own.to);
    }

    fn count(&mut self, of: &'static str, element: usize, holds: bool, found: f32, expected: f32) {
        self.compared += 1;
        if !holds {
            self.wrong += 1;
            self.first.get_or_insert((of, element, found, expected));
        }
    }

    /// Whether that is what a correct device may do.
    pub fn holds(&self) -> bool {
        self.wrong == 0
    }
}
