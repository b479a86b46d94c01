//! What `diff` says: a table, or JSON.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::{Diff, Pair, Verdict};
use crate::bench::read::shortened;
use crate::bench::record::Row;
use crate::report::{complain, count};

/// Rows of one file alone that are named one by one; more are counted.
const NAMED: usize = 20;

pub fn text(diff: &Diff<'_>, files: [&Path; 2]) -> String {
    let mut text = String::new();
    for (verdict, title) in [(Verdict::Slower, "slower"), (Verdict::Faster, "faster")] {
        let mut pairs: Vec<_> = diff.pairs.iter().filter(|pair| pair.verdict == verdict).collect();
        pairs.sort_by(|x, y| y.ratio().ln().abs().total_cmp(&x.ratio().ln().abs()));
        if !pairs.is_empty() {
            table(&mut text, title, &pairs);
        }
    }
    text += &summary(diff);
    for (rows, file) in diff.only.iter().zip(files) {
        only(&mut text, rows, file);
    }
    text
}

/// Pairs under their devices, the largest change first.
fn table(text: &mut String, title: &str, pairs: &[&Pair<'_>]) {
    let mut devices: Vec<&str> = Vec::new();
    for pair in pairs {
        if !devices.contains(&pair.a.device.as_str()) {
            devices.push(&pair.a.device);
        }
    }
    let widest = pairs.iter().map(|pair| name(pair.a).chars().count()).max().unwrap_or(0);
    for device in devices {
        let _ = writeln!(text, "{title} on {}", shortened(device, 60));
        let _ = writeln!(text, "  {:widest$}  {:>9}  {:>9}  {:>7}  {:>6}", "", "A, ms", "B, ms", "time", "noise");
        for pair in pairs.iter().filter(|pair| pair.a.device == device) {
            let [a, b] = [pair.a, pair.b].map(|row| milliseconds(row.median_s));
            let change = percent(pair.ratio() - 1.0, true);
            let noise = percent(pair.noise().exp_m1(), false);
            let _ = writeln!(text, "  {:widest$}  {a:>9}  {b:>9}  {change:>7}  {noise:>6}", name(pair.a));
        }
        text.push('\n');
    }
}

/// `step gpu adam gpt2 wall`.
fn name(row: &Row) -> String {
    let [path, rule, workload] = [&row.path, &row.rule, &row.workload].map(|text| shortened(text, 24));
    format!("{} {path} {rule} {workload} {}", row.what, row.clock)
}

/// Four digits, whatever the size.
fn milliseconds(seconds: f64) -> String {
    let ms = seconds * 1e3;
    let decimals = 3 - ms.log10().floor() as i32;
    if (0..=6).contains(&decimals) { format!("{ms:.*}", decimals as usize) } else { format!("{ms:.2e}") }
}

/// `+12.3%`, or times where percent would be too many.
fn percent(change: f64, signed: bool) -> String {
    match (change < 9.995, signed) {
        (true, true) => format!("{:+.1}%", change * 100.0),
        (true, false) => format!("{:.1}%", change * 100.0),
        (false, _) if change < 1e4 => format!("x{:.0}", change + 1.0),
        (false, _) => format!("x{:.0e}", change + 1.0),
    }
}

fn summary(diff: &Diff<'_>) -> String {
    let [slower, faster, unchanged] =
        [Verdict::Slower, Verdict::Faster, Verdict::Unchanged].map(|verdict| diff.count(verdict));
    let mut text = format!("{slower} slower, {faster} faster, {unchanged} unchanged");
    match diff.count(Verdict::NotJudged) {
        0 => {}
        few => text += &format!(", {few} not judged for too few samples"),
    }
    text + "\n"
}

/// Rows of one file alone, under their devices.
fn only(text: &mut String, rows: &[&Row], file: &Path) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(text, "only in {}: {}", file.display(), count(rows.len() as u64, "row"));
    let mut device = None;
    for row in rows.iter().take(NAMED) {
        if device != Some(&row.device) {
            device = Some(&row.device);
            let _ = writeln!(text, "  on {}", shortened(&row.device, 60));
        }
        let _ = writeln!(text, "    {}", name(row));
    }
    if rows.len() > NAMED {
        let _ = writeln!(text, "  and {} more, which --json lists", rows.len() - NAMED);
    }
}

/// Where no device is in both files, nothing can match, and that is said.
pub fn notes(diff: &Diff<'_>, files: [&Path; 2], rows: [&[Row]; 2]) {
    let [a, b] = rows.map(|rows| rows.iter().map(|row| row.device.as_str()).collect::<BTreeSet<_>>());
    if diff.pairs.is_empty() && a.is_disjoint(&b) {
        let devices = |of: BTreeSet<&str>| {
            let some: Vec<String> = of.iter().take(4).map(|device| shortened(device, 60)).collect();
            some.join("; ")
        };
        let (first, second) = (files[0].display(), files[1].display());
        complain(&format!("note: no device is in both files: {first} has {}, {second} has {}", devices(a), devices(b)));
    } else if diff.pairs.is_empty() {
        complain("note: no row is in both files");
    }
}

pub fn json(diff: &Diff<'_>) -> Value {
    let with = |verdict| diff.pairs.iter().filter(|pair| pair.verdict == verdict).map(pair_json).collect::<Vec<_>>();
    let only = |rows: &[&Row]| rows.iter().map(|row| key_json(row)).collect::<Vec<_>>();
    json!({
        "slower": with(Verdict::Slower),
        "faster": with(Verdict::Faster),
        "unchanged": with(Verdict::Unchanged),
        "not_judged": with(Verdict::NotJudged),
        "only_in_a": only(&diff.only[0]),
        "only_in_b": only(&diff.only[1]),
    })
}

fn key_json(row: &Row) -> Value {
    let Row { what, path, device, rule, workload, clock, .. } = row;
    json!({"what": what, "path": path, "device": device, "rule": rule, "workload": workload, "clock": clock})
}

fn pair_json(pair: &Pair<'_>) -> Value {
    let mut value = key_json(pair.a);
    value["a_median_s"] = json!(pair.a.median_s);
    value["b_median_s"] = json!(pair.b.median_s);
    value["ratio"] = json!(pair.ratio());
    value["noise_ratio"] = json!(pair.noise().exp());
    value
}
