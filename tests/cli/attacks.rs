//! Hostile files, in every place where a file is read. `tests/attacks/make.py` writes them.

use std::collections::BTreeSet;
use std::fs;

use proptest::prelude::*;
use safetensors::SafeTensors;

use crate::desk::{Desk, STEP};

/// Each file, and what is said of it.
const ATTACKS: [(&str, &str); 42] = [
    ("empty", "0 bytes are too few for a safetensors file"),
    ("seven_bytes", "7 bytes are too few for a safetensors file"),
    ("header_of_no_bytes", "the header is no JSON object"),
    ("header_length_of_all_ones", "given as 18446744073709551615 bytes, at most 100000000"),
    ("header_length_above_the_limit", "given as 100000001 bytes, at most 100000000"),
    ("header_length_past_the_end", "given as 1000 bytes, but only 2 follow"),
    ("header_is_a_list", "the header is no JSON object"),
    ("header_after_a_space", "the header is no JSON object"),
    ("header_not_closed", "the header is not sound: \"w\": EOF"),
    ("header_with_a_tail", "trailing characters"),
    ("header_not_utf8", "invalid unicode"),
    ("header_nested_deep", "\"w\": invalid type: sequence"),
    ("metadata_nested_deep", "\"__metadata__\": invalid type: map, expected a string"),
    ("tensor_twice", "tensor \"w\" is in the header twice"),
    ("field_twice", "\"w\": duplicate field `dtype`"),
    ("metadata_twice", "\"__metadata__\" is there twice"),
    ("metadata_key_twice", "the key \"a\" is there twice"),
    ("metadata_of_numbers", "\"__metadata__\": invalid type: integer `1`, expected a string"),
    ("metadata_is_a_word", "\"__metadata__\": invalid type: string"),
    ("field_missing", "\"w\": missing field `shape`"),
    ("field_unknown", "\"w\": unknown field `strides`"),
    ("dtype_unknown", "tensor \"w\" has the unknown dtype \"F31\""),
    ("dtype_is_a_number", "\"w\": invalid type: integer `32`, expected a string"),
    ("shape_negative", "\"w\": invalid value: integer `-1`"),
    ("shape_of_fractions", "\"w\": invalid type: floating point `1.5`"),
    ("shape_past_64_bits", "\"w\": invalid type: floating point `1.8446744073709552e+19`"),
    ("shape_product_past_64_bits", "has shape [8589934592, 8589934592]: too large"),
    ("shape_size_past_64_bits", "has shape [4611686018427387905]: too large"),
    ("shape_of_half_a_byte", "\"w\" of F4 has shape [1]: too large, or no whole number of bytes"),
    ("shape_of_other_size", "\"w\" has shape [2] of F32, which is 8 bytes, but bytes 0..4"),
    ("offsets_of_three", "\"w\": trailing characters"),
    ("offsets_negative", "\"w\": invalid value: integer `-4`"),
    ("offsets_backwards", "\"w\" starts at byte 4 and ends before it, at byte 0"),
    ("offsets_past_64_bits", "\"w\": invalid type: floating point"),
    ("offsets_past_the_end", "no tensor has bytes 0..9223372036854775808"),
    ("overlap", "\"v\" and \"w\" overlap: one ends at byte 8, the other starts at 4"),
    ("same_bytes_twice", "\"v\" and \"w\" overlap"),
    ("hole", "no tensor has bytes 4..8, before tensor \"w\""),
    ("hole_at_the_start", "no tensor has bytes 0..4, before tensor \"w\""),
    ("data_too_short", "have 4 bytes, but the file holds 3: it was cut short"),
    ("data_too_long", "have 4 bytes, but the file holds 5"),
    ("data_without_tensors", "have 0 bytes, but the file holds 4"),
];

/// Where we are stricter than the safetensors crate, which takes these.
const STRICTER: [&str; 4] = ["header_after_a_space", "metadata_key_twice", "field_unknown", "tensor_twice"];

