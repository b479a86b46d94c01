//! `diff` and `peers`, on files written by hand, sound and not.

use serde_json::Value;

use crate::desk::Desk;

const HEADER: &str = "what,path,device,rule,workload,tensors,elements,bytes,clock,samples,median_s,mad_s,share,note";

/// A step on the CPU: path, rule, workload, seconds, and their spread.
fn step(path: &str, rule: &str, workload: &str, median: f64, mad: f64) -> String {
    format!("step,{path},\"A CPU, 2 threads\",{rule},{workload},1,1000000,28000000,wall,15,{median},{mad},,")
}

fn desk(files: &[(&str, &[String])]) -> Desk {
    let desk = Desk::new();
    for (name, rows) in files {
        desk.text(name, &format!("{HEADER}\n{}\n", rows.join("\n")));
    }
    desk
}

/// Two runs: gpt2 slower by half, resnet50 faster by a fifth, splats within its spread, and one row in each alone.
fn runs() -> Desk {
    let before = [
        step("cpu", "adam", "gpt2", 0.1, 0.001),
        step("cpu", "adam", "resnet50", 0.01, 0.0001),
        step("cpu", "adam", "splats", 0.02, 0.01),
        step("twin", "adam", "gpt2", 1.0, 0.01),
    ];
    let after = [
        step("cpu", "adam", "gpt2", 0.15, 0.001),
        step("cpu", "adam", "resnet50", 0.008, 0.0001),
        step("cpu", "adam", "splats", 0.022, 0.01),
        step("cpu", "rmsprop", "gpt2", 1.0, 0.01),
    ];
    desk(&[("a.csv", &before), ("b.csv", &after)])
}

#[test]
fn diff_tells_slower_faster_and_unchanged() {
    let told = runs().succeeds("diff a.csv b.csv").stdout;
    let (slower, faster) = told.split_once("faster on A CPU, 2 threads").expect("both tables");
    assert!(slower.starts_with("slower on A CPU, 2 threads\n"), "{told}");
    assert!(slower.contains("step cpu adam gpt2 wall") && slower.contains("+50.0%"), "{told}");
    assert!(faster.contains("step cpu adam resnet50 wall") && faster.contains("-20.0%"), "{told}");
    assert!(told.contains("1 slower, 1 faster, 1 unchanged\n"), "{told}");
    assert!(told.contains("only in a.csv: 1 row\n  on A CPU, 2 threads\n    step twin adam gpt2 wall\n"), "{told}");
    assert!(told.contains("only in b.csv: 1 row\n  on A CPU, 2 threads\n    step cpu rmsprop gpt2 wall"), "{told}");
    assert!(told.lines().all(|line| line.chars().count() <= 80), "{told}");
}

#[test]
fn diff_fails_on_what_is_slower_only_if_asked() {
    let desk = runs();
    assert_eq!(desk.run("diff a.csv b.csv --fail-on-slower").code, Some(1));
    assert_eq!(desk.run("diff a.csv a.csv --fail-on-slower").code, Some(0));
}

#[test]
fn diff_says_the_same_as_json() {
    let told: Value = serde_json::from_str(&runs().succeeds("diff a.csv b.csv --json").stdout).expect("JSON");
    let counts = ["slower", "faster", "unchanged", "not_judged", "only_in_a", "only_in_b"]
        .map(|name| told[name].as_array().expect("a list").len());
    assert_eq!(counts, [1, 1, 1, 0, 1, 1]);
    assert_eq!((&told["slower"][0]["workload"], &told["slower"][0]["clock"]), (&"gpt2".into(), &"wall".into()));
    assert!((told["slower"][0]["ratio"].as_f64().expect("a ratio") - 1.5).abs() < 1e-12);
}

#[test]
fn diff_does_not_judge_few_samples() {
    let row = step("cpu", "adam", "gpt2", 0.1, 0.0).replace("wall,15", "wall,2");
    let desk = desk(&[("a.csv", std::slice::from_ref(&row)), ("b.csv", &[row.replace("0.1,0", "0.9,0")])]);
    let told = desk.succeeds("diff a.csv b.csv").stdout;
    assert!(told.contains("0 unchanged, 1 not judged for too few samples"), "{told}");
    let ran = desk.run("diff a.csv b.csv --fail-on-slower");
    assert!(ran.code == Some(1) && ran.stderr.contains("nothing could be compared"), "{}", ran.stderr);
}

