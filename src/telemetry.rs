//! What became of steps, some steps late: a ring of small readbacks that nothing ever waits for.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use crate::Error;
use crate::kernel::guarded;
use crate::watch::{READING, REPORT};

/// What became of a step. What nothing measured is `None`: gradients are measured where the chain has a clip by norm or
/// a scaler, updates where they are [watched](crate::Watch).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Telemetry {
    /// The number of the step among those recorded, the first being 0.
    pub number: u64,
    /// The lr of the first group, by its schedule; `None` for a rule that has no setting of this name. Of other groups,
    /// their schedules tell it at this `number`.
    pub lr: Option<f64>,
    /// Whether it was left out, because a gradient was not finite.
    pub skipped: bool,
    /// The norm of all gradients that the step read, unscaled and before the clip; of those that are finite.
    pub grad_norm: Option<f32>,
    /// What the clip multiplied the gradients of the first scope by: 1 where nothing was clipped.
    pub clip: f32,
    /// The loss scale that the gradients came with: 1 without a scaler.
    pub scale: f32,
    /// Gradients that were not finite.
    pub nonfinite: Option<u32>,
    /// Steps left out so far.
    pub all_skipped: u32,
    /// The L2 norm of `p' - p` over every element that was stepped, as written: 0 where the step was left out, infinite
    /// where an element of it is not finite. Within 1e-6 of itself.
    pub update_norm: Option<f32>,
    /// The largest magnitude of an element of `p' - p`; 0 and infinite as the norm.
    pub largest_update: Option<f32>,
}

/// What the host knows of a step that it records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recorded {
    pub number: u64,
    pub lr: Option<f64>,
}

/// A reading that is under way.
#[derive(Debug)]
struct Reading {
    buffer: wgpu::Buffer,
    /// What wgpu says once it can be read.
    mapped: Arc<OnceLock<bool>>,
    recorded: Recorded,
    decided: bool,
    updated: bool,
}

/// Words of a reading before those of the update.
const REPORTED: usize = REPORT as usize / 4;

impl Reading {
    /// Reads `struct Report` of `control.wgsl`, and the sums of `moves.wgsl` behind it.
    fn told(&self, words: &[u32]) -> Option<Telemetry> {
        let (report, moved) = words.split_at_checked(REPORTED)?;
        let &[_, skipped, norm, clip, scale, nonfinite, all_skipped, ..] = report else { return None };
        let Recorded { number, lr } = self.recorded;
        let decided = |word: u32| self.decided.then_some(word);
        let float = |word: u32| decided(word).map(f32::from_bits);
        let moved = moved.iter().map(|&word| f32::from_bits(word));
        let update = if self.updated { updated(moved.collect()) } else { None };
        Some(Telemetry {
            number,
            lr,
            skipped: decided(skipped).is_some_and(|skipped| skipped > 0),
            grad_norm: float(norm),
            clip: float(clip).unwrap_or(1.0),
            scale: float(scale).unwrap_or(1.0),
            nonfinite: decided(nonfinite),
            all_skipped: decided(all_skipped).unwrap_or_default(),
            update_norm: update.map(|(norm, _)| norm),
            largest_update: update.map(|(_, largest)| largest),
        })
    }
}

/// The norm and the largest element of an update, from the sums of `moves.wgsl`.
fn updated(sums: Vec<f32>) -> Option<(f32, f32)> {
    let &[small, between, large, largest] = sums.as_slice() else { return None };
    if largest < 0.0 {
        return Some((f32::INFINITY, f32::INFINITY));
    }
    // `UP` and `DOWN` of norm.wgsl, whose squares f64 holds.
    let (up, down) = (64f64.exp2(), (-84f64).exp2());
    let [small, between, large] = [small, between, large].map(f64::from);
    let norm = (small / (up * up) + between + large / (down * down)).sqrt();
    Some((norm as f32, largest))
}

