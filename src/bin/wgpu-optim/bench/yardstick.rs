//! What moving as many bytes costs at the least: plain kernels on a device, plain loops on the CPU.

mod cpu;
mod gpu;

pub use cpu::{CpuCopy, CpuStream};
pub use gpu::{Yardsticks, kernels};

/// Bytes that a yardstick goes through at most; past the caches it is as fast through fewer, moved again.
const MOST: u64 = 1 << 30;

/// How a yardstick moves its bytes: `repeat` times through arrays of `size` bytes, `moves` of which it reads and
/// writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub size: u64,
    pub repeat: u64,
    moves: u64,
}

impl Shape {
    /// For about `bytes` bytes in all.
    pub fn new(bytes: u64, moves: u64) -> Self {
        let repeat = bytes.div_ceil(MOST).max(1);
        let size = (bytes / (repeat * moves)).max(16) / 16 * 16;
        Self { size, repeat, moves }
    }

    /// Bytes that are read and written.
    pub fn bytes(&self) -> u64 {
        self.size * self.repeat * self.moves
    }
}

/// Reads one array and writes one.
pub const COPY: u64 = 2;
/// Reads four and writes three of them.
pub const STREAM: u64 = 7;

/// Bytes that the yardsticks of a step of so many bytes hold.
pub fn memory(bytes: u64) -> u64 {
    let (copy, stream) = (Shape::new(bytes, COPY), Shape::new(bytes, STREAM));
    2 * copy.size + 4 * stream.size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yardstick_moves_what_the_step_moves_to_a_thousandth() {
        for elements in [1u64 << 10, 100_003, 1 << 24, 1 << 28] {
            for bytes in [20 * elements, 28 * elements] {
                for moves in [COPY, STREAM] {
                    let shape = Shape::new(bytes, moves);
                    let off = 1.0 - shape.bytes() as f64 / bytes as f64;
                    assert!((0.0..0.005).contains(&off), "{elements} {moves}: {off}");
                    assert!(shape.size * moves <= MOST + 16 * moves);
                }
            }
        }
    }
}
