//! Numbers of 8 bits, by blocks, held against the maps of bitsandbytes and torchao.

use wgpu_optim::Error;
use wgpu_optim::format::Q8Zero;
use wgpu_optim::format::blocks::{self, BLOCK, Map};

use crate::maps;

const SIGNED: Map = Map { unsigned: false, guarded: false };
const UNSIGNED: Map = Map { unsigned: true, guarded: false };
const GUARDED: Map = Map { unsigned: true, guarded: true };

/// The published entry of each code.
fn published(map: Map) -> [f32; 256] {
    std::array::from_fn(|code| match map.unsigned {
        true => f32::from_bits(maps::UNSIGNED[code]),
        false if code < 127 => -f32::from_bits(maps::SIGNED[127 - code]),
        false => f32::from_bits(maps::SIGNED[code - 127]),
    })
}

#[test]
fn only_a_second_moment_is_guarded() {
    assert_eq!(Map::new(false, Q8Zero::Guarded), SIGNED);
    assert_eq!(Map::new(true, Q8Zero::Reference), UNSIGNED);
    assert_eq!(Map::new(true, Q8Zero::Guarded), GUARDED);
}

#[test]
fn every_code_comes_back_as_itself() {
    for map in [SIGNED, UNSIGNED, GUARDED] {
        for scale in [3.7, 1.0, 1e-30, f32::MAX] {
            for code in 0..=u8::MAX {
                assert_eq!(map.encode(map.decode(code, scale), scale), code, "{map:?} {scale:e}");
            }
        }
    }
}

#[test]
fn entries_are_the_published_ones_to_2_ulp() {
    for map in [SIGNED, UNSIGNED] {
        for (code, known) in published(map).into_iter().enumerate() {
            let ours = map.decode(code as u8, 1.0);
            assert_eq!(ours.is_sign_negative(), known.is_sign_negative(), "{map:?} {code}");
            let ulps = ours.to_bits().abs_diff(known.to_bits());
            assert!(ulps <= 2, "{map:?} {code}: {ours:e}, {known:e}");
        }
    }
}

/// The nearest code by a search of the published map, and how far the number is from the middle that decides, in gaps.
fn nearest(table: &[f32; 256], x: f32) -> (u8, f64) {
    let x = f64::from(x);
    let above = table.partition_point(|&entry| f64::from(entry) < x).clamp(1, 255);
    let [low, high] = [above - 1, above].map(|code| f64::from(table[code]));
    let way = (x - low) / (high - low) - 0.5;
    let code = if way > 0.0 { above } else { above - 1 };
    (code as u8, way.abs())
}

/// Numbers from below the least entry to 1: every 61st, and all about the middles of neighbours.
fn sweep(table: &[f32; 256]) -> impl Iterator<Item = f32> {
    let dense = (1e-8f32.to_bits()..=1f32.to_bits()).step_by(61).map(f32::from_bits);
    let middles = table.windows(2).map(|pair| (pair[0].abs() + pair[1].abs()) / 2.0).collect::<Vec<_>>();
    let about = |middle: f32| (middle.to_bits() - 32..=middle.to_bits() + 32).map(f32::from_bits);
    dense.chain(middles.into_iter().flat_map(about))
}

/// The code is the nearest of the published map, but where two are equally near to within 1e-4 of their distance.
#[test]
fn codes_are_the_nearest_of_the_published_map() {
    for map in [SIGNED, UNSIGNED] {
        let table = published(map);
        let (mut seen, mut other, mut farthest) = (0u32, 0u32, 0f64);
        for x in sweep(&table).flat_map(|x| [x, if map.unsigned { x } else { -x }]) {
            let (code, ours) = (nearest(&table, x), map.encode(x, 1.0));
            seen += 1;
            if ours != code.0 {
                assert_eq!(ours.abs_diff(code.0), 1, "{map:?} {x:e}");
                other += 1;
                farthest = farthest.max(code.1);
            }
        }
        println!("{map:?}: {other} of {seen} are not the nearest, at most {farthest:.1e} of a gap from the middle");
        assert!(seen > 3_000_000 && farthest < 1e-4, "{map:?}: {other} of {seen}, {farthest:e}");
    }
}

