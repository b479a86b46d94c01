//! What lies between the layers, and what the loss needs: a row for each digit.

use wgpu_optim::wgpu;

use super::data::{CLASSES, Digits, PIXELS};
use super::model::HIDDEN;

/// Buffers on the device, [rows, columns].
pub struct Activations {
    pub rows: u32,
    pub pixels: wgpu::Buffer,
    pub labels: wgpu::Buffer,
    pub hidden: wgpu::Buffer,
    pub logits: wgpu::Buffer,
    pub grad_hidden: wgpu::Buffer,
    pub grad_logits: wgpu::Buffer,
    /// Of each digit its loss, and 1 where the network knew it.
    pub scores: wgpu::Buffer,
}

impl Activations {
    /// Makes them, and fills in the digits.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, digits: &Digits) -> Self {
        let rows = digits.rows();
        let wide = |label: &str, columns: usize| buffer(device, label, u64::from(rows) * columns as u64);
        let activations = Self {
            rows,
            pixels: wide("pixels", PIXELS),
            labels: wide("labels", 1),
            hidden: wide("hidden", HIDDEN),
            logits: wide("logits", CLASSES),
            grad_hidden: wide("grad_hidden", HIDDEN),
            grad_logits: wide("grad_logits", CLASSES),
            scores: wide("scores", 2),
        };
        queue.write_buffer(&activations.pixels, 0, bytemuck::cast_slice(&digits.pixels));
        queue.write_buffer(&activations.labels, 0, bytemuck::cast_slice(&digits.labels));
        activations
    }
}

/// A buffer of so many words of 4 bytes.
pub fn buffer(device: &wgpu::Device, label: &str, words: u64) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(&format!("train_digits {label}")),
        size: 4 * words,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}
