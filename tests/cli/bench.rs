//! `bench` leaves what it has measured, however it ends.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::desk::Desk;

/// Four groups on the CPU: of 1 k elements the first, of 4 M the second and the last.
const LINE: &str =
    "bench --path cpu --workload single --sizes 1k,4m --samples 5 --seconds 0 --csv rows.csv --html page.html";

/// What a file of rows measured: (rule, workload) of each row, one for each group.
fn groups(rows: &str) -> Vec<(String, String)> {
    let mut reader = csv::Reader::from_reader(rows.as_bytes());
    let rows = reader.deserialize::<std::collections::HashMap<String, String>>();
    let mut groups: Vec<(String, String)> =
        rows.map(|row| row.expect("a row")).map(|row| (row["rule"].clone(), row["workload"].clone())).collect();
    groups.dedup();
    groups
}

/// Waits until a file is there.
fn await_file(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "{} is not written", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_run_that_is_killed_leaves_the_groups_that_it_had_measured() {
    let desk = Desk::new();
    let mut run = Command::new(env!("CARGO_BIN_EXE_wgpu-optim"))
        .current_dir(desk.path(""))
        .args(LINE.split(' '))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    await_file(&desk.path("rows.csv"));
    run.kill().expect("a run that can be killed");
    let ran = run.wait_with_output().expect("a run that ends");
    assert!(!ran.status.success());

    let rows = String::from_utf8(desk.read("rows.csv")).expect("text");
    let measured = groups(&rows);
    assert_eq!(measured[0], ("adam".into(), "single-1k".into()), "{rows}");
    assert!(measured.len() < 4, "it was not killed before its end: {rows}");
    // Whole: a group on the CPU is two copies and a step.
    assert_eq!(rows.lines().count(), 1 + 3 * measured.len(), "{rows}");
    let told = String::from_utf8(ran.stdout).expect("text");
    assert!(told.starts_with("adam single-1k: 1024 elements in 1 tensor"), "{told}");
    let again = desk.succeeds("diff rows.csv rows.csv").stdout;
    assert!(again.contains(&format!("{} unchanged", 3 * measured.len())), "{again}");
}

#[test]
fn a_run_that_ends_leaves_every_group_in_every_file() {
    let desk = Desk::new();
    let before = desk.files().len();
    desk.text("rows.csv", "an earlier record");
    let told = desk.succeeds(&format!("{} --json rows.json", LINE.replace("4m", "2k"))).stdout;
    let expected = [("adam", "1k"), ("adam", "2k"), ("rmsprop", "1k"), ("rmsprop", "2k")];
    let rows = String::from_utf8(desk.read("rows.csv")).expect("text");
    assert_eq!(groups(&rows), expected.map(|(rule, size)| (rule.into(), format!("single-{size}"))));
    let record: serde_json::Value = serde_json::from_slice(&desk.read("rows.json")).expect("JSON");
    assert_eq!(record["rows"].as_array().map(Vec::len), Some(12));
    let page = String::from_utf8(desk.read("page.html")).expect("text");
    for (rule, size) in expected {
        assert_eq!(told.matches(&format!("{rule} single-{size}: ")).count(), 1, "{told}");
        assert!(page.contains(&format!("single-{size}")), "{page}");
    }
    assert_eq!(told.matches("share: bytes per second").count(), 1, "{told}");
    assert_eq!(desk.files().len(), before + 3, "nothing besides is left");
}

#[test]
fn json_on_stdout_is_one_value_and_nothing_else() {
    let line = "bench --path cpu --rule adam --workload single --sizes 1k,2k --samples 5 --seconds 0 --json";
    let told: serde_json::Value = serde_json::from_str(&Desk::new().succeeds(line).stdout).expect("JSON");
    assert_eq!(told["rows"].as_array().map(Vec::len), Some(6));
}

#[test]
fn a_place_that_cannot_be_written_to_is_refused_before_anything_is_measured() {
    let desk = Desk::new();
    desk.refuses(&LINE.replace("rows.csv", "none/rows.csv"), 1, &["cannot write none/rows.csv"]);
    desk.refuses(&LINE.replace("page.html", "rows.csv"), 2, &["--html and --csv are one file"]);
}
