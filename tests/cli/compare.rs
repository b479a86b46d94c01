//! `compare`, which must be able to fail.

use safetensors::tensor::Dtype;

use crate::desk::Desk;

const COMPARE: &str = "compare a.safetensors b.safetensors --before before.safetensors";

/// A hundred elements that moved by 1e-3 each, in the second file with one of them changed by `change`.
fn desk(change: impl FnOnce(&mut f32)) -> Desk {
    let desk = Desk::new();
    let before: Vec<f32> = (0..100).map(|i| i as f32 * 0.01).collect();
    let after: Vec<f32> = before.iter().map(|x| x - 1e-3).collect();
    let mut other = after.clone();
    change(&mut other[70]);
    for (file, values) in [("before", &before), ("a", &after), ("b", &other)] {
        desk.tensors(&format!("{file}.safetensors"), &[("w", &[10, 10], values)]);
    }
    desk
}

#[test]
fn equal_results_pass() {
    let told = desk(|_| ()).succeeds(COMPARE).stdout;
    assert!(told.contains("all within"), "{told}");
}

#[test]
fn a_rounding_passes_and_a_percent_of_an_update_does_not() {
    desk(|x| *x = x.next_up()).succeeds(COMPARE);
    let ran = desk(|x| *x += 1e-5).run(COMPARE);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.contains("too far apart"), "{}", ran.stdout);
}

#[test]
fn one_nan_among_a_hundred_is_noticed() {
    assert_eq!(desk(|x| *x = f32::NAN).run(COMPARE).code, Some(1));
}

#[test]
fn json_says_the_same() {
    let ran = desk(|x| *x += 1e-5).run(&format!("{COMPARE} --json"));
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one JSON object");
    assert_eq!((ran.code, &told["passed"]), (Some(1), &false.into()));
    assert_eq!(told["tensors"][0]["tensor"], "w");
}

#[test]
fn files_of_other_tensors_are_refused() {
    let desk = desk(|_| ());
    desk.tensors("b.safetensors", &[("v", &[1], &[1.0])]);
    desk.refuses(COMPARE, 1, &["a.safetensors: there is no tensor \"v\""]);
    desk.tensors("b.safetensors", &[("w", &[100], &[0.0; 100])]);
    desk.refuses(COMPARE, 1, &["b.safetensors: \"w\" is [100] of F32, expected [10, 10] of F32"]);
}

#[test]
fn sixteen_bits_may_be_a_unit_of_theirs_apart_and_no_more() {
    let desk = Desk::new();
    for (dtype, one) in [(Dtype::F16, 0x3c00u16), (Dtype::BF16, 0x3f80)] {
        for (file, code) in [("before", one + 9), ("a", one), ("b", one + 1), ("c", one + 2)] {
            desk.raw(&format!("{file}.safetensors"), &[("w", dtype, &[1], &code.to_le_bytes())], None);
        }
        desk.succeeds(COMPARE);
        assert_eq!(desk.run(&COMPARE.replace("b.safe", "c.safe")).code, Some(1), "{dtype}");
    }
}
