//! `--format`: how the optimizer has the network's numbers, by the words of `wgpu-optim bench`.

use std::fmt;

use clap::ValueEnum;
use wgpu_optim::format::{Format, Formats, Rounding, StateFormat};

/// How parameters, gradients and state lie in memory, and how parameters of 16 bits are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatKind {
    /// All in 32 bits
    F32,
    /// All in bf16, to the nearest: small steps are lost
    Bf16,
    /// All in bf16, and what rounding loses of parameters in a slot
    Bf16Kahan,
    /// All in bf16, rounded by chance
    Bf16Stochastic,
    /// All in bf16, and parameters in 32 bits besides
    Bf16Master,
    /// State in blocks of 8 bits, the rest in 32
    Q8,
    /// State in blocks of 8 bits, the rest in bf16, to the nearest
    Q8Bf16,
    /// State in blocks of 8 bits, the rest in bf16, and what rounding loses of parameters in a slot
    Q8Bf16Kahan,
}

impl FormatKind {
    pub fn formats(self) -> Formats {
        use FormatKind::*;
        let halves = match self {
            F32 | Q8 => Format::F32,
            Bf16 | Bf16Kahan | Bf16Stochastic | Bf16Master | Q8Bf16 | Q8Bf16Kahan => Format::Bf16,
        };
        let state = match self {
            F32 => StateFormat::F32,
            Bf16 | Bf16Kahan | Bf16Stochastic | Bf16Master => StateFormat::Bf16,
            Q8 | Q8Bf16 | Q8Bf16Kahan => StateFormat::Q8,
        };
        let rounding = match self {
            Bf16Kahan | Q8Bf16Kahan => Rounding::Kahan,
            Bf16Stochastic => Rounding::Stochastic,
            F32 | Bf16 | Bf16Master | Q8 | Q8Bf16 => Rounding::Nearest,
        };
        // No tensor of this network has as many elements as are worth 8 bits elsewhere.
        let q8_min = 0;
        let master = self == Bf16Master;
        Formats { params: halves, grads: halves, master, state, rounding, q8_min, ..Formats::default() }
    }
}

/// As it is typed.
impl fmt::Display for FormatKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}
