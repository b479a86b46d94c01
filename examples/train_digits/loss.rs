//! The loss: cross-entropy of each row with its gradient, and the tally of all rows.

use anyhow::Result;
use wgpu_optim::wgpu;

use super::activations::Activations;
use super::data::CLASSES;
use super::kernel::{CROSS_ENTROPY, Kernel, TALLY};

/// Of each row the loss, whether the network knew it, and the gradient of its logits.
pub fn cross_entropy(device: &wgpu::Device, activations: &Activations) -> Result<Kernel> {
    let Activations { rows, logits, labels, grad_logits, scores, .. } = activations;
    let resources = [logits, labels, grad_logits, scores].map(wgpu::Buffer::as_entire_binding);
    let constants = [("ROWS", f64::from(*rows)), ("CLASSES", CLASSES as f64)];
    Kernel::new(device, &CROSS_ENTROPY, &constants, &resources, [*rows, 1])
}

/// The means over all rows.
pub fn tally(device: &wgpu::Device, activations: &Activations, tally: &wgpu::Buffer) -> Result<Kernel> {
    let resources = [&activations.scores, tally].map(wgpu::Buffer::as_entire_binding);
    Kernel::new(device, &TALLY, &[("ROWS", activations.rows.into())], &resources, [1, 1])
}
