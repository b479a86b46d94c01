//! What the tensors hold: numbers that stay finite and normal however often they are stepped. They repeat, so that
//! any stretch can be had at the speed of a copy.

use std::ops::Range;

/// Parameters around zero, up to 0.48 in size.
pub fn params(tensor: usize, range: Range<usize>) -> Vec<f32> {
    repeated::<97>(range, |i| 0.01 * (((i + 31 * tensor) % 97) as f32 - 48.0))
}

/// Gradients of either sign, 5e-4 to 0.045 in size: the same at every step, so that moments settle.
pub fn grads(tensor: usize, range: Range<usize>) -> Vec<f32> {
    repeated::<89>(range, |i| 0.001 * (((i + 17 * tensor) % 89) as f32 - 44.5))
}

/// The stretches of `size` elements that `len` elements make, the last shorter.
pub fn stretches(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size).map(move |start| start..len.min(start + size))
}

/// The values of a stretch of what repeats after so many elements.
fn repeated<const PERIOD: usize>(range: Range<usize>, value: impl Fn(usize) -> f32) -> Vec<f32> {
    let period: [f32; PERIOD] = std::array::from_fn(|i| value(range.start + i));
    let mut values = Vec::with_capacity(range.len() + PERIOD);
    while values.len() < range.len() {
        values.extend_from_slice(&period);
    }
    values.truncate(range.len());
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_a_part_of_the_whole() {
        for (of, name) in [(params as fn(_, _) -> _, "params"), (grads, "grads")] {
            let whole: Vec<f32> = of(3, 0..1000);
            assert_eq!(whole.len(), 1000);
            let parts: Vec<f32> = stretches(1000, 300).flat_map(|range| of(3, range)).collect();
            assert_eq!(parts, whole, "{name}");
        }
    }

    #[test]
    fn values_are_in_the_sizes_that_are_told() {
        let (params, grads) = (params(1, 0..97), grads(1, 0..89));
        assert!(params.iter().all(|p| p.abs() <= 0.48 + 1e-6) && params.iter().any(|p| *p > 0.47));
        assert!(grads.iter().all(|g| (4e-4..0.045).contains(&g.abs())) && grads.iter().any(|g| *g < -0.044));
    }
}
