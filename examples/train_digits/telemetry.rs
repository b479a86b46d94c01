//! Losses on their way to the host, some steps late: nothing waits for them.

use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context, Result};
use wgpu_optim::wgpu;

/// Readback buffers. More than the steps that are in flight, so that few samples find none free.
pub const RING: usize = 16;

/// What a forward pass came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Steps taken before it.
    pub step: u64,
    /// Mean cross-entropy.
    pub loss: f32,
    /// Share of rows whose largest logit is the label's.
    pub accuracy: f32,
}

/// A ring of small readback buffers.
pub struct Telemetry {
    slots: Vec<Slot>,
    sender: Sender<Mapped>,
    mapped: Receiver<Mapped>,
    dropped: u64,
}

struct Slot {
    buffer: wgpu::Buffer,
    /// The step whose tally is on its way in it.
    step: Option<u64>,
}

/// A slot's number, and whether it can be read.
type Mapped = (usize, Result<(), wgpu::BufferAsyncError>);

impl Telemetry {
    pub fn new(device: &wgpu::Device) -> Self {
        let descriptor = wgpu::BufferDescriptor {
            label: Some("train_digits telemetry"),
            size: size_of::<[f32; 2]>() as u64,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        let slot = |_| Slot { buffer: device.create_buffer(&descriptor), step: None };
        let (sender, mapped) = channel();
        Self { slots: (0..RING).map(slot).collect(), sender, mapped, dropped: 0 }
    }

    /// Records a copy of `tally`, as it is at this point of the encoder. Where every slot is on its way the sample is
    /// dropped.
    pub fn record(&mut self, encoder: &mut wgpu::CommandEncoder, tally: &wgpu::Buffer, step: u64) {
        let Some(free) = self.slots.iter().position(|slot| slot.step.is_none()) else {
            self.dropped += 1;
            return;
        };
        let slot = &mut self.slots[free];
        encoder.copy_buffer_to_buffer(tally, 0, &slot.buffer, 0, slot.buffer.size());
        let sender = self.sender.clone();
        // Nobody listens any more once the training is over.
        let send = move |mapped| drop(sender.send((free, mapped)));
        encoder.map_buffer_on_submit(&slot.buffer, wgpu::MapMode::Read, .., send);
        slot.step = Some(step);
    }

    /// What has arrived by the last poll of the device.
    ///
    /// # Errors
    /// Where a buffer could not be mapped: the device is lost.
    pub fn arrived(&mut self) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        while let Ok((slot, mapped)) = self.mapped.try_recv() {
            mapped.context("the loss could not be read back")?;
            samples.extend(self.slots[slot].take()?);
        }
        Ok(samples)
    }

    /// Samples that found no slot.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Slot {
    fn take(&mut self) -> Result<Option<Sample>> {
        let view = self.buffer.get_mapped_range(..).context("the loss could not be read back")?;
        let tally = bytemuck::pod_read_unaligned(&view);
        drop(view);
        self.buffer.unmap();
        Ok(self.step.take().map(|step| Sample::new(step, tally)))
    }
}

impl Sample {
    /// From what the tally holds.
    pub fn new(step: u64, [loss, accuracy]: [f32; 2]) -> Self {
        Self { step, loss, accuracy }
    }
}
