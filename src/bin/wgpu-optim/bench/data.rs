//! What the tensors hold: numbers that stay finite and normal however often they are stepped.

/// Parameters around zero, up to 0.48 in size.
pub fn params(tensor: usize, len: u64) -> Vec<f32> {
    (0..len).map(|i| 0.01 * (((i + 31 * tensor as u64) % 97) as f32 - 48.0)).collect()
}

/// Gradients of either sign, 5e-4 to 0.045 in size: the same at every step, so that moments settle.
pub fn grads(tensor: usize, len: u64) -> Vec<f32> {
    (0..len).map(|i| 0.001 * (((i + 17 * tensor as u64) % 89) as f32 - 44.5)).collect()
}
