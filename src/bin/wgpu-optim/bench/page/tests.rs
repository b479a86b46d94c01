//! Pages of records made by hand; tests/page.rs looks at a measured one in a browser.

use super::page;
use crate::bench::machine::{Adapter, Machine};
use crate::bench::record::{Clock, Crossover, Record, Row, What};

const CPU: &str = "Example CPU, 16 threads";
const GPU: &str = "Example GPU";

fn row(what: What, path: &str, workload: &str, elements: u64, clock: Clock, median_s: f64) -> Row {
    let on_gpu = clock == Clock::Timestamp || path == "gpu" || path.starts_with("copy-");
    Row {
        what,
        path: path.into(),
        device: if on_gpu { GPU } else { CPU }.into(),
        rule: "adam".into(),
        workload: workload.into(),
        tensors: 1,
        elements,
        bytes: 28 * elements,
        clock,
        samples: 15,
        median_s,
        mad_s: median_s / 100.0,
        share: None,
        of_f32: None,
        note: String::new(),
    }
}

/// A step on the GPU and on the CPU, the copies beside them, and the way there and back.
fn rows(workload: &str, elements: u64) -> Vec<Row> {
    let (n, gpu, cpu) = (elements as f64, ["gpu", "copy-words", "copy-quads"], ["cpu", "stream"]);
    let what = |path: &str| if path == "gpu" || path == "cpu" { What::Step } else { What::Copy };
    let mut rows = Vec::new();
    for (path, slower) in gpu.into_iter().zip([1.1, 1.4, 1.0]) {
        for (clock, least) in [(Clock::Wall, 4e-5), (Clock::Timestamp, 3e-6)] {
            rows.push(row(what(path), path, workload, elements, clock, least + slower * 28.0 * n / 2e12));
        }
    }
    for (path, slower) in cpu.into_iter().zip([1.2, 1.0]) {
        rows.push(row(what(path), path, workload, elements, Clock::Wall, 2e-6 + slower * 28.0 * n / 5e10));
    }
    rows.push(row(What::Step, "twin", workload, elements, Clock::Wall, 1e-7 + 28.0 * n / 6e9));
    for (what, speed) in [(What::Upload, 2e10), (What::Readback, 1e10)] {
        rows.push(row(what, "gpu", workload, elements, Clock::Wall, 1e-5 + 4.0 * n / speed));
    }
    for row in rows.iter_mut().filter(|row| row.what == What::Step) {
        row.share = Some(if row.path == "gpu" { 0.91 } else { 1.0 / 1.2 });
    }
    rows
}

pub fn record(software: bool) -> Record {
    let adapter = Adapter {
        name: GPU.into(),
        backend: "vulkan",
        kind: if software { "software adapter, not a GPU" } else { "discrete GPU" },
        software,
        driver: "Example 1.2".into(),
    };
    let lengths = (10..=26).step_by(2).map(|power| 1u64 << power);
    let mut found: Vec<Row> = lengths.flat_map(|n| rows(&format!("single-{n}"), n)).collect();
    for (name, elements) in [("gpt2", 124_439_808), ("resnet50", 25_557_032), ("many-buffers", 15_000_000)] {
        found.extend(rows(name, elements));
    }
    let crossover = |travelling, elements| Crossover { rule: "adam".into(), travelling, elements, at_once: false };
    Record {
        machine: Machine {
            cpu: "Example CPU".into(),
            threads: 16,
            memory: 64 << 30,
            cache: Some(32 << 20),
            system: "Example Linux 6.1, x86_64".into(),
            version: "0.30.0",
            adapter: Some(adapter),
        },
        command: "wgpu-optim bench --rule adam --workload all --html page.html".into(),
        rows: found,
        crossovers: vec![crossover(false, Some(63_000.0)), crossover(true, Some(1_100_000.0))],
    }
}

fn charts(record: &Record) -> usize {
    page(record).expect("a page").matches("<svg class=\"chart\"").count()
}

/// Writes the page where a person can look at it, if asked to.
#[test]
fn a_full_record_has_both_charts() {
    let record = record(false);
    assert_eq!(charts(&record), 2);
    if let Ok(file) = std::env::var("WGPU_OPTIM_PAGE") {
        std::fs::write(file, page(&record).expect("a page")).expect("a file that can be written");
    }
}

#[test]
fn a_page_asks_the_network_for_nothing_and_holds_no_script() {
    let page = page(&record(false)).expect("a page");
    for word in ["<script", "<link", "<img", "src=", "url(", "@import", "href="] {
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn a_software_adapter_is_told_apart() {
    let told = page(&record(true)).expect("a page");
    assert!(told.contains("software adapter, not a GPU") && told.contains("gpu (software)"), "{told}");
    assert!(!page(&record(false)).expect("a page").contains("software adapter"));
}

#[test]
fn a_wrong_yardstick_is_flagged() {
    let mut record = record(false);
    assert!(!page(&record).expect("a page").contains("yardstick wrong"));
    record.rows[0].share = Some(1.2);
    record.rows[1].share = Some(1.2);
    assert!(page(&record).expect("a page").contains("yardstick wrong"));
}

#[test]
fn little_to_show_is_shown() {
    let whole = record(false);
    let with = |wanted: &dyn Fn(&Row) -> bool| {
        let rows = whole.rows.iter().filter(|row| wanted(row)).cloned().collect();
        charts(&Record { rows, crossovers: Vec::new(), ..whole.clone() })
    };
    assert_eq!(with(&|_| false), 0);
    assert_eq!(with(&|row| row.device == CPU), 1);
    assert_eq!(with(&|row| row.what != What::Copy), 2);
    assert_eq!(with(&|row| row.what == What::Copy), 0);
    assert_eq!(with(&|row| row.elements == 1 << 20), 2);
    assert_eq!(with(&|row| row.workload == "gpt2"), 0);
    assert_eq!(with(&|row| row.clock == Clock::Timestamp), 1);
}

#[test]
fn numbers_that_are_none_do_not_stop_a_page() {
    for wrong in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
        let mut record = record(false);
        for row in record.rows.iter_mut().step_by(3) {
            (row.median_s, row.share) = (wrong, Some(wrong));
        }
        record.crossovers[0].elements = Some(wrong);
        page(&record).expect("a page");
    }
}

#[test]
fn names_are_text_and_nothing_else() {
    let mut record = record(false);
    record.command = "<script>alert(1)</script>".into();
    record.rows.iter_mut().for_each(|row| row.rule = "\"><script>".into());
    assert!(!page(&record).expect("a page").contains("<script"));
}
