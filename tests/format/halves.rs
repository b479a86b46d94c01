//! Numbers of 16 bits, held against the crate `half`.

use wgpu_optim::format::Rounding;
use wgpu_optim::format::halves::Half;

fn ours(half: Half, x: f32) -> u16 {
    half.narrow(x, Rounding::Nearest, 0)
}

fn theirs(half: Half, x: f32) -> u16 {
    match half {
        Half::F16 => half::f16::from_f32_const(x).to_bits(),
        Half::Bf16 => half::bf16::from_f32_const(x).to_bits(),
    }
}

/// Every code is the number that it is, and comes back as itself; every number between two codes goes to the nearer.
#[test]
fn every_code_is_read_and_written_as_half_does() {
    for half in [Half::F16, Half::Bf16] {
        for code in 0..=u16::MAX {
            let x = half.widen(code);
            let known = match half {
                Half::F16 => half::f16::from_bits(code).to_f32_const(),
                Half::Bf16 => half::bf16::from_bits(code).to_f32_const(),
            };
            assert!(x.to_bits() == known.to_bits() || x.is_nan() && known.is_nan(), "{half:?} {code:#06x}: {x}");
            for x in around(x) {
                assert_eq!(ours(half, x), theirs(half, x), "{half:?} {x:e} {:#010x}", x.to_bits());
            }
        }
    }
}

/// The number, its neighbours, and what lies about half way to the next code.
fn around(x: f32) -> impl Iterator<Item = f32> {
    let bits = x.to_bits();
    let steps = [0, 1, 2, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1_0000];
    steps.into_iter().flat_map(move |step: u32| [bits.wrapping_add(step), bits.wrapping_sub(step)]).map(f32::from_bits)
}
