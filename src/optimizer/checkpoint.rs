//! The front end of the optimizer on the GPU: a checkpoint streams through the ring of [`readback`].

use std::path::Path;

use super::Optimizer;
use crate::checkpoint::native::Standing;
use crate::checkpoint::{
    Checkpoint, Error, From, Load, Outline, Plane, Report, Request, Save, Source, Writer, fit, native, to_pytorch,
};
use crate::kernel::{is_lost, lost};
use crate::plan::ELEMENT;
use crate::readback;
use crate::rule::Rule;
use crate::tensor::BufferRange;

impl<R: Rule> Optimizer<R> {
    /// Writes the state to a file, with the parameters if asked for, as the steps that are submitted left them: submit
    /// before you save, since step counts are those of the recorded ones. Needs the feature `checkpoint`.
    ///
    /// The file takes its name once it is on the disk whole; what a link at `path` leads to is replaced. Memory: some
    /// MiB of the host's beside [`MemoryPlan::staging`](crate::MemoryPlan), whatever the state. Parameters need usage
    /// `COPY_SRC`. Writing to the disk blocks; only the device is waited for as a future.
    ///
    /// # Errors
    /// [`Error::Output`], [`Error::Unstorable`], [`Error::Optimizer`] for what the device refuses, [`Error::File`] for
    /// more names than the format takes.
    pub async fn save(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        path: impl AsRef<Path>,
        save: &Save,
    ) -> Result<(), Error> {
        let path = path.as_ref();
        let standing = self.standing(device, queue).await?;
        let outline = native::outline(&self.roster, &standing, save.params, &save.extras, |tensor| self.shape(tensor));
        let unstorable = |what| Error::Unstorable { path: path.display().to_string(), what };
        self.write(device, queue, path, &outline.map_err(unstorable)?).await
    }

    /// Writes the state as PyTorch's `state_dict()`: see [`checkpoint`](crate::checkpoint). PyTorch knows no frozen
    /// tensors, so that is not written. Needs the feature `checkpoint`.
    ///
    /// # Errors
    /// [`Error::NoCounterpart`] for settings that PyTorch does not have, or as [`save`](Self::save).
    pub async fn save_pytorch(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        path: impl AsRef<Path>,
    ) -> Result<(), Error> {
        let path = path.as_ref();
        let no_counterpart = |message| Error::NoCounterpart { path: path.display().to_string(), message };
        let steps = self.read_steps(device, queue).await?;
        let outline = to_pytorch::outline(&self.roster, &steps, |tensor| self.shape(tensor)).map_err(no_counterpart)?;
        self.write(device, queue, path, &outline).await
    }

    /// Takes the state, the step counts and what is frozen from a file that fits in everything, and the parameters and
    /// settings if asked for, ahead of all that is submitted after this call. Needs the feature `checkpoint`.
    ///
    /// The file is read twice: for its checksums before anything is touched, then in chunks to the device. Parameters
    /// need usage `COPY_DST`, and `COPY_SRC` where they are not whole words: what shares a word with them stays.
    /// Reading from the disk blocks; only the device is waited for as a future.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with everything that disagrees, [`Error::Damaged`], [`Error::Unsound`], [`Error::File`],
    /// [`Error::Optimizer`] for what the device refuses.
    pub async fn load(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        checkpoint: &Checkpoint,
        load: Load<'_>,
    ) -> Result<Report, Error> {
        let Load { params, extras, retune, cast } = load;
        let request = Request { params, extras, retune, cast, partial: false, most: self.most() };
        self.load_as(device, queue, checkpoint, &request).await
    }

    /// [`load`](Self::load) for what was changed on purpose: takes what is in both the file and the optimizer, and
    /// tells what is in one of them only. Settings, and what is frozen, stay the optimizer's. State of another rule is
    /// ignored.
    ///
    /// # Errors
    /// As [`load`](Self::load); of disagreements only lengths, and in a file of PyTorch's the number of tensors.
    pub async fn load_partial(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        checkpoint: &Checkpoint,
        load: Load<'_>,
    ) -> Result<Report, Error> {
        let Load { params, extras, cast, .. } = load;
        let request = Request { params, extras, retune: false, cast, partial: true, most: self.most() };
        self.load_as(device, queue, checkpoint, &request).await
    }

