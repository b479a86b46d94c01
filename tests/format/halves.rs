//! Numbers of 16 bits, held against the crate `half`.

use proptest::prelude::*;
use wgpu_optim::format::Rounding;
use wgpu_optim::format::halves::Half;
use wgpu_optim::format::noise::noise;
use wgpu_optim::wgsl::U32;

use crate::spread;

const HALVES: [Half; 2] = [Half::F16, Half::Bf16];

fn ours(half: Half, x: f32) -> u16 {
    half.narrow(x, Rounding::Nearest, 0)
}

fn theirs(half: Half, x: f32) -> u16 {
    match half {
        Half::F16 => half::f16::from_f32_const(x).to_bits(),
        Half::Bf16 => half::bf16::from_f32_const(x).to_bits(),
    }
}

fn by_chance(half: Half, x: f32, noise: u32) -> u16 {
    half.narrow(x, Rounding::Stochastic, noise)
}

/// Every code is the number that it is, and comes back as itself; every number between two codes goes to the nearer.
#[test]
fn every_code_is_read_and_written_as_half_does() {
    for half in HALVES {
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

#[test]
fn every_exponent_is_rounded_as_half_does() {
    let words = spread::words();
    assert!(words.len() > 100_000);
    for half in HALVES {
        for x in words.iter().copied().map(f32::from_bits) {
            assert_eq!(ours(half, x), theirs(half, x), "{half:?} {x:e} {:#010x}", x.to_bits());
        }
    }
}

#[test]
fn edges_are_where_the_formats_have_them() {
    let f16 = |x: f32| ours(Half::F16, x);
    assert_eq!([f16(65504.0), f16(65519.996), f16(65520.0), f16(f32::MAX)], [0x7bff, 0x7bff, 0x7c00, 0x7c00]);
    // Half of the least number is a tie, which goes to 0.
    let least = 2f32.powi(-24);
    assert_eq!([f16(least), f16(least / 2.0), f16(-least / 2.0), f16(least * 0.50001)], [1, 0, 0x8000, 1]);
    let bf16 = |x: f32| ours(Half::Bf16, x);
    assert_eq!([bf16(f32::MAX), bf16(-f32::MAX), bf16(f32::from_bits(1))], [0x7f80, 0xff80, 0]);
    // A NaN whose payload is all below the cut stays one.
    for nan in [0x7f80_0001, 0xff80_0001, 0x7fff_ffff] {
        assert!(HALVES.iter().all(|half| half.widen(ours(*half, f32::from_bits(nan))).is_nan()));
    }
}

proptest! {
    #[test]
    fn any_bits_are_rounded_as_half_does(bits: u32) {
        for half in HALVES {
            prop_assert_eq!(ours(half, f32::from_bits(bits)), theirs(half, f32::from_bits(bits)));
        }
    }

    #[test]
    fn chance_takes_one_of_two_neighbours(bits: u32, noise: u32) {
        for half in HALVES {
            is_a_neighbour(half, f32::from_bits(bits), noise);
        }
    }
}

/// What chance makes of a number is one of the two codes around it, and the number itself where it has a code.
fn is_a_neighbour(half: Half, x: f32, noise: u32) {
    let code = by_chance(half, x, noise);
    if !x.is_finite() {
        assert_eq!(code, theirs(half, x), "{half:?} {x}");
        return;
    }
    let magnitude = code & 0x7fff;
    assert_eq!(code >> 15 == 1, x.is_sign_negative(), "{half:?} {x:e}");
    let at = |code: u16| half.widen(code);
    let is_below = at(magnitude) <= x.abs() && x.abs() < at(magnitude + 1);
    let is_above = magnitude > 0 && at(magnitude - 1) < x.abs() && x.abs() <= at(magnitude);
    assert!(is_below || is_above, "{half:?} {x:e} became {code:#06x}");
}

#[test]
fn chance_leaves_what_has_a_code_and_takes_a_neighbour_else() {
    for half in HALVES {
        for code in 0..=u16::MAX {
            let x = half.widen(code);
            let kept = if x.is_nan() { theirs(half, x) } else { code };
            assert!([0, 0x8000_0000, u32::MAX].iter().all(|&noise| by_chance(half, x, noise) == kept), "{code:#06x}");
        }
        for (i, bits) in spread::words().into_iter().enumerate() {
            for word in [0, u32::MAX, noise(U32(9), U32(i as u32)).0] {
                is_a_neighbour(half, f32::from_bits(bits), word);
            }
        }
    }
}

/// Of all 2^16 upper halves of the noise, as many round up as the number lies on its way to the next code.
#[test]
fn the_share_that_goes_up_is_the_share_of_the_way() {
    for half in HALVES {
        for x in [1.0f32, 1.0001, 1.003, 1.999_999_9, -3.3e-3, 6.2e-5, 6.1e-5, 1e-6, 4.1e-8, 2.5e-8, 1e-9, 1e-10, 1e-11]
        {
            let down = by_chance(half, x, 0);
            let up = (0..1u32 << 16).filter(|high| by_chance(half, x, high << 16) != down).count();
            let [low, high] = [down, down + 1].map(|code| f64::from(half.widen(code)));
            let share = (f64::from(x) - low) / (high - low) * 65536.0;
            assert!((up as f64 - share).abs() < 1.0, "{half:?} {x:e}: {up} of 65536, where {share} is due");
        }
    }
}

/// With the noise of the counter the mean stays: over elements, and over the steps of one element.
#[test]
fn the_mean_over_the_counter_is_the_number() {
    const SAMPLES: u32 = 1 << 18;
    let by_element = |i| noise(U32(77), U32(i)).0;
    let by_step = |i| noise(U32(i), U32(77)).0;
    for half in HALVES {
        for x in [1.0003f32, 0.7771, -1.234e-3, 3.3e-8, 5e-10] {
            let down = f64::from(half.widen(by_chance(half, x, 0)));
            let gap = f64::from(half.widen(by_chance(half, x, 0) + 1)) - down;
            let share = (f64::from(x) - down) / gap;
            let bound = 5.0 * (share * (1.0 - share) / f64::from(SAMPLES)).sqrt() + 1.0 / f64::from(SAMPLES);
            for noise in [by_element as fn(u32) -> u32, by_step] {
                let rounded = |i| (f64::from(half.widen(by_chance(half, x, noise(i)))) - down) / gap;
                let mean = (0..SAMPLES).map(rounded).sum::<f64>() / f64::from(SAMPLES);
                assert!((mean - share).abs() < bound, "{half:?} {x:e}: {mean} of the way, where {share} is due");
            }
        }
    }
}