fn file(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/attacks/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_attack_is_refused_by_name_wherever_it_is_read() {
    let desk = Desk::new();
    let step = "apply --device cpu --config optim.toml --out-params out.safetensors";
    for (name, message) in ATTACKS {
        desk.bytes("attack.safetensors", &file(name));
        let says = ["error: attack.safetensors: ", message];
        desk.refuses(&format!("{step} --params attack.safetensors --grads g0.safetensors"), 1, &says);
        desk.refuses(&format!("{step} --params p.safetensors --grads attack.safetensors"), 1, &says);
        desk.refuses(&format!("{STEP} --state attack.safetensors"), 1, &says);
        desk.refuses("compare attack.safetensors p.safetensors --before p.safetensors", 1, &says);
    }
}

#[test]
fn every_attack_has_its_message_and_its_file() {
    let listed: BTreeSet<String> = ATTACKS.iter().map(|(name, _)| format!("{name}.safetensors")).collect();
    let folder = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attacks")).expect("the folder");
    let names = folder.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    assert_eq!(names.filter(|name| name.ends_with(".safetensors")).collect::<BTreeSet<_>>(), listed);
}

#[test]
fn what_the_safetensors_crate_refuses_is_an_attack_here() {
    for (name, _) in ATTACKS {
        assert_eq!(SafeTensors::deserialize(&file(name)).is_ok(), STRICTER.contains(&name), "{name}");
    }
}

#[test]
fn a_folder_or_a_file_that_is_not_there_is_refused_by_name() {
    let desk = Desk::new();
    fs::create_dir(desk.path("folder")).expect("a folder");
    let step = "apply --device cpu --config optim.toml --out-params out.safetensors --grads g0.safetensors";
    desk.refuses(&format!("{step} --params missing.safetensors"), 1, &["error: missing.safetensors: No such file"]);
    desk.refuses(&format!("{step} --params folder"), 1, &["error: folder: not a regular file"]);
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let desk = Desk::new();
    let made = std::process::Command::new("mkfifo").arg(desk.path("pipe")).status().expect("mkfifo starts");
    assert!(made.success());
    desk.refuses(&STEP.replace("p.safetensors", "pipe"), 1, &["error: pipe: not a regular file"]);
    desk.refuses(&STEP.replace("g0.safetensors", "pipe"), 1, &["error: pipe: not a regular file"]);
    desk.refuses(&format!("{STEP} --state pipe"), 1, &["error: pipe: not a regular file"]);
}

#[test]
fn metadata_of_null_are_none() {
    let desk = Desk::new();
    let header = br#"{"__metadata__":null,"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 8]].concat();
    assert!(SafeTensors::deserialize(&file).is_ok(), "the crate takes it");
    desk.bytes("p.safetensors", &file);
    desk.tensors("g0.safetensors", &[("b", &[2], &[1.0, -1.0])]);
    desk.succeeds(STEP);
    assert_eq!(crate::desk::head(&desk.read("out.safetensors")), crate::desk::head(&file));
}

#[test]
fn a_file_that_is_bad_in_the_last_step_is_found_before_the_first() {
    let desk = Desk::new();
    desk.bytes("bad.safetensors", &file("data_too_short"));
    desk.refuses(
        &format!("{STEP} --grads g1.safetensors --grads bad.safetensors --out-state state.safetensors"),
        1,
        &["bad.safetensors: ", "cut short"],
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_bytes_makes_the_program_panic_or_take_what_the_crate_refuses(
        place in 0.0f64..1.0, byte in any::<u8>(), cut in prop::option::of(0.0f64..1.0),
    ) {
        let desk = Desk::new();
        let mut bytes = desk.read("p.safetensors");
        let at = (place * bytes.len() as f64) as usize;
        bytes[at] = byte;
        bytes.truncate((cut.unwrap_or(1.0) * bytes.len() as f64) as usize);
        desk.bytes("p.safetensors", &bytes);
        let ran = desk.run(STEP);
        prop_assert!(matches!(ran.code, Some(0 | 1)), "{:?}: {}", ran.code, ran.stderr);
        if SafeTensors::deserialize(&bytes).is_err() {
            prop_assert_eq!(ran.code, Some(1));
        }
    }
}
