//! The page of `bench --html` as a browser shows it: measured here, opened in headless Chromium, and read back out.
//! Without Chromium these tests skip loudly; `WGPU_OPTIM_REQUIRE_CHROMIUM=1`, which `scripts/test.sh` sets, makes
//! that a failure.
#![cfg(feature = "cli")]

#[path = "page/browser.rs"]
mod browser;

use std::process::Command;
use std::sync::OnceLock;

use browser::{Scheme, look};
use serde_json::Value;

type Record = std::collections::HashMap<String, String>;

/// A page, and the CSV file of the same run.
struct Measured {
    html: String,
    rows: Vec<Record>,
}

/// A small run on the CPU, and on an adapter where there is one.
fn measured() -> &'static Measured {
    static MEASURED: OnceLock<Measured> = OnceLock::new();
    MEASURED.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let line = "bench --workload single --sizes 1k,4k,16k --samples 5 --seconds 0 --html page.html --csv rows.csv";
        let run = Command::new(env!("CARGO_BIN_EXE_wgpu-optim"))
            .current_dir(folder.path())
            .env("XDG_RUNTIME_DIR", folder.path())
            .args(line.split(' '))
            .output()
            .expect("the program starts");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let html = std::fs::read_to_string(folder.path().join("page.html")).expect("a page");
        let mut csv = csv::Reader::from_path(folder.path().join("rows.csv")).expect("a CSV file");
        Measured { html, rows: csv.deserialize().collect::<Result<_, _>>().expect("rows") }
    })
}

fn on_phone(scheme: Scheme) -> Option<Value> {
    look(&measured().html, 360, scheme)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap_or_else(|| panic!("no list {name} in {value}"))
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn the_table_holds_every_number_of_the_csv_file() {
    let Some(page) = on_phone(Scheme::Light) else { return };
    let (shown, rows) = (list(&page, "rows"), &measured().rows);
    assert_eq!(shown.len(), rows.len());
    for (shown, row) in shown.iter().zip(rows) {
        for column in ["what", "path", "device", "rule", "workload", "clock", "note"] {
            assert_eq!(shown[column]["text"], row[column].as_str(), "{column} of {row:?}");
        }
        for column in ["tensors", "elements", "bytes", "samples", "median_s", "mad_s", "share"] {
            let cell = shown[column]["value"].as_str().expect("a value");
            let [cell, known] = [cell, &row[column]].map(|text| text.parse::<f64>().ok());
            assert_eq!(cell, known, "{column} of {row:?}");
        }
        let median: f64 = row["median_s"].parse().expect("seconds");
        let told: f64 = shown["median_s"]["text"].as_str().and_then(|text| text.parse().ok()).expect("milliseconds");
        assert!((told / (1e3 * median) - 1.0).abs() < 1e-3, "{told} ms for {median} s");
    }
}

#[test]
fn nothing_reaches_over_the_edge_of_a_phone() {
    let Some(page) = on_phone(Scheme::Light) else { return };
    assert_eq!(page["width"], 360);
    assert!(float(&page["scroll_width"]) <= 360.0, "{} wide", page["scroll_width"]);
    let table = list(&page, "table");
    assert!(float(&table[0]) <= 360.0 && float(&table[1]) > float(&table[0]), "the table scrolls by itself: {table:?}");
    for chart in list(&page, "charts") {
        assert!(float(&chart["width"]) > 280.0 && float(&chart["height"]) > 200.0, "{chart}");
    }
    let wide = look(&measured().html, 1280, Scheme::Light).expect("Chromium, as before");
    assert!(float(&wide["scroll_width"]) <= 1280.0);
}

#[test]
fn text_is_large_enough_and_stands_out_in_light_and_dark() {
    for scheme in [Scheme::Light, Scheme::Dark] {
        let Some(page) = on_phone(scheme) else { return };
        assert_eq!(page["dark"], scheme == Scheme::Dark);
        let texts = list(&page, "texts");
        assert!(texts.len() > 100, "{} texts", texts.len());
        for text in texts {
            assert!(float(&text["contrast"]) >= 4.5, "{scheme:?}: {text}");
            assert!(float(&text["pixels"]) >= 11.0, "{scheme:?}: {text}");
        }
        let lines = list(&page, "charts").iter().flat_map(|chart| list(chart, "shapes"));
        for line in lines.filter(|shape| !shape["class"].as_str().is_some_and(|class| class.contains("grid"))) {
            assert!(float(&line["contrast"]) >= 3.0, "{scheme:?}: {line}");
        }
    }
}

#[test]
fn charts_have_their_marks_inside_and_lines_that_differ() {
    let Some(page) = on_phone(Scheme::Light) else { return };
    let rules = ["adam", "rmsprop"];
    for rule in rules {
        let chart = throughput(&page, rule);
        let [width, height] = [0, 1].map(|side| float(&chart["box"][side]));
        let marks: Vec<&Value> = of_class(chart, "fill cpu").collect();
        assert_eq!(marks.len(), 3, "{chart}");
        for shape in list(chart, "shapes") {
            let [x, y, w, h] = ["x", "y", "width", "height"].map(|side| float(&shape[side]));
            assert!(x >= 0.0 && y >= 0.0 && x + w <= width && y + h <= height, "{shape} of {chart}");
        }
        let [first, last] = [marks[0], marks[2]].map(|mark| float(&mark["x"]));
        assert!(last - first > width / 2.0, "the marks are {first} to {last} of {width}");
        let dashes = |class| of_class(chart, class).map(|line| line["dashes"].clone()).next().expect("a line");
        assert_ne!(dashes("stroke cpu"), dashes("stroke roof-cpu"));
    }
}

/// The chart of the GPU against the CPU is there wherever there is an adapter.
#[test]
fn an_adapter_has_its_lines() {
    let Some(page) = on_phone(Scheme::Light) else { return };
    let required = std::env::var("WGPU_OPTIM_REQUIRE_GPU").is_ok_and(|value| value == "1");
    if !required && !measured().rows.iter().any(|row| row["what"] == "step" && row["path"] == "gpu") {
        eprintln!("\n*** SKIPPED: there is no adapter, so no chart of it ***\n");
        return;
    }
    for rule in ["adam", "rmsprop"] {
        assert_eq!(of_class(throughput(&page, rule), "fill gpu").count(), 3);
        let label = format!("{rule}: time on the GPU over time on the CPU against the number of elements");
        let chart = list(&page, "charts").iter().find(|chart| chart["label"] == label.as_str()).expect("a chart");
        for (line, mark) in [("stroke resident", "fill resident"), ("stroke travelling", "fill travelling")] {
            assert!(of_class(chart, line).count() >= 1 && of_class(chart, mark).count() == 3, "{chart}");
        }
        assert_eq!(of_class(chart, "stroke level").count(), 1);
    }
}

/// What a reader does with a ruler: from the marks, by the ticks of the axes, to the numbers of the file.
#[test]
fn the_marks_stand_where_the_numbers_say() {
    let Some(page) = on_phone(Scheme::Dark) else { return };
    for rule in ["adam", "rmsprop"] {
        let chart = throughput(&page, rule);
        let [x, y] = [axis(chart, "middle", "x"), axis(chart, "end", "y")];
        let steps = measured().rows.iter().filter(|row| row["what"] == "step" && row["path"] == "cpu");
        let mut marks = of_class(chart, "fill cpu");
        for step in steps.filter(|row| row["rule"] == rule) {
            let mark = marks.next().expect("a mark for each length");
            let middle = |at, size| float(&mark[at]) + float(&mark[size]) / 2.0;
            let known = |column: &str| step[column].parse::<f64>().expect("a number");
            let (length, rate) = (x.value(middle("x", "width")), y.value(middle("y", "height")));
            assert!((length / known("elements") - 1.0).abs() < 0.02, "{length} elements for {step:?}");
            let gigabytes = known("bytes") / known("median_s") / 1e9;
            assert!((rate / gigabytes - 1.0).abs() < 0.02, "{rate} GB/s where it is {gigabytes}");
        }
    }
}

fn throughput<'a>(page: &'a Value, rule: &str) -> &'a Value {
    let label = format!("{rule}: gigabytes per second against the number of elements");
    let of_rule = |chart: &&Value| chart["label"] == label.as_str();
    list(page, "charts").iter().find(of_rule).unwrap_or_else(|| panic!("no chart {label:?}"))
}

