//! How far from the oracle a step may land, and the comparison that says so.
//!
//! Errors are measured on the update, not on the parameter: a weight of 1 that moved by 1e-3 is wrong when it
//! moved by 1.1e-3, however near to 1 it still is.

use crate::cpu;
use crate::rule::{MAX_SLOTS, Rule, cast, kept_slots};
use crate::wgsl::Real;

/// A share of the tensor's largest update. WGSL allows 2.5 ULP to a division and some to a square root, 5e-7
/// together; the folded scalars are each off by half an ULP.
pub const SHARE: f64 = 2e-6;
/// ULPs of the parameter: half of one for rounding it, and one where a driver's subtraction is not the nearest.
pub const ULPS: f64 = 1.5;
/// A share of a slot's values before and after, in which what cancels in it is small.
pub const STATE_SHARE: f64 = 4e-6;
/// A driver may take subnormal numbers for zero (SwiftShader does).
pub const FLUSHED: f64 = 2.0 * f32::MIN_POSITIVE as f64;

/// The relative error of a gradient that a step may amplify where its terms cancel: a few roundings. It comes with
/// an absolute one of [`FLUSHED`], which a small eps amplifies.
const NUDGE: f64 = 4.0 * f32::EPSILON as f64;

/// A tensor between two steps: its parameters, and its slots in the order of [`Rule::SLOTS`], empty where not kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot<T> {
    /// The parameters.
    pub params: Vec<T>,
    /// The slots.
    pub slots: Vec<Vec<T>>,
}

impl Snapshot<f32> {
    /// This tensor one step later, computed in `T` on the CPU.
    pub fn stepped<R: Rule, T: Real>(&self, rule: &R, h: &R::Hyper<T>, grads: &[f32]) -> Snapshot<T> {
        self.stepped_by(rule, h, &real(grads))
    }

    fn stepped_by<R: Rule, T: Real>(&self, rule: &R, h: &R::Hyper<T>, grads: &[T]) -> Snapshot<T> {
        let slots = self.slots.iter().map(|slot| real(slot)).collect();
        let mut after = Snapshot { params: real(&self.params), slots };
        cpu::step(rule, h, &mut after.params, grads, &mut after.slots);
        after
    }
}

fn real<T: Real>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&x| T::from_f64(x.into())).collect()
}

/// What a device computed: the left side of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Device<'a>(pub &'a Snapshot<f32>);

/// The worst element of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Worst {
    /// The largest error, as a share of the tensor's largest update.
    pub share: f64,
    /// The largest error, in ULPs of the parameter or of the largest update, whichever is larger.
    pub ulps: f64,
    /// The largest error over the envelope; above 1 it is broken.
    pub envelope: f64,
}

impl Worst {
    /// The worse of both.
    pub fn with(self, other: Self) -> Self {
        Self {
            share: self.share.max(other.share),
            ulps: self.ulps.max(other.ulps),
            envelope: self.envelope.max(other.envelope),
        }
    }

    /// Whether the envelope holds.
    pub fn holds(&self) -> bool {
        self.envelope <= 1.0
    }
}

/// One step of one tensor, and what the CPU makes of it.
#[derive(Clone, Debug)]
pub struct Trial<'a, R: Rule> {
    rule: &'a R,
    before: &'a Snapshot<f32>,
    twin: Snapshot<f32>,
    oracle: Snapshot<f64>,
    /// The oracle with gradients that are off by a few roundings.
    nudged: Snapshot<f64>,
    /// The tensor's largest update.
    largest: f64,
}

impl<'a, R: Rule> Trial<'a, R> {
    /// The step number `step` (the first is 1) from `before`, with these gradients.
    pub fn new(rule: &'a R, step: u64, before: &'a Snapshot<f32>, grads: &[f32]) -> Self {
        let exact = rule.fold(step);
        let nudge = |&g: &f32| f64::from(g) * (1.0 + NUDGE) + FLUSHED.copysign(g.into());
        let nudged: Vec<f64> = grads.iter().map(nudge).collect();
        let oracle = before.stepped(rule, &exact, grads);
        let update = |(&p0, p): (&f32, &f64)| (p - f64::from(p0)).abs();
        let largest = before.params.iter().zip(&oracle.params).map(update).fold(0.0, f64::max);
        Self {
            rule,
            before,
            twin: before.stepped(rule, &cast(&exact), grads),
            oracle,
            nudged: before.stepped_by(rule, &exact, &nudged),
            largest,
        }
    }

    /// What the `f64` oracle makes of it.
    pub fn oracle(&self) -> &Snapshot<f64> {
        &self.oracle
    }

    /// How far a parameter may be from where a reference has it.
    pub fn params_within(&self, element: usize, reference: f64) -> f64 {
        let size = self.before.params[element].abs().max(reference.abs() as f32);
        let cancelled = (self.nudged.params[element] - self.oracle.params[element]).abs();
        SHARE * self.largest + ULPS * ulp(size) + cancelled
    }

