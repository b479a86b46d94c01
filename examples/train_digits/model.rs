//! The network: 64 pixels, 32 hidden units with ReLU, 10 classes. Forward and backward, as dispatches.

use anyhow::{Result, ensure};
use wgpu_optim::{Arena, wgpu};

use super::activations::{Activations, buffer};
use super::data::{self, CLASSES, Digits, PIXELS};
use super::kernel::Kernel;
use super::layer::Layer;
use super::loss;

pub const HIDDEN: usize = 32;

/// The parameters by name, with their shapes: weights are [out, in], as PyTorch has them.
pub const TENSORS: [(&str, &[usize]); 4] = [
    ("fc1.weight", &[HIDDEN, PIXELS]),
    ("fc1.bias", &[HIDDEN]),
    ("fc2.weight", &[CLASSES, HIDDEN]),
    ("fc2.bias", &[CLASSES]),
];

/// The network on a device, over all digits at once.
pub struct Model {
    /// Two `f32`: the mean cross-entropy of the last forward pass, and the share of digits that it knew.
    pub tally: wgpu::Buffer,
    forward: Vec<Kernel>,
    backward: Vec<Kernel>,
}

impl Model {
    /// Puts the digits on the device and compiles the kernels, which read parameters in `arena` and leave gradients there.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, digits: &Digits, arena: &Arena) -> Result<Self> {
        let tally = buffer(device, "tally", 2);
        let activations = Activations::new(device, queue, digits);
        let [fc1, fc2] = layers(device, arena, activations.rows);
        let Activations { pixels, hidden, logits, grad_hidden, grad_logits, .. } = &activations;
        let forward = vec![
            fc1.forward(pixels, hidden, true)?,
            fc2.forward(hidden, logits, false)?,
            loss::cross_entropy(device, &activations)?,
            loss::tally(device, &activations, &tally)?,
        ];
        // Pixels need no gradient, so the first layer has none for its inputs.
        let backward = vec![
            fc2.backward_weights(grad_logits, hidden)?,
            fc2.backward_inputs(grad_logits, hidden, grad_hidden)?,
            fc1.backward_weights(grad_hidden, pixels)?,
        ];
        Ok(Self { tally, forward, backward })
    }

    /// Records logits, losses and the tally.
    pub fn record_forward(&self, encoder: &mut wgpu::CommandEncoder) {
        record(encoder, "train_digits forward", &self.forward);
    }

    /// Records the gradient of every parameter, of the forward pass recorded last. They overwrite what was there, so
    /// nothing has to be cleared between steps.
    pub fn record_backward(&self, encoder: &mut wgpu::CommandEncoder) {
        record(encoder, "train_digits backward", &self.backward);
    }
}

/// The names in [`TENSORS`] with the lengths in elements: what an arena takes.
pub fn lens() -> [(&'static str, u64); TENSORS.len()] {
    TENSORS.map(|(name, shape)| (name, shape.iter().product::<usize>() as u64))
}

/// Room for parameters and gradients in `f32`, with the weights that training starts from.
pub fn arena(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Arena> {
    let arena = Arena::new(device, lens())?;
    for (name, _) in TENSORS {
        let (values, range) = (data::start(name)?, arena.params(name)?);
        let (found, expected) = (values.len() as u64, range.len());
        ensure!(found == expected, "{found} values for {name:?}, which has {expected}");
        queue.write_buffer(range.buffer(), range.offset(), bytemuck::cast_slice(&values));
    }
    Ok(arena)
}

fn layers<'a>(device: &'a wgpu::Device, arena: &'a Arena, rows: u32) -> [Layer<'a>; 2] {
    let layer = |weight, bias, inputs, outputs| Layer { device, arena, weight, bias, inputs, outputs, rows };
    [layer("fc1.weight", "fc1.bias", PIXELS, HIDDEN), layer("fc2.weight", "fc2.bias", HIDDEN, CLASSES)]
}

/// Records the kernels one after the other, as one pass; none where there are none.
pub fn record(encoder: &mut wgpu::CommandEncoder, label: &str, kernels: &[Kernel]) {
    if kernels.is_empty() {
        return;
    }
    let descriptor = wgpu::ComputePassDescriptor { label: Some(label), timestamp_writes: None };
    let mut pass = encoder.begin_compute_pass(&descriptor);
    kernels.iter().for_each(|kernel| kernel.dispatch(&mut pass));
}