    /// [`save`](Self::save), waiting.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_blocking(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        path: impl AsRef<Path>,
        save: &Save,
    ) -> Result<(), Error> {
        pollster::block_on(self.save(device, queue, path, save))
    }

    /// [`save_pytorch`](Self::save_pytorch), waiting.
    ///
    /// # Errors
    /// As [`save_pytorch`](Self::save_pytorch).
    pub fn save_pytorch_blocking(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        path: impl AsRef<Path>,
    ) -> Result<(), Error> {
        pollster::block_on(self.save_pytorch(device, queue, path))
    }

    /// [`load`](Self::load), waiting.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_blocking(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        checkpoint: &Checkpoint,
        load: Load<'_>,
    ) -> Result<Report, Error> {
        pollster::block_on(self.load(device, queue, checkpoint, load))
    }

    /// [`load_partial`](Self::load_partial), waiting.
    ///
    /// # Errors
    /// As [`load_partial`](Self::load_partial).
    pub fn load_partial_blocking(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        checkpoint: &Checkpoint,
        load: Load<'_>,
    ) -> Result<Report, Error> {
        pollster::block_on(self.load_partial(device, queue, checkpoint, load))
    }

    async fn load_as(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        checkpoint: &Checkpoint,
        request: &Request<'_>,
    ) -> Result<Report, Error> {
        self.kernels.check_device(device)?;
        if request.params {
            let check = |tensor: &crate::Tensor| {
                let shares_words = !(tensor.params.offset() | tensor.params.size()).is_multiple_of(ELEMENT);
                let read = if shares_words { wgpu::BufferUsages::COPY_SRC } else { wgpu::BufferUsages::empty() };
                tensor.params.check_usage("parameters", tensor.name(), wgpu::BufferUsages::COPY_DST | read)
            };
            self.tensors.iter().try_for_each(check)?;
        }
        let fitted = fit(checkpoint, &self.roster, request)?;
        let settled = fitted.settled(&self.roster)?;
        fitted.control.iter().try_for_each(|control| control.check(settled.chain()))?;
        if is_lost(device) {
            return Err(lost("a load").into());
        }
        for step in &fitted.moves {
            self.fill(device, queue, checkpoint, (step.tensor, step.plane, &step.from)).await?;
        }
        (self.roster, self.classified) = (settled, false);
        if let Some(control) = &fitted.control {
            self.write_control(queue, control)?;
        }
        self.tell_steps(fitted.counts.iter().map(|count| (count.tensor, count.step)));
        Ok(fitted.report)
    }

    async fn standing(&self, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Standing, crate::Error> {
        let (steps, control) = (self.read_steps(device, queue).await?, self.read_control(device, queue).await?);
        Ok(Standing { steps, control })
    }

    /// The highest step count: where the device counts steps, it does so in 32 bits.
    fn most(&self) -> u64 {
        if self.chain().scaler.is_some() { u32::MAX.into() } else { u64::MAX }
    }

    async fn fill(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        checkpoint: &Checkpoint,
        (tensor, plane, from): (usize, Plane, &From),
    ) -> Result<(), Error> {
        let ranges = match plane {
            Plane::Slot(plane) => self.plane_ranges(tensor, plane),
            Plane::Scales(plane) => self.state.scale_ranges(tensor, plane),
            Plane::Params => vec![self.tensors[tensor].params.clone()],
        };
        let mut start = 0;
        for range in ranges {
            let fill = |chunk: &mut [u8]| {
                checkpoint.read(from, start, chunk)?;
                start += chunk.len() as u64;
                Ok::<(), Error>(())
            };
            readback::upload_each(device, queue, &range, fill).await?;
        }
        Ok(())
    }

    async fn write(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        path: &Path,
        outline: &Outline,
    ) -> Result<(), Error> {
        self.kernels.check_device(device)?;
        let mut writer = Writer::create(path, outline)?;
        for part in &outline.parts {
            let ranges: Vec<BufferRange> = match &part.source {
                Source::Slot(tensor, plane) => self.plane_ranges(*tensor, *plane),
                Source::Scales(tensor, plane) => self.state.scale_ranges(*tensor, *plane),
                Source::Params(tensor) => vec![self.tensors[*tensor].params.clone()],
                Source::Values(values) => {
                    writer.take(bytemuck::cast_slice(values));
                    Vec::new()
                }
            };
            for range in ranges {
                readback::download_each(device, queue, &range, |chunk| writer.take(chunk)).await?;
            }
            writer.end_tensor()?;
        }
        writer.finish()
    }

    fn shape(&self, tensor: usize) -> Option<Vec<u64>> {
        self.tensors[tensor].shape().map(<[u64]>::to_vec)
    }
}