    /// How far an element of a slot may be from where a reference has it.
    pub fn slot_within(&self, slot: usize, element: usize, reference: f64) -> f64 {
        let scale = f64::from(self.before.slots[slot][element].abs()) + reference.abs();
        let cancelled = (self.nudged.slots[slot][element] - self.oracle.slots[slot][element]).abs();
        STATE_SHARE * scale + cancelled + FLUSHED
    }

    /// How far the device is from the `f64` oracle. A value that is not finite is infinitely wrong.
    pub fn against_oracle(&self, device: Device<'_>) -> Worst {
        self.against(device, &self.oracle)
    }

    /// How far the device is from the `f32` twin.
    pub fn against_twin(&self, device: Device<'_>) -> Worst {
        self.against(device, &self.twin)
    }

    fn against<T: Real>(&self, Device(device): Device<'_>, reference: &Snapshot<T>) -> Worst {
        let mut worst = self.params(&device.params, &reference.params);
        for slot in kept_slots(self.rule) {
            let of = self.state(slot, &device.slots[slot], &reference.slots[slot]);
            worst.envelope = worst.envelope.max(of);
        }
        worst
    }

    fn params<T: Real>(&self, device: &[f32], reference: &[T]) -> Worst {
        let (before, largest) = (&self.before.params, self.largest);
        let mut worst = Worst { envelope: missing(device, reference), ..Worst::default() };
        for (i, (&p, &reference)) in device.iter().zip(reference).enumerate() {
            let error = error(p, reference);
            let size = before[i].abs().max(reference.to_f64().abs() as f32);
            worst = worst.with(Worst {
                share: error / largest.max(FLUSHED),
                ulps: error / ulp(size.max(largest as f32)),
                envelope: error / self.params_within(i, reference.to_f64()),
            });
        }
        worst
    }

    fn state<T: Real>(&self, slot: usize, device: &[f32], reference: &[T]) -> f64 {
        let mut worst = missing(device, reference);
        for (i, (&s, &reference)) in device.iter().zip(reference).enumerate() {
            worst = worst.max(error(s, reference) / self.slot_within(slot, i, reference.to_f64()));
        }
        worst
    }
}

/// Values that are not there are infinitely wrong.
fn missing<T>(device: &[f32], reference: &[T]) -> f64 {
    if device.len() == reference.len() { 0.0 } else { f64::INFINITY }
}

fn error<T: Real>(found: f32, reference: T) -> f64 {
    let error = (f64::from(found) - reference.to_f64()).abs();
    if error.is_nan() { f64::INFINITY } else { error }
}

/// The distance from `x` to the next larger `f32`.
fn ulp(x: f32) -> f64 {
    f64::from(x.next_up()) - f64::from(x)
}

/// A tensor and its gradients, made to reach every scalar and every branch of a rule.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Steps taken before the first.
    pub steps_before: u64,
    /// Where it starts.
    pub start: Snapshot<f32>,
    /// One gradient for each step to come.
    pub grads: Vec<Vec<f32>>,
}

impl Probe {
    /// `len` elements to be stepped `steps` times. A warm probe starts with the state of three steps in half of
    /// its elements and none in the other half; a cold one starts where the rule starts.
    pub fn new<R: Rule>(rule: &R, len: usize, steps: usize, warm: bool) -> Self {
        let mut draw = Draw(len as u64 * 2 + u64::from(warm));
        let slot = |slot| match rule.keeps(slot) {
            true => vec![rule.initial(slot) as f32; len],
            false => Vec::new(),
        };
        let mut start = Snapshot { params: vec![0.0; len], slots: (0..MAX_SLOTS).map(slot).collect() };
        let steps_before = if warm { 3 } else { 0 };
        for step in 1..=steps_before {
            let grads: Vec<f32> = (0..len).map(|i| if i % 2 == 0 { draw.scaled(-3.0, 1.0) } else { 0.0 }).collect();
            let h: R::Hyper<f32> = cast(&rule.fold(step));
            start = start.stepped(rule, &h, &grads);
        }
        start.params = (0..len).map(|_| if draw.below(4) == 0 { 0.0 } else { draw.scaled(-4.0, 0.0) }).collect();
        let grads = (0..steps).map(|_| (0..len).map(|i| draw.gradient(i)).collect()).collect();
        Self { steps_before, start, grads }
    }
}

/// Numbers that look random and are always the same (splitmix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Of either sign, its size spread evenly over the powers of ten between these two.
    fn scaled(&mut self, from: f64, to: f64) -> f32 {
        let share = self.next() as f64 / u64::MAX as f64;
        let size = 10f64.powf(from + share * (to - from));
        (if self.next() & 1 == 0 { size } else { -size }) as f32
    }

    /// A gradient for element `i`, whose kind stays the same from step to step.
    fn gradient(&mut self, i: usize) -> f32 {
        match (i / 2) % 8 {
            0 => self.scaled(-1.0, 1.0),
            // Around every epsilon, and around the root of every epsilon.
            1 | 2 => self.scaled(-9.0, -2.0),
            3 => 0.0,
            4 => self.scaled(-12.0, -11.0),
            5 if self.below(2) == 0 => 0.0,
            5 => self.scaled(3.0, 4.0),
            6 => self.scaled(-40.0, -38.0),
            _ => self.scaled(16.0, 17.0),
        }
    }
}
