//! What became of steps, some steps late: a ring of small readbacks that nothing ever waits for.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use crate::Error;
use crate::control::REPORT;
use crate::kernel::guarded;

/// What became of a step that was decided on the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Telemetry {
    /// The number of the step among those recorded, the first being 0.
    pub number: u64,
    /// Whether it was left out, because a gradient was not finite.
    pub skipped: bool,
    /// The norm of all gradients that the step read, unscaled and before the clip; of those that are finite.
    pub grad_norm: f32,
    /// What the clip multiplied the gradients of the first scope by: 1 where nothing was clipped.
    pub clip: f32,
    /// The loss scale that the gradients came with.
    pub scale: f32,
    /// Gradients that were not finite.
    pub nonfinite: u32,
    /// Steps left out so far.
    pub all_skipped: u32,
}

impl Telemetry {
    /// Reads `struct Report` of `control.wgsl`.
    fn of(words: &[u32]) -> Option<Self> {
        let &[number, skipped, norm, clip, scale, nonfinite, all_skipped, ..] = words else { return None };
        Some(Self {
            number: number.into(),
            skipped: skipped > 0,
            grad_norm: f32::from_bits(norm),
            clip: f32::from_bits(clip),
            scale: f32::from_bits(scale),
            nonfinite,
            all_skipped,
        })
    }
}

/// Readings that have come and were not asked for, at most: older ones are dropped.
const KEPT: usize = 1024;

/// Buffers on their way back.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    free: Vec<wgpu::Buffer>,
    /// In the order in which they were recorded, with what wgpu says once one can be read.
    flying: VecDeque<(wgpu::Buffer, Arc<OnceLock<bool>>)>,
    come: VecDeque<Telemetry>,
}

impl Ring {
    /// So many readings under way at once; for a step that finds none free, nothing is read.
    pub fn new(device: &wgpu::Device, depth: usize) -> Result<Self, Error> {
        let (label, usage) =
            (Some("wgpu-optim telemetry"), wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let descriptor = wgpu::BufferDescriptor { label, size: REPORT, usage, mapped_at_creation: false };
        let free = guarded(device, "the ring of telemetry", || {
            (0..depth).map(|_| device.create_buffer(&descriptor)).collect::<Vec<_>>()
        })?;
        Ok(Self { free, ..Self::default() })
    }

    /// Has the report of the step that was just recorded read once the encoder is submitted and done.
    pub fn follow(&mut self, encoder: &mut wgpu::CommandEncoder, report: &wgpu::Buffer) {
        self.land();
        let Some(buffer) = self.free.pop() else { return };
        encoder.copy_buffer_to_buffer(report, 0, &buffer, 0, REPORT);
        let mapped = Arc::new(OnceLock::new());
        let told = mapped.clone();
        encoder.map_buffer_on_submit(&buffer, wgpu::MapMode::Read, .., move |result| {
            let _ = told.set(result.is_ok());
        });
        self.flying.push_back((buffer, mapped));
    }

    /// Takes in what has come.
    fn land(&mut self) {
        while let Some((buffer, mapped)) = self.flying.pop_front() {
            match mapped.get() {
                Some(true) => {
                    if let Ok(view) = buffer.get_mapped_range(..) {
                        let words = bytemuck::pod_collect_to_vec::<u8, u32>(&view);
                        self.come.extend(Telemetry::of(&words));
                    }
                    buffer.unmap();
                    self.free.push(buffer);
                }
                // It cannot be read, or its encoder was thrown away.
                Some(false) => self.free.push(buffer),
                None if Arc::strong_count(&mapped) == 1 => self.free.push(buffer),
                None => {
                    self.flying.push_front((buffer, mapped));
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
        self.come.drain(..).collect()
    }
}
