//! Parameters and gradients of 16 bits, which the optimizer steps, beside those of 32, which the network computes with.

use anyhow::{Result, ensure};
use wgpu_optim::format::{Format, Formats};
use wgpu_optim::{Arena, BufferRange, Tensor, wgpu};

use super::kernel::{Kernel, NARROW, Shader, WIDEN};
use super::model::{self, TENSORS};

/// What lies in 16 bits, and what carries it there and back. Where all is `f32` there is nothing to carry.
pub struct Halves {
    tensors: Vec<Tensor>,
    widen: Vec<Kernel>,
    narrow: Vec<Kernel>,
}

impl Halves {
    /// Room for what the formats have in 16 bits, beside the arena that the network computes with. Parameters of 16 bits
    /// start as those of the arena, rounded.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, formats: &Formats, full: &Arena) -> Result<Self> {
        let halves = Arena::with_formats(device, formats, model::lens())?;
        let [mut start, mut widen, mut narrow] = [(); 3].map(|()| Vec::new());
        for (name, _) in TENSORS {
            if formats.params != Format::F32 {
                let (ours, full) = (halves.params(name)?, full.params(name)?);
                start.push(kernel(device, &NARROW, formats.params, full, ours)?);
                widen.push(kernel(device, &WIDEN, formats.params, ours, full)?);
            }
            if formats.grads != Format::F32 {
                narrow.push(kernel(device, &NARROW, formats.grads, full.grads(name)?, halves.grads(name)?)?);
            }
        }
        let mut encoder = device.create_command_encoder(&Default::default());
        model::record(&mut encoder, "train_digits start", &start);
        queue.submit([encoder.finish()]);
        Ok(Self { tensors: tensors(formats, &halves, full)?, widen, narrow })
    }

    /// What the optimizer steps.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Records that the network gets the parameters as they are: before each forward pass.
    pub fn record_widen(&self, encoder: &mut wgpu::CommandEncoder) {
        model::record(encoder, "train_digits widen", &self.widen);
    }

    /// Records that the optimizer gets the gradients: after each backward pass.
    pub fn record_narrow(&self, encoder: &mut wgpu::CommandEncoder) {
        model::record(encoder, "train_digits narrow", &self.narrow);
    }
}

fn kernel(
    device: &wgpu::Device,
    shader: &Shader,
    format: Format,
    from: &BufferRange,
    to: &BufferRange,
) -> Result<Kernel> {
    let words = from.size().min(to.size()) / 4;
    ensure!(from.size().max(to.size()) == 8 * words, "a tensor of 16 bits ends within a word of 32");
    let constants = [("IS_F16", f64::from(format == Format::F16))];
    Kernel::new(device, shader, &constants, &[from.as_binding(), to.as_binding()], [words as u32, 1])
}

/// Each of parameters and gradients where it lies in its format. Shapes are for those who read a checkpoint: a step needs
/// none.
fn tensors(formats: &Formats, halves: &Arena, full: &Arena) -> Result<Vec<Tensor>> {
    let of = |format| if format == Format::F32 { full } else { halves };
    let tensor = |(name, shape): (&str, &[usize])| {
        let (params, grads) = (of(formats.params).params(name)?, of(formats.grads).grads(name)?);
        let shape: Vec<u64> = shape.iter().map(|&side| side as u64).collect();
        Ok(Tensor::new(name, params.clone(), grads.clone()).with_shape(shape))
    };
    TENSORS.into_iter().map(tensor).collect()
}
