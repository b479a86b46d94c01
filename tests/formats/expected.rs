//! A step as a plain loop: decode, update, encode.

use wgpu_optim::Rule;
use wgpu_optim::format::blocks::{BLOCK, Map, scale};
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
    /// How many of the codes of `after` are not those that this step makes of `before`; the most that one is off.
    pub fn compare(&self, before: &World, after: &World) -> Off {
        let mut off = Off::default();
        let expected = self.of(before);
        for (element, (params, _)) in expected.iter().enumerate() {
            let code = self.narrowed(*params, 0, element);
            off.codes(self.formats.params, code, after.params[element], *params);
        }
        for (plane, slot) in after.slots.iter().enumerate() {
            let values: Vec<f32> = expected.iter().map(|(_, slots)| slots[plane]).collect();
            match slot.storage {
                Storage::F32 => {
                    let pairs = values.iter().zip(&slot.values);
                    pairs.for_each(|(&own, &found)| off.codes(Format::F32, own.to_bits(), found.to_bits(), own));
                }
                Storage::Q8Signed | Storage::Q8Unsigned => self.compare_blocks(&values, slot, &mut off),
                half => {
                    let format = if half == Storage::F16 { Format::F16 } else { Format::Bf16 };
                    for (element, &own) in values.iter().enumerate() {
                        let code = if slot.name == KAHAN {
                            narrow(format, own, Rounding::Nearest, 0)
                        } else {
                            let what = 1 + plane as u32;
                            narrow(format, own, self.formats.rounding, self.noise(what, element))
                        };
                        let found = u16::from_le_bytes([slot.codes[2 * element], slot.codes[2 * element + 1]]);
                        off.codes(format, code, found.into(), own);
                    }
                }
            }
        }
        off
    }

    fn compare_blocks(&self, values: &[f32], slot: &Slot, off: &mut Off) {
        let map = Map::new(slot.storage == Storage::Q8Unsigned, self.formats.q8_zero);
        let blocks = values.chunks(BLOCK as usize).zip(slot.codes.chunks(BLOCK as usize)).zip(&slot.scales);
        for ((values, codes), &found) in blocks {
            let own = scale(values);
            assert!((own - found).abs() <= 1e-5 * own, "{}: a scale of {found}, expected {own}", slot.name);
            for (&x, &code) in values.iter().zip(codes) {
                off.count(u64::from(map.encode(x, found).abs_diff(code)), 1);
            }
        }
    }

    /// The parameter and the slots of each element, before they are rounded.
    fn of(&self, before: &World) -> Vec<(f32, Vec<f32>)> {
        let hyper: R::Hyper<f32> = cast(&self.settings.fold(self.number));
        let own = |name: &str| before.slots.iter().position(|slot| slot.name == name);
        let place = |name: &&str| own(name);
        let places: Vec<Option<usize>> = R::SLOTS.iter().map(place).collect();
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
            let (p, state) = self.settings.update(&hyper, p, g, state);
            let mut slots = vec![0.0; before.slots.len()];
            for (value, place) in state.iter().zip(&places) {
                if let Some(slot) = place {
                    slots[*slot] = *value;
                }
            }
            if let Some(slot) = own(MASTER) {
                slots[slot] = p;
            }
            let kept = widen(self.formats.params, narrow(self.formats.params, p, Rounding::Nearest, 0));
            if let Some(slot) = own(KAHAN) {
                slots[slot] = p - kept;
            }
            (p, slots)
        };
        (0..before.params.len()).map(step).collect()
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

/// How far a device is off.
#[derive(Debug, Default)]
pub struct Off {
    pub compared: u64,
    /// Codes that are others than expected, by one.
    pub near: u64,
    /// By more.
    pub far: u64,
}

impl Off {
    fn count(&mut self, by: u64, most: u64) {
        self.compared += 1;
        self.near += u64::from(by > 0);
        self.far += u64::from(by > most);
    }

    /// A device's division may be some units off; of 16 bits that seldom shows.
    fn codes(&mut self, format: Format, expected: u32, found: u32, exact: f32) {
        let (own, theirs) = (widen(format, expected), widen(format, found));
        let near = match format {
            // Of what an update adds up, not of what is left.
            Format::F32 => (own - theirs).abs() <= 2e-6 * own.abs().max(1e-3),
            _ => expected == found,
        };
        let far = match format {
            Format::F32 => !near,
            _ => expected.abs_diff(found) > 1 && (theirs - exact).abs() > 1e-6,
        };
        self.compared += 1;
        self.near += u64::from(!near);
        self.far += u64::from(far);
    }

    /// Whether that is what a correct device may do.
    pub fn holds(&self) -> bool {
        self.far == 0 && self.near <= 2 + self.compared / 100
    }
}