#[test]
fn nothing_is_nothing_and_the_largest_is_itself() {
    for map in [SIGNED, UNSIGNED, GUARDED] {
        let zero = if map.unsigned { 0 } else { 127 };
        for scale in [0.0, f32::from_bits(1), f32::MIN_POSITIVE, 1.0, f32::MAX] {
            for nothing in [0.0, -0.0] {
                assert_eq!(map.encode(nothing, scale), zero, "{map:?} {scale:e}");
            }
            assert_eq!(map.decode(zero, scale).to_bits(), 0, "{map:?} {scale:e}");
        }
        for scale in [f32::MIN_POSITIVE, 0.1, 1.0, f32::MAX] {
            assert_eq!(map.encode(scale, scale), 255);
            assert_eq!(map.decode(255, scale), scale);
        }
    }
    // There is no entry for -1: the last is the nearest.
    assert_eq!(SIGNED.encode(-2.5, 2.5), 0);
    assert!((SIGNED.decode(0, 2.5) / -2.5 - 0.993).abs() < 1e-3);
}

#[test]
fn guarded_is_0_for_0_alone() {
    let least = f32::from_bits(1);
    for scale in [least, f32::MIN_POSITIVE, 1e-20, 1.0, f32::MAX, f32::INFINITY] {
        for x in [least, 1e-40, 1e-38, scale * 1e-9, scale * 1e-7].into_iter().filter(|&x| x > 0.0 && x <= scale) {
            assert!(GUARDED.encode(x, scale) > 0, "{x:e} {scale:e}");
        }
    }
    assert_eq!([UNSIGNED.encode(1e-9, 1.0), GUARDED.encode(1e-9, 1.0)], [0, 1]);
    // What is not near 0 is the same, guarded or not.
    let from = 1.625e-7f32.to_bits();
    for x in (from..=1f32.to_bits()).step_by(4099).map(f32::from_bits) {
        assert_eq!(UNSIGNED.encode(x, 1.0), GUARDED.encode(x, 1.0), "{x:e}");
    }
}

#[test]
fn what_is_not_finite_spoils_its_block_and_is_seen() {
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![0.25f32; BLOCK as usize];
        values[200] = wrong;
        values[3] = 0.0;
        for map in [SIGNED, UNSIGNED, GUARDED] {
            let mut codes = vec![9; values.len()];
            let scale = blocks::encode(map, &values, &mut codes);
            assert!(!scale.is_finite());
            let mut back = values.clone();
            blocks::decode(map, &codes, scale, &mut back);
            assert!(back.iter().all(|x| x.to_bits() == scale.to_bits()), "{map:?} {wrong}");
        }
    }
}

#[test]
fn a_block_comes_back_within_half_a_gap() {
    let values: Vec<f32> = (0..BLOCK as i32).map(|i| ((i * 37) % 251 - 125) as f32 * 1.7e-3).collect();
    let mut codes = vec![0; values.len()];
    let scale = blocks::encode(SIGNED, &values, &mut codes);
    assert_eq!(scale, 125.0 * 1.7e-3);
    let mut back = vec![0.0; values.len()];
    blocks::decode(SIGNED, &codes, scale, &mut back);
    for (x, y) in values.iter().zip(&back) {
        assert!((x - y).abs() <= 0.0071 * scale, "{x} {y}");
    }
    let nothing = vec![0.0; 7];
    assert_eq!(blocks::encode(SIGNED, &nothing, &mut codes[..7]), 0.0);
    assert_eq!(codes[..7], [127; 7]);
}

#[test]
fn the_first_scale_that_no_block_can_have_is_refused_by_its_number() {
    assert_eq!(blocks::check_scales(0, [0.0, 1e-40, f32::MAX]), Ok(()));
    for wrong in [f32::NAN, f32::INFINITY, -1.0, -0.0] {
        let refused = blocks::check_scales(5, [1.0, 0.0, wrong, -2.0]).unwrap_err();
        assert!(matches!(refused, Error::Scale { block: 7, scale } if scale.to_bits() == wrong.to_bits()), "{refused}");
    }
}
