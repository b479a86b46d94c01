//! Whether a step in formats of fewer bits landed on the codes that the twin's step makes of the same numbers.

use wgpu_optim::Rule;
use wgpu_optim::envelope::Snapshot;
use wgpu_optim::format::blocks::{BLOCK, Map, scale};
use wgpu_optim::format::codes::Codes;
use wgpu_optim::format::halves::Half;
use wgpu_optim::format::{Formats, Q8Zero, Rounding, Storage};

use super::format::planes;
use super::near::{params_are_near, params_slack, state_is_near};

/// Where a scale, which is a number of the state, may lie.
const SCALE: f32 = 1e-5;

/// How many values are others than expected.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Off {
    pub compared: u64,
    /// On the next code: where a number lies between two, a unit in its last place decides.
    pub near: u64,
    /// Elsewhere.
    pub far: u64,
}

impl Off {
    pub fn with(self, other: Self) -> Self {
        Self { compared: self.compared + other.compared, near: self.near + other.near, far: self.far + other.far }
    }

    /// None is far, and few are near.
    pub fn holds(&self) -> bool {
        self.far == 0 && self.near <= 2 + self.compared / 100
    }

    fn code(&mut self, by: u64, excused: bool) {
        self.compared += 1;
        self.near += u64::from(by == 1);
        self.far += u64::from(by > 1 && !excused);
    }

    fn all(&mut self, len: usize, hold: bool) {
        self.compared += len as u64;
        self.far += if hold { 0 } else { len.max(1) as u64 };
    }
}

/// Numbers as they are once they were stored; the first starts a block.
pub fn rounded(storage: Storage, zero: Q8Zero, values: &[f32]) -> Vec<f32> {
    Codes::of(storage, zero, values).values(storage)
}

/// Holds what a step made of `before` to what the twin makes of it; everything is decoded, and starts a block.
pub struct Narrow<'a, R: Rule> {
    pub settings: &'a R,
    pub formats: &'a Formats,
    /// Elements of the whole tensor.
    pub len: u64,
}

impl<R: Rule> Narrow<'_, R> {
    pub fn off(&self, h: &R::Hyper<f32>, before: &Snapshot<f32>, grads: &[f32], after: &Snapshot<f32>) -> Off {
        let grads = rounded(self.formats.grads.storage(), self.formats.q8_zero, grads);
        let exact: Snapshot<f32> = before.stepped(self.settings, h, &grads);
        let mut off = Off::default();
        match self.formats.params.storage() {
            Storage::F32 => {
                let near = params_are_near(&before.params, &exact.params, &after.params);
                off.all(exact.params.len(), near);
            }
            storage => {
                let slack = params_slack(&before.params, &exact.params);
                self.codes(storage, &exact.params, &after.params, slack, &mut off);
            }
        }
        for plane in planes(self.settings, self.formats, self.len) {
            let slot = R::SLOTS.iter().position(|slot| *slot == plane.slot).unwrap_or_default();
            let (before, exact, after) = (&before.slots[slot], &exact.slots[slot], &after.slots[slot]);
            match plane.storage {
                Storage::F32 => off.all(exact.len(), state_is_near(before, exact, after)),
                storage => self.codes(storage, exact, after, 0.0, &mut off),
            }
        }
        off
    }

    fn codes(&self, storage: Storage, exact: &[f32], after: &[f32], slack: f32, off: &mut Off) {
        if exact.len() != after.len() {
            return off.all(exact.len(), false);
        }
        match storage {
            Storage::F16 => halves(Half::F16, exact, after, slack, off),
            Storage::Bf16 | Storage::F32 => halves(Half::Bf16, exact, after, slack, off),
            Storage::Q8Signed => blocks(Map::new(false, self.formats.q8_zero), exact, after, off),
            Storage::Q8Unsigned => blocks(Map::new(true, self.formats.q8_zero), exact, after, off),
        }
    }
}

