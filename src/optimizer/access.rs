//! State by name.

use super::Optimizer;
use crate::Error;
use crate::chain::control;
use crate::format::codes::Codes;
use crate::format::{KAHAN, MASTER, Storage};
use crate::plan::ELEMENT;
use crate::readback;
use crate::rule::Rule;
use crate::tensor::BufferRange;

impl<R: Rule> Optimizer<R> {
    /// The names of the slots that a tensor keeps, PyTorch's.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn slots(&self, name: &str) -> Result<Vec<&'static str>, Error> {
        Ok(self.roster.slots(self.roster.find(name)?))
    }

    /// Where a slot of a tensor lies on the device, as its [`storage`](Self::storage) says, in order: one range, or
    /// more for a tensor that was split. The buffers have usages `STORAGE`, `COPY_SRC` and `COPY_DST`.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::UnknownSlot`].
    pub fn state_ranges(&self, name: &str, slot: &str) -> Result<Vec<BufferRange>, Error> {
        let tensor = self.roster.find(name)?;
        Ok(self.plane_ranges(tensor, self.roster.plane(tensor, slot)?))
    }

    /// Where the scales of a slot's blocks lie, in order, an `f32` for each 256 elements of each of its ranges: nothing
    /// for a slot that is not kept in 8 bits.
    ///
    /// # Errors
    /// As [`state_ranges`](Self::state_ranges).
    pub fn scale_ranges(&self, name: &str, slot: &str) -> Result<Vec<BufferRange>, Error> {
        let tensor = self.roster.find(name)?;
        Ok(self.state.scale_ranges(tensor, self.roster.plane(tensor, slot)?))
    }

    /// How a slot of a tensor lies in its ranges.
    ///
    /// # Errors
    /// As [`state_ranges`](Self::state_ranges).
    pub fn storage(&self, name: &str, slot: &str) -> Result<Storage, Error> {
        let tensor = self.roster.find(name)?;
        Ok(self.roster.planes(tensor)[self.roster.plane(tensor, slot)?].storage)
    }

    /// Has the next step take parameters of 16 bits as they then are, for who has written them: what is kept of them
    /// besides, `master_param` or `kahan_comp`, is of those that were there before. Records a fill of that slot.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn retake_params(&self, encoder: &mut wgpu::CommandEncoder, name: &str) -> Result<(), Error> {
        let tensor = self.roster.find(name)?;
        for (plane, _) in
            self.roster.slots(tensor).iter().enumerate().filter(|(_, slot)| [MASTER, KAHAN].contains(*slot))
        {
            for range in self.plane_ranges(tensor, plane) {
                // A last word that is not whole is padding.
                let size = range.size().next_multiple_of(ELEMENT);
                encoder.clear_buffer(range.buffer(), range.offset(), Some(size));
            }
        }
        Ok(())
    }

    /// [`state_ranges`](Self::state_ranges) of a slot that is kept, by its plane.
    pub(super) fn plane_ranges(&self, tensor: usize, plane: usize) -> Vec<BufferRange> {
        self.state.ranges(tensor, plane)
    }

    /// Reads a slot of a tensor back, as numbers of `f32` whatever it lies in, as the steps that are submitted left it;
    /// those only recorded are not in it.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::UnknownSlot`], or as [`readback::download`].
    pub async fn read_state(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        name: &str,
        slot: &str,
    ) -> Result<Vec<f32>, Error> {
        let (storage, mut values) = (self.storage(name, slot)?, Vec::new());
        let mut scales = self.scale_ranges(name, slot)?.into_iter();
        for range in self.state_ranges(name, slot)? {
            let elements = readback::download(device, queue, &range).await?;
            let scales = match scales.next() {
                Some(range) => readback::download(device, queue, &range).await?,
                None => Vec::new(),
            };
            values.extend(Codes { elements, scales }.values(storage));
        }
        Ok(values)
    }

    /// Writes a slot of a tensor, to the nearest where it lies in fewer bits, ahead of all that is submitted after this
    /// call.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::UnknownSlot`], [`Error::Length`], or as [`readback::upload`].
    pub async fn write_state(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        name: &str,
        slot: &str,
        values: &[f32],
    ) -> Result<(), Error> {
        let (ranges, storage) = (self.state_ranges(name, slot)?, self.storage(name, slot)?);
        let tensor = self.roster.find(name)?;
        let (expected, zero) = (self.roster.members()[tensor].len, self.roster.stored(tensor).q8_zero);
        if values.len() as u64 != expected {
            let (what, name, found) = (slot.into(), name.into(), values.len() as u64);
            return Err(Error::Length { what, name, found, expected });
        }
        let (mut rest, mut scales) = (values, self.scale_ranges(name, slot)?.into_iter());
        for range in ranges {
            let (these, after) = rest.split_at((range.size() / storage.size()) as usize);
            let codes = Codes::of(storage, zero, these);
            readback::upload(device, queue, &range, &codes.elements).await?;
            if let Some(range) = scales.next() {
                readback::upload(device, queue, &range, &codes.scales).await?;
            }
            rest = after;
        }
        Ok(())
    }

    /// How many steps each tensor has taken, in the order in which they were added, as those that are submitted left
    /// them. Without a scaler this is [`step_of`](Self::step_of); with one, steps that were left out are not in it.
    ///
    /// # Errors
    /// As [`readback::download`].
    pub async fn read_steps(&self, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Vec<u64>, Error> {
        let scaled = self.chain().scaler.is_some();
        let Some(decided) = self.decided.as_ref().filter(|_| scaled) else {
            return Ok((0..self.tensors.len()).map(|tensor| self.roster.step_of(tensor)).collect());
        };
        let words = readback::download(device, queue, &decided.memory.counted()).await?;
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&words);
        let mut steps: Vec<u64> = words.into_iter().map(u64::from).take(self.tensors.len()).collect();
        steps.resize(self.tensors.len(), 0);
        decided.sets.iter().for_each(|&(tensor, step)| steps[tensor as usize] = step.into());
        Ok(steps)
    }

    /// The scaler's memory and how many steps were skipped, as those that are submitted left it.
    ///
    /// # Errors
    /// As [`readback::download`].
    pub async fn read_control(&self, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<control::Control, Error> {
        let Some(decided) = &self.decided else { return Ok(control::Control::new(self.chain())) };
        let bytes = readback::download(device, queue, &BufferRange::from(&decided.memory.scaler)).await?;
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        let word = |i: usize| words.get(i).copied().unwrap_or_default();
        let (scale, growth_tracker, skipped) = (f32::from_bits(word(0)), word(1), word(2).into());
        // The interval may have become shorter since the device counted.
        Ok(control::Control { scale, growth_tracker, skipped }.within(self.chain()))
    }

    /// Puts the scaler's memory back, ahead of all that is submitted after this call.
    ///
    /// # Errors
    /// As [`Control::check`](control::Control::check); nothing is written then.
    pub fn write_control(&self, queue: &wgpu::Queue, control: &control::Control) -> Result<(), Error> {
        control.check(self.chain())?;
        if let Some(decided) = &self.decided {
            let skipped = control.skipped.try_into().unwrap_or(u32::MAX);
            let words = [control.scale.to_bits(), control.growth_tracker, skipped];
            queue.write_buffer(&decided.memory.scaler, 0, bytemuck::cast_slice(&words));
        }
        Ok(())
    }

    /// [`read_steps`](Self::read_steps) for native targets.
    ///
    /// # Errors
    /// As [`read_steps`](Self::read_steps).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_steps_blocking(&self, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Vec<u64>, Error> {
        pollster::block_on(self.read_steps(device, queue))
    }

    /// [`read_control`](Self::read_control) for native targets.
    ///
    /// # Errors
    /// As [`read_control`](Self::read_control).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_control_blocking(&self, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<control::Control, Error> {
        pollster::block_on(self.read_control(device, queue))
    }

    /// [`read_state`](Self::read_state) for native targets.
    ///
    /// # Errors
    /// As [`read_state`](Self::read_state).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_state_blocking(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        name: &str,
        slot: &str,
    ) -> Result<Vec<f32>, Error> {
        pollster::block_on(self.read_state(device, queue, name, slot))
    }

    /// [`write_state`](Self::write_state) for native targets.
    ///
    /// # Errors
    /// As [`write_state`](Self::write_state).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn write_state_blocking(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        name: &str,
        slot: &str,
        values: &[f32],
    ) -> Result<(), Error> {
        pollster::block_on(self.write_state(device, queue, name, slot, values))
    }
}