#[test]
fn diff_of_two_machines_compares_nothing_and_says_so() {
    let row = step("cpu", "adam", "gpt2", 0.1, 0.0);
    let desk = desk(&[("a.csv", std::slice::from_ref(&row)), ("b.csv", &[row.replace("A CPU", "Another CPU")])]);
    let ran = desk.succeeds("diff a.csv b.csv");
    let note = "note: no device is in both files: a.csv has A CPU, 2 threads, b.csv has Another CPU, 2 threads";
    assert!(ran.stderr.contains(note), "{}", ran.stderr);
    let ran = desk.run("diff a.csv b.csv --fail-on-slower");
    assert!(ran.code == Some(1) && ran.stderr.contains("nothing could be compared"), "{}", ran.stderr);
}

/// The baseline, a path twice as fast, and a peer that was timed against the baseline in turn.
fn peers() -> Desk {
    let rows = [
        step("baseline-c", "adam", "gpt2", 0.1, 0.001),
        step("wgpu-optim-cpu", "adam", "gpt2", 0.05, 0.001),
        step("pytorch-fused", "adam", "gpt2", 0.09, 0.001).replace(",,", ",0.8125,"),
        step("baseline-c", "rmsprop", "many-small", 0.01, 0.001),
        step("pytorch-fused", "rmsprop", "many-small", 0.04, 0.001),
    ];
    desk(&[("peers.csv", &rows)])
}

fn cells(told: &str, path: &str) -> Vec<String> {
    let line = told.lines().find(|line| line.starts_with(path)).unwrap_or_else(|| panic!("no {path} in: {told}"));
    line.split_whitespace().skip(1).map(String::from).collect()
}

#[test]
fn peers_stand_side_by_side() {
    let told = peers().succeeds("peers peers.csv").stdout;
    assert_eq!(cells(&told, "wgpu-optim-cpu"), ["2.000", "-"], "{told}");
    // The first was taken in turn, and the file says so; the second is the ratio of medians.
    assert_eq!(cells(&told, "pytorch-fused"), ["0.812", "0.250"], "{told}");
    assert!(told.contains("adam gpt2") && told.contains("100.0000 ms") && told.contains("0.28 GB/s"), "{told}");
}

#[test]
fn peers_against_another_path_are_ratios_of_medians() {
    let told = peers().succeeds("peers peers.csv --against pytorch-fused").stdout;
    assert_eq!(cells(&told, "baseline-c"), ["0.900", "4.000"], "{told}");
}

#[test]
fn a_share_of_the_plain_copy_is_not_one_of_the_baseline() {
    let bench = [step("cpu", "adam", "gpt2", 0.05, 0.001).replace(",,", ",0.9,")];
    let desk = desk(&[("bench.csv", &bench), ("peers.csv", &[step("baseline-c", "adam", "gpt2", 0.1, 0.0)])]);
    // The baseline is in another file, of perhaps another machine.
    let told = desk.succeeds("peers bench.csv peers.csv").stdout;
    assert!(!told.contains("0.9"), "{told}");
    assert!(!told.lines().any(|line| line.starts_with("cpu")), "{told}");
}

#[test]
fn peers_of_one_name_in_two_files_are_told_apart() {
    let rows = [step("baseline-c", "adam", "gpt2", 0.1, 0.0), step("burn", "adam", "gpt2", 0.2, 0.0)];
    let desk = desk(&[("one.csv", &rows), ("two.csv", &rows)]);
    let told = desk.succeeds("peers one.csv two.csv").stdout;
    assert!(told.contains("burn in one  ") && told.contains("burn in two  "), "{told}");
}

#[test]
fn many_columns_are_wrapped_to_seventy_characters() {
    let workloads =
        ["single-1k", "single-16k", "single-1m", "gpt2", "resnet50", "many-small", "many-buffers", "splats"];
    let step = |path, rule, workload: &&str| step(path, rule, workload, 0.123, 0.0);
    let rows: Vec<String> = workloads
        .iter()
        .flat_map(|workload| ["adam", "rmsprop"].map(|rule| (rule, workload)))
        .flat_map(|(rule, workload)| ["baseline-c", "pytorch-foreach"].map(|path| step(path, rule, workload)))
        .collect();
    let told = desk(&[("peers.csv", &rows)]).succeeds("peers peers.csv").stdout;
    assert_eq!(told.matches("1.000").count(), 16, "{told}");
    assert!(told.lines().all(|line| line.chars().count() <= 70), "{told}");
}

#[test]
fn peers_as_json_have_the_cells_and_the_references() {
    let told: Value = serde_json::from_str(&peers().succeeds("peers peers.csv --json").stdout).expect("JSON");
    assert_eq!(told["columns"][0]["references"][0]["median_s"], 0.1);
    let row =
        |path: &str| told["rows"].as_array().and_then(|rows| rows.iter().find(|row| row["path"] == path).cloned());
    assert_eq!(row("wgpu-optim-cpu").expect("a row")["shares"], serde_json::json!([2.0, null]));
}