/// Within `slack` of the exact number any code will do: there terms have cancelled.
fn halves(half: Half, exact: &[f32], after: &[f32], slack: f32, off: &mut Off) {
    let code = |x: f32| u64::from(half.narrow(x, Rounding::Nearest, 0));
    for (&exact, &after) in exact.iter().zip(after) {
        off.code(code(exact).abs_diff(code(after)), (after - exact).abs() <= slack);
    }
}

fn blocks(map: Map, exact: &[f32], after: &[f32], off: &mut Off) {
    for (exact, after) in exact.chunks(BLOCK as usize).zip(after.chunks(BLOCK as usize)) {
        let scale = scale(exact);
        for (&exact, &after) in exact.iter().zip(after) {
            let (own, found) = (map.encode(exact, scale), map.encode(after, scale));
            let value = map.decode(found, scale);
            let is_code = (after - value).abs() <= SCALE * value.abs();
            off.code(if is_code { own.abs_diff(found).into() } else { u64::MAX }, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use wgpu_optim::Adam;
    use wgpu_optim::rule::cast;

    use super::super::format::FormatKind;
    use super::*;

    const LEN: usize = 5000;

    /// What is told of a step by hand that `change` was done to.
    fn off(kind: FormatKind, change: impl FnOnce(&mut Snapshot<f32>)) -> Off {
        let (settings, formats) = (Adam::PYTORCH, kind.formats());
        let stored = |storage, values: &[f32]| rounded(storage, formats.q8_zero, values);
        let params: Vec<f32> = (0..LEN).map(|i| (i % 97) as f32 * 0.01 - 0.481).collect();
        let grads: Vec<f32> = (0..LEN).map(|i| (i % 89) as f32 * 0.001 - 0.0445).collect();
        let params = stored(formats.params.storage(), &params);
        let before = Snapshot { params, slots: vec![vec![0.0; LEN], vec![0.0; LEN], Vec::new()] };
        let h = cast(&settings.fold(1));
        let mut after = before.stepped(&settings, &h, &stored(formats.grads.storage(), &grads));
        after.params = stored(formats.params.storage(), &after.params);
        for (plane, slot) in planes(&settings, &formats, LEN as u64).iter().zip(&mut after.slots) {
            *slot = stored(plane.storage, slot);
        }
        change(&mut after);
        Narrow { settings: &settings, formats: &formats, len: LEN as u64 }.off(&h, &before, &grads, &after)
    }

    #[test]
    fn the_codes_of_the_step_are_none_off() {
        for kind in [FormatKind::Bf16, FormatKind::Q8, FormatKind::Q8Bf16] {
            assert_eq!(off(kind, |_| ()), Off { compared: 3 * LEN as u64, near: 0, far: 0 }, "{kind}");
        }
    }

    #[test]
    fn one_wrong_value_in_any_array_is_noticed() {
        for kind in [FormatKind::Bf16, FormatKind::Q8, FormatKind::Q8Bf16] {
            for by in [1.1, f32::NAN, f32::INFINITY] {
                assert!(!off(kind, |after| after.params[LEN - 1] *= by).holds(), "{kind}, parameters by {by}");
                for slot in 0..2 {
                    assert!(!off(kind, |after| after.slots[slot][4321] *= by).holds(), "{kind}, {slot} by {by}");
                }
            }
            assert!(!off(kind, |after| after.slots[1].truncate(256)).holds(), "{kind}");
        }
    }

    #[test]
    fn a_neighbour_is_counted_and_too_many_are_not_let_pass() {
        let up = |x: &mut f32| *x = f32::from_bits(x.to_bits() + (1 << 16));
        let one = off(FormatKind::Bf16, |after| up(&mut after.slots[1][7]));
        assert_eq!((one.near, one.far, one.holds()), (1, 0, true));
        assert!(!off(FormatKind::Bf16, |after| after.slots[1].iter_mut().for_each(up)).holds());
    }
}