#[cfg(feature = "tracing")]
impl Telemetry {
    /// Emits it as an event of target `wgpu_optim`, its fields as they are named here.
    fn trace(&self) {
        let &Self { number, lr, skipped, grad_norm, clip, scale, nonfinite, all_skipped, update_norm, largest_update } =
            self;
        macro_rules! event {
            ($level:ident, $message:literal) => {
                tracing::event!(
                    target: "wgpu_optim",
                    tracing::Level::$level,
                    number,
                    lr,
                    skipped,
                    grad_norm,
                    clip,
                    scale,
                    nonfinite,
                    all_skipped,
                    update_norm,
                    largest_update,
                    $message
                )
            };
        }
        let broken = nonfinite.is_some_and(|count| count > 0) || update_norm.is_some_and(f32::is_infinite);
        match (skipped, broken) {
            // A scale that grows meets its limit now and then: nothing is wrong.
            (true, _) => event!(INFO, "step skipped"),
            (false, true) => event!(WARN, "step taken with numbers that are not finite"),
            (false, false) => event!(DEBUG, "step taken"),
        }
    }
}

/// Readings that have come and were not asked for, at most: older ones are dropped.
const KEPT: usize = 1024;

/// Buffers on their way back.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    free: Vec<wgpu::Buffer>,
    /// In the order in which they were recorded.
    flying: VecDeque<Reading>,
    come: VecDeque<Telemetry>,
}

impl Ring {
    /// So many readings under way at once; for a step that finds none free, nothing is read.
    pub fn new(device: &wgpu::Device, depth: usize) -> Result<Self, Error> {
        let (label, usage) =
            (Some("wgpu-optim telemetry"), wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let descriptor = wgpu::BufferDescriptor { label, size: READING, usage, mapped_at_creation: false };
        let free = guarded(device, "the ring of telemetry", || {
            (0..depth).map(|_| device.create_buffer(&descriptor)).collect::<Vec<_>>()
        })?;
        Ok(Self { free, ..Self::default() })
    }

    /// Has what is told of the step that was just recorded read once the encoder is submitted and done: the report of
    /// what decided it, and the sums of its update.
    pub fn follow(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        recorded: Recorded,
        [report, moved]: [Option<&wgpu::Buffer>; 2],
    ) {
        self.land();
        let Some(buffer) = self.free.pop() else { return };
        for (from, at) in [(report, 0), (moved, REPORT)] {
            if let Some(from) = from {
                encoder.copy_buffer_to_buffer(from, 0, &buffer, at, from.size());
            }
        }
        let mapped = Arc::new(OnceLock::new());
        let told = mapped.clone();
        encoder.map_buffer_on_submit(&buffer, wgpu::MapMode::Read, .., move |result| {
            let _ = told.set(result.is_ok());
        });
        let (decided, updated) = (report.is_some(), moved.is_some());
        self.flying.push_back(Reading { buffer, mapped, recorded, decided, updated });
    }

    /// Takes in what has come.
    fn land(&mut self) {
        while let Some(reading) = self.flying.pop_front() {
            match reading.mapped.get() {
                Some(true) => {
                    if let Ok(view) = reading.buffer.get_mapped_range(..) {
                        let words = bytemuck::pod_collect_to_vec::<u8, u32>(&view);
                        self.come.extend(reading.told(&words));
                    }
                    reading.buffer.unmap();
                    self.free.push(reading.buffer);
                }
                // It cannot be read, or its encoder was thrown away.
                Some(false) => self.free.push(reading.buffer),
                None if Arc::strong_count(&reading.mapped) == 1 => self.free.push(reading.buffer),
                None => {
                    self.flying.push_front(reading);
                    break;
                }
            }
        }
        let surplus = self.come.len().saturating_sub(KEPT);
        self.come.drain(..surplus);
    }

    /// All that has come, oldest first.
    pub fn take(&mut self) -> Vec<Telemetry> {
        self.land();
        let told: Vec<Telemetry> = self.come.drain(..).collect();
        #[cfg(feature = "tracing")]
        told.iter().for_each(Telemetry::trace);
        told
    }
}
