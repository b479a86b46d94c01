//! `bench --format`: a row for each format, with its bytes, and its time as a share of that in `f32`.

use std::collections::{BTreeMap, BTreeSet};

use crate::desk::{Desk, devices};

const FORMATS: [&str; 4] = ["f32", "bf16", "q8", "q8-bf16"];
/// Two blocks and more than `q8_min`.
const LEN: u64 = 8192;

fn line(device: &str, formats: &str) -> String {
    format!("bench --path {device} --rule adam --sizes 8k --samples 5 --seconds 0 --format {formats}")
}

/// The rows of `rows.csv` of one kind, each as column to cell, by their path.
fn rows(desk: &Desk, what: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let text = String::from_utf8(desk.read("rows.csv")).expect("text");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows = reader.deserialize::<BTreeMap<String, String>>().map(|row| row.expect("a row"));
    rows.filter(|row| row["what"] == what && row["clock"] == "wall").map(|row| (row["path"].clone(), row)).collect()
}

/// What rows call a path in a format.
fn named(path: &str, format: &str) -> String {
    if format == "f32" { path.into() } else { format!("{path}-{format}") }
}

#[test]
fn each_format_is_verified_and_has_a_row_beside_that_of_f32() {
    for device in devices() {
        let desk = Desk::new();
        let told = desk.succeeds(&format!("{} --csv rows.csv", line(device, &FORMATS.join(",")))).stdout;
        let steps = rows(&desk, "step");
        // A path that is wrong is not timed, and has no row.
        let expected: BTreeSet<String> = FORMATS.iter().map(|format| named(device, format)).collect();
        assert_eq!(steps.keys().cloned().collect::<BTreeSet<_>>(), expected, "{told}");
        let scales = 2 * 2 * 4 * LEN / 256;
        for (format, bytes) in FORMATS.iter().zip([28 * LEN, 14 * LEN, 16 * LEN + scales, 10 * LEN + scales]) {
            let step = &steps[&named(device, format)];
            assert_eq!(step["bytes"], bytes.to_string(), "{format}");
            assert_eq!(step["of_f32"].is_empty(), *format == "f32", "{format}: {step:?}");
            assert!(step["of_f32"].is_empty() || step["of_f32"].parse::<f64>().expect("a number") > 0.0, "{step:?}");
            assert!(step["share"].parse::<f64>().expect("a share") > 0.0, "{step:?}");
            // The plain kernels that it is a share of move as many bytes.
            let stream = &rows(&desk, "copy")[&named("stream", format)];
            let moved = stream["bytes"].parse::<u64>().expect("bytes").abs_diff(bytes);
            assert!(moved * 100 <= bytes, "{format}: {stream:?}");
            assert!(told.contains(&format!("step, {}", named(device, format))), "{told}");
        }
        assert!(told.contains("of f32: a step's time over that of the same step in f32"), "{told}");
    }
}

#[test]
fn a_format_alone_has_nothing_beside_it_and_one_given_twice_is_measured_once() {
    let desk = Desk::new();
    let told = desk.succeeds(&format!("{} --csv rows.csv --json rows.json", line("cpu", "q8,q8"))).stdout;
    let steps = rows(&desk, "step");
    assert_eq!(steps.keys().collect::<Vec<_>>(), ["cpu-q8"]);
    assert_eq!(steps["cpu-q8"]["of_f32"], "");
    assert!(!told.contains("of f32: a step's time"), "{told}");
    let record: serde_json::Value = serde_json::from_slice(&desk.read("rows.json")).expect("JSON");
    // Two plain kernels and a step.
    assert_eq!(record["rows"].as_array().map(Vec::len), Some(3));
}

#[test]
fn words_that_are_no_format_are_refused_with_those_that_are() {
    let desk = Desk::new();
    for word in ["q4", "fp16", "Q8", "bf16,int8", ""] {
        desk.refuses(&format!("bench --format={word}"), 2, &["--format <FORMAT>", "f32, bf16, q8, q8-bf16"]);
    }
    let turn = "bench --in-turn --path cpu --rule adam --sizes 8k --format f32,q8";
    desk.refuses(turn, 2, &["--in-turn is in f32 alone, and --format asks for f32,q8"]);
}
