//! Chance: every bit of it depends on every bit of what it is made of, and streams know nothing of each other.

use std::collections::HashSet;

use wgpu_optim::format::noise::{mixed, noise, step_key, stream, tensor_key};
use wgpu_optim::wgsl::U32;

fn word([step, tensor, what, element]: [u32; 4]) -> u32 {
    noise(stream(U32(step), U32(tensor), U32(what)), U32(element)).0
}

/// The words of some counter.
type Counted = Box<dyn Fn(u32) -> u32>;

/// Words that were computed from the published hash by another program: files that were written go on with the same.
#[test]
fn the_noise_of_a_release_is_that_of_the_next() {
    let (step, tensor) = (step_key((7 << 32) | 5, 12), tensor_key("fc1.weight"));
    assert_eq!([step, tensor], [0xb902_b126, 0x9c5d_d2eb]);
    assert_eq!(stream(U32(step), U32(tensor), U32(1)), U32(0x963c_28d2));
    assert_eq!(word([step, tensor, 1, 3]), 0x792b_395d);
}

#[test]
fn no_two_words_become_one() {
    let words: HashSet<U32> = (0..1 << 18).map(|i| mixed(U32(i))).collect();
    assert_eq!(words.len(), 1 << 18);
}

/// Each bit that goes in moves each bit that comes out half of the time.
#[test]
fn each_bit_depends_on_each() {
    const SAMPLES: u32 = 4096;
    for part in 0..4 {
        for flipped in 0..32 {
            let mut moved = [0u32; 32];
            for i in 0..SAMPLES {
                let from = [i, 3 * i + 1, i % 4, 7 * i];
                let mut to = from;
                to[part] ^= 1 << flipped;
                let change = word(from) ^ word(to);
                (0..32).for_each(|bit| moved[bit] += (change >> bit) & 1);
            }
            // 6 deviations of a fair coin, for 4096 coins.
            let far = moved.iter().find(|&&count| count.abs_diff(SAMPLES / 2) > 6 * 32);
            assert_eq!(far, None, "bit {flipped} of part {part} of {SAMPLES}");
        }
    }
}

/// Pearson's chi-square of a byte's values, 255 degrees of freedom: 255 on average, and off by 23.
fn chi_square(words: impl Iterator<Item = u32>, shift: u32) -> f64 {
    let mut counts = [0f64; 256];
    words.for_each(|word| counts[(word >> shift) as usize & 255] += 1.0);
    let due = counts.iter().sum::<f64>() / 256.0;
    counts.iter().map(|count| (count - due).powi(2) / due).sum()
}

#[test]
fn each_byte_has_each_value_as_often() {
    const SAMPLES: u32 = 1 << 18;
    for shift in [0, 8, 16, 24] {
        let by: [(&str, Counted); 4] = [
            ("element", Box::new(|i| word([5, 6, 0, i]))),
            ("step", Box::new(|i| word([step_key(0, i.into()), tensor_key("w"), 0, 11]))),
            ("seed", Box::new(|i| word([step_key(i.into(), 1), tensor_key("w"), 0, 11]))),
            ("tensor", Box::new(|i| word([step_key(0, 1), tensor_key(&format!("layer.{i}")), 0, 11]))),
        ];
        for (what, word) in by {
            let found = chi_square((0..SAMPLES).map(word), shift);
            assert!((150.0..390.0).contains(&found), "by {what}, byte at {shift}: {found}");
        }
    }
}

/// Neighbours in every direction are no more alike than strangers.
#[test]
fn neighbouring_streams_are_not_correlated() {
    const SAMPLES: u32 = 1 << 18;
    let (step, tensor) = (step_key(1, 1), tensor_key("w"));
    let own = move |i: u32| word([step, tensor, 0, i]);
    let others: [(&str, Counted); 6] = [
        ("the next element", Box::new(move |i| own(i + 1))),
        ("256 elements on", Box::new(move |i| own(i + 256))),
        ("the next step", Box::new(move |i| word([step_key(1, 2), tensor, 0, i]))),
        ("the next seed", Box::new(move |i| word([step_key(2, 1), tensor, 0, i]))),
        ("the next slot", Box::new(move |i| word([step, tensor, 1, i]))),
        ("the next tensor", Box::new(move |i| word([step, tensor_key("x"), 0, i]))),
    ];
    let centred = |word: u32| (f64::from(word) + 0.5) / 4_294_967_296.0 - 0.5;
    for (what, other) in others {
        let sum: f64 = (0..SAMPLES).map(|i| centred(own(i)) * centred(other(i))).sum();
        let correlation = 12.0 * sum / f64::from(SAMPLES);
        assert!(correlation.abs() < 5.0 / f64::from(SAMPLES).sqrt(), "{what}: {correlation}");
    }
}
