//! `--format`: how numbers lie in memory, as words, and the bytes that a step moves then.

use std::fmt;

use clap::ValueEnum;
use wgpu_optim::Rule;
use wgpu_optim::format::{Format, Formats, Plane, StateFormat};
use wgpu_optim::rule::kept_slots;

use super::workload::Workload;

/// How parameters, gradients and state lie in memory. All round to the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum FormatKind {
    /// All in 32 bits
    F32,
    /// All in bf16
    Bf16,
    /// State in blocks of 8 bits, the rest in 32
    Q8,
    /// State in blocks of 8 bits, the rest in bf16
    #[value(name = "q8-bf16")]
    Q8Bf16,
}

impl FormatKind {
    pub fn formats(self) -> Formats {
        let (params, state) = match self {
            FormatKind::F32 => (Format::F32, StateFormat::F32),
            FormatKind::Bf16 => (Format::Bf16, StateFormat::Bf16),
            FormatKind::Q8 => (Format::F32, StateFormat::Q8),
            FormatKind::Q8Bf16 => (Format::Bf16, StateFormat::Q8),
        };
        Formats { params, grads: params, state, ..Formats::default() }
    }

    /// What rows call something in this format: `gpu`, `gpu-q8-bf16`.
    pub fn named(self, path: &str) -> String {
        if self == FormatKind::F32 { path.into() } else { format!("{path}-{self}") }
    }
}

impl fmt::Display for FormatKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            FormatKind::F32 => "f32",
            FormatKind::Bf16 => "bf16",
            FormatKind::Q8 => "q8",
            FormatKind::Q8Bf16 => "q8-bf16",
        })
    }
}

/// How the kept slots of a tensor of `len` elements lie, in their order.
pub fn planes<R: Rule>(settings: &R, formats: &Formats, len: u64) -> Vec<Plane> {
    let kept = kept_slots(settings).into_iter().map(|slot| (R::SLOTS[slot], R::is_signed(slot)));
    formats.planes(kept, [], len)
}

/// Bytes of parameters, gradients and kept slots.
pub fn bytes_held<R: Rule>(settings: &R, formats: &Formats, workload: &Workload) -> u64 {
    let of = |len| len * (formats.params.size() + formats.grads.size()) + bytes_of_state(settings, formats, len);
    workload.tensors.iter().map(|tensor| of(tensor.len)).sum()
}

/// Bytes that a step must move: parameters and kept slots are read and written, gradients are read.
pub fn bytes_of_step<R: Rule>(settings: &R, formats: &Formats, workload: &Workload) -> u64 {
    let of =
        |len| len * (2 * formats.params.size() + formats.grads.size()) + 2 * bytes_of_state(settings, formats, len);
    workload.tensors.iter().map(|tensor| of(tensor.len)).sum()
}

fn bytes_of_state<R: Rule>(settings: &R, formats: &Formats, len: u64) -> u64 {
    planes(settings, formats, len).iter().map(|plane| plane.storage.size_of(len)).sum()
}

#[cfg(test)]
mod tests {
    use wgpu_optim::{Adam, RmsProp};

    use super::*;

    #[test]
    fn a_step_moves_as_many_bytes_as_its_format_has() {
        let len: u64 = 1 << 20;
        let workload = &Workload::named("single-1m", &[]).unwrap()[0];
        let scales = |slots: u64| 2 * slots * 4 * (len / 256);
        for (kind, adam, rmsprop) in [
            (FormatKind::F32, 28 * len, 20 * len),
            (FormatKind::Bf16, 14 * len, 10 * len),
            (FormatKind::Q8, 16 * len + scales(2), 14 * len + scales(1)),
            (FormatKind::Q8Bf16, 10 * len + scales(2), 8 * len + scales(1)),
        ] {
            assert_eq!(bytes_of_step(&Adam::PYTORCH, &kind.formats(), workload), adam, "{kind}");
            assert_eq!(bytes_of_step(&RmsProp::PYTORCH, &kind.formats(), workload), rmsprop, "{kind}");
        }
    }
}