#[test]
fn a_reference_that_nobody_ran_is_refused_with_those_that_are_there() {
    peers().refuses(
        "peers peers.csv --against baseline",
        1,
        &["\"baseline\"", "nearest is \"baseline-c\"", "pytorch-fused"],
    );
    peers().refuses("peers", 2, &["FILE.csv"]);
}

/// A file, and what is said of it.
fn refused(bytes: &[u8], parts: &[&str]) {
    let desk = Desk::new();
    desk.text("good.csv", &format!("{HEADER}\n{}\n", step("baseline-c", "adam", "gpt2", 0.1, 0.0)));
    desk.bytes("bad.csv", bytes);
    let parts: Vec<&str> = ["error: bad.csv: "].iter().chain(parts).copied().collect();
    for line in ["diff good.csv bad.csv", "diff bad.csv good.csv", "peers good.csv bad.csv"] {
        desk.refuses(line, 1, &parts);
    }
}

fn refused_row(row: &str, parts: &[&str]) {
    refused(format!("{HEADER}\n{row}\n").as_bytes(), parts);
}

#[test]
fn files_that_hold_no_measurements_are_refused() {
    refused(b"", &["empty", "expected the columns what,path"]);
    refused(format!("{HEADER}\n").as_bytes(), &["a header and no rows"]);
    refused(b"name,seconds\nadam,1\n", &["line 1: there is no column \"what\"", "expected the columns what,path"]);
    refused(format!("{HEADER},path\n").as_bytes(), &["line 1: there is more than one column \"path\""]);
    refused(b"\x00\xff\xfe\x00binary\n\x01\x02", &["line 1: there is no column"]);
    refused(format!("{HEADER}\n").replace("median_s", "median").as_bytes(), &["no column \"median_s\""]);
}

#[test]
fn rows_that_are_none_are_refused_with_their_line() {
    let good = step("cpu", "adam", "gpt2", 0.1, 0.0);
    for (median, told) in [("NaN", "NaN"), ("-0.1", "-0.1"), ("0", "0"), ("inf", "inf")] {
        let row = good.replace("15,0.1,", &format!("15,{median},"));
        refused_row(&row, &["line 2", &format!("median_s is {told}, expected seconds above 0")]);
    }
    refused_row(&good.replace("0.1,0,", "0.1,-1,"), &["line 2", "mad_s is -1"]);
    refused_row(&good.replace(",,", ",NaN,"), &["line 2", "share is NaN"]);
    refused_row(&good.replace("15,0.1,", "15,fast,"), &["line 2", "median_s is \"fast\"", "float"]);
    refused_row(&good.replace(",15,", ",-15,"), &["line 2", "samples is \"-15\""]);
    refused_row(&good.replace("step,", "leap,"), &["line 2", "leap", "step"]);
    refused_row(&good.replace("wall", "sundial"), &["line 2", "sundial", "wall"]);
    refused_row("step,cpu", &["line 2: there are 2 cells, expected 14"]);
    refused_row(&format!("{good}\n\n{good}"), &["line 4", "are those of line 2"]);
}

#[test]
fn text_that_is_none_is_refused_with_its_line() {
    let text = format!("{HEADER}\r\n{}\r\n", step("cpu", "?", "gpt2", 0.1, 0.0));
    let bytes: Vec<u8> = text.bytes().map(|byte| if byte == b'?' { 0xff } else { byte }).collect();
    refused(&bytes, &["line 2", "not UTF-8"]);
}

#[test]
fn what_is_no_file_is_refused() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("folder")).expect("a folder");
    desk.refuses("diff folder folder", 1, &["cannot read folder"]);
    desk.refuses("peers nowhere.csv", 1, &["cannot read nowhere.csv"]);
    let long = "x".repeat(5000);
    desk.refuses(&format!("diff {long} {long}"), 1, &["cannot read xxx"]);
    desk.refuses("diff one.csv", 2, &["B.csv"]);
}

#[cfg(unix)]
#[test]
fn a_file_without_end_is_not_read_to_its_end() {
    Desk::new().refuses("peers /dev/zero", 1, &["/dev/zero is larger than 64 MiB"]);
}

/// Names come from a file, and a terminal obeys some characters.
#[test]
fn names_are_cut_and_have_no_escapes() {
    let name = format!("\u{1b}[31m{}", "n".repeat(10_000));
    let rows = |median| [step(&name, "adam", "gpt2", median, 0.0), step("baseline-c", "adam", "gpt2", 0.1, 0.0)];
    let desk = desk(&[("a.csv", &rows(0.1)), ("b.csv", &rows(0.2))]);
    for line in ["diff a.csv b.csv", "peers a.csv"] {
        let told = desk.succeeds(line).stdout;
        assert!(!told.contains('\u{1b}') && told.contains("nnn…"), "{told}");
        assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
    }
}