fn of_class<'a>(chart: &'a Value, class: &str) -> impl Iterator<Item = &'a Value> {
    list(chart, "shapes").iter().filter(move |shape| shape["class"] == class)
}

/// A logarithmic axis, by two of its ticks.
struct Axis([(f64, f64); 2]);

impl Axis {
    fn value(&self, at: f64) -> f64 {
        let [(from, low), (to, high)] = self.0;
        low * (high / low).powf((at - from) / (to - from))
    }
}

/// The first and the last of the ticks whose labels are anchored so, which tells the axes apart.
fn axis(chart: &Value, anchor: &str, side: &str) -> Axis {
    let labels = list(chart, "texts").iter().filter(|text| text["anchor"] == anchor);
    let ticks: Vec<_> = labels.filter_map(|text| Some((float(&text[side]), number(text["text"].as_str()?)?))).collect();
    match ticks.as_slice() {
        [first, .., last] => Axis([*first, *last]),
        _ => panic!("{} ticks at {anchor}: {chart}", ticks.len()),
    }
}

/// `0.5`, `20`, `10k`.
fn number(text: &str) -> Option<f64> {
    let units = [("k", 1e3), ("M", 1e6), ("G", 1e9)];
    let split = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
    let (digits, unit) = split.unwrap_or((text, 1.0));
    Some(digits.parse::<f64>().ok()? * unit)
}

/// The checks above would be worth nothing if they could not fail.
#[test]
fn the_browser_notices_what_is_wrong() {
    let ink = "--ink: #1c1d20";
    assert!(measured().html.contains(ink));
    let wrong = measured().html.replace(ink, "--ink: #8c8d90").replace("<h1>", "<p style=\"width:400px\">wide</p><h1>");
    let Some(page) = look(&wrong, 360, Scheme::Light) else { return };
    assert!(float(&page["scroll_width"]) >= 400.0);
    let worst = list(&page, "texts").iter().map(|text| float(&text["contrast"])).fold(f64::MAX, f64::min);
    assert!((1.0..4.5).contains(&worst), "{worst}");
}
