//! A record as a table, for a terminal.

use std::fmt::Write;

use super::group::DRIVER;
use super::record::{Crossover, Row, What};
use crate::report::count;

/// Above this a step is faster than what it is measured against: the yardstick is wrong.
pub const SUSPECT: f64 = 1.05;

/// All rows, by rule, workload and device.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut last: Option<&Row> = None;
    for row in rows {
        let same = last.is_some_and(|last| (&last.rule, &last.workload) == (&row.rule, &row.workload));
        if !same {
            text.push_str(if last.is_some() { "\n" } else { "" });
            text.push_str(&heading(row, rows));
        }
        if !same || last.is_some_and(|last| last.device != row.device) {
            let _ = writeln!(text, "  {}", row.device);
        }
        text.push_str(&line(row));
        last = Some(row);
    }
    text
}

fn heading(row: &Row, rows: &[Row]) -> String {
    let step = rows
        .iter()
        .find(|other| other.what == What::Step && (&other.rule, &other.workload) == (&row.rule, &row.workload));
    let bytes = step.map_or(row.bytes, |step| step.bytes);
    let Row { rule, workload, elements, tensors, .. } = row;
    let what = format!("{elements} elements in {}, {:.3} MB a step", count(*tensors, "tensor"), bytes as f64 / 1e6);
    let columns = format!(
        "{:<24}{:>9}  {:>10} {:>5} {:>8} {:>6} {:>6} {:>6}",
        "", "clock", "ms", "±", "GB/s", "share", "B/el", "of f32"
    );
    format!("{rule} {workload}: {what}\n{columns}\n")
}

fn line(row: &Row) -> String {
    let name = match row.what {
        What::Step => format!("step, {}", row.path),
        What::Copy => row.path.clone(),
        What::Upload => "gradients up".into(),
        What::Readback => "parameters down".into(),
    };
    let (ms, spread) = (row.median_s * 1e3, row.mad_s / row.median_s * 100.0);
    let share = row.share.filter(|_| row.path != DRIVER).map_or("-".into(), |share| format!("{share:.2}"));
    let flag = if row.share.is_some_and(|share| share > SUSPECT) && row.what == What::Step { " !" } else { "" };
    let speed = row.bytes_per_second() / 1e9;
    let clock = row.clock;
    let each = match row.what {
        What::Step => format!("{:.2}", row.bytes as f64 / row.elements as f64),
        _ => "-".into(),
    };
    let of_f32 = row.of_f32.map_or("-".into(), |of| format!("{of:.2}"));
    format!("    {name:<20}{clock:>9}  {ms:>10.4} {spread:>4.0}% {speed:>8.2} {share:>6} {each:>6} {of_f32:>6}{flag}\n")
}

/// What a reader should know besides: where the GPU wins, what the figures are worth.
pub fn remarks(rows: &[Row], crossovers: &[Crossover]) -> String {
    let mut text = String::new();
    for crossover in crossovers {
        let _ = writeln!(text, "{}", sentence(crossover));
    }
    if rows.iter().any(|row| row.what == What::Step && row.share.is_some_and(|share| share > SUSPECT)) {
        let _ = writeln!(text, "! faster than the plain kernels: the yardstick is wrong there, as in a cache");
    }
    let _ = writeln!(
        text,
        "share: bytes per second over those of the fastest plain kernel of the device; ±: median deviation"
    );
    if rows.iter().any(|row| row.of_f32.is_some()) {
        let _ = writeln!(text, "of f32: a step's time over that of the same step in f32, turn by turn");
    }
    text
}

/// The crossover in words.
pub fn sentence(crossover: &Crossover) -> String {
    let Crossover { rule, travelling, elements, at_once } = crossover;
    let how = if *travelling { "where gradients and parameters travel" } else { "where buffers live on the device" };
    match elements {
        None => format!("{rule}: {how}, the CPU is faster at every length measured"),
        Some(n) if *at_once => {
            format!("{rule}: {how}, the device is faster from {n:.0} elements on, the fewest measured")
        }
        Some(n) => format!("{rule}: {how}, the device is faster from about {} elements on", round(*n)),
    }
}

/// To two digits.
fn round(x: f64) -> String {
    let unit = 10f64.powf(x.log10().floor() - 1.0);
    format!("{:.0}", (x / unit).round() * unit)
}
