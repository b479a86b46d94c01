//! The tables of the page: bars beside numbers, and every row as it is in the CSV file.

use maud::{Markup, html};

use super::series::{self, Of};
use crate::bench::record::{Clock, Record, Row};

/// Above this share the plain kernel was no yardstick: a step cannot move its bytes faster than a copy of as many.
const TOO_FAST: f64 = 1.05;
/// Where the scale of the shares ends, for shares that it can hold.
const SCALE: f64 = 1.1;

/// Milliseconds of a step on each workload that has a name of its own.
pub fn milliseconds(of: &Of<'_>) -> Markup {
    let workloads = of.steps_by_workload(|row| !series::is_single(row), Clock::Wall);
    let slowest = |rows: &[&Row]| rows.iter().map(|row| row.median_s).fold(f64::MIN_POSITIVE, f64::max);
    let body = html! {
        @for (name, rows) in &workloads {
            (heading(name, rows))
            @for row in rows {
                (bar_line(of, row, &digits(row.median_s * 1e3), false, bar(row, row.median_s / slowest(rows), html! {})))
            }
        }
    };
    let caption = "By the wall where it was used. The bars compare the paths of a workload.";
    panel("Milliseconds a step", "ms", workloads.is_empty(), &body, caption)
}

/// How near each step comes to a copy.
pub fn shares(of: &Of<'_>) -> Markup {
    let workloads = of.steps_by_workload(|row| row.share.is_some(), Clock::Timestamp);
    let largest = workloads.iter().flat_map(|(_, rows)| rows).filter_map(|row| row.share).fold(SCALE, f64::max);
    let body = html! {
        @for (name, rows) in &workloads {
            (heading(name, rows))
            @for (row, share) in rows.iter().filter_map(|row| Some((row, row.share?))) {
                (bar_line(of, row, &format!("{share:.3}"), share > TOO_FAST, bar(row, share / largest, marks(largest))))
            }
        }
    };
    let caption = "Bytes per second over those of the fastest plain kernel of the same device. Marks: 0.85 and 1. \
                   Above 1.05 the yardstick is wrong, not the step fast.";
    panel("Share of the copy", "share", workloads.is_empty(), &body, caption)
}

fn panel(title: &str, unit: &str, empty: bool, body: &Markup, caption: &str) -> Markup {
    html! {
        @if !empty {
            div.panel {
                h3 { (title) }
                p.soft { (caption) }
                table.bars {
                    thead { tr { th { "path" } th.number { (unit) } th.bar {} } }
                    tbody { (body) }
                }
            }
        }
    }
}

fn heading(workload: &str, rows: &[&Row]) -> Markup {
    let elements = rows.first().map_or(0, |row| row.elements);
    html! { tr { th colspan="3" { (workload) " " span.soft { (whole(elements as f64)) " elements" } } } }
}

fn bar_line(of: &Of<'_>, row: &Row, number: &str, flagged: bool, bar: Markup) -> Markup {
    html! {
        tr {
            td { (of.named(&row.path)) }
            td.number { (number) @if flagged { " " strong.warn { "yardstick wrong" } } }
            td.bar { (bar) }
        }
    }
}

/// A bar of this share of the width, under what else is drawn there.
fn bar(row: &Row, share: f64, over: Markup) -> Markup {
    let class = format!("fill {}", series::look(&row.path).class);
    let width = format!("{:.2}", 100.0 * share.clamp(0.0, 1.0));
    html! {
        svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" {
            rect class=(class) width=(width) height="10" {}
            (over)
        }
    }
}

fn marks(largest: f64) -> Markup {
    let place = |share: f64| format!("{:.2}", 100.0 * share / largest);
    html! {
        @for (class, share) in [("halo", 0.85), ("mark low", 0.85), ("halo", 1.0), ("mark", 1.0)] {
            @let x = place(share);
            line class=(class) x1=(x) x2=(x) y1="-2" y2="12" {}
        }
    }
}

/// Every row. Each cell of a number carries it as the CSV file has it.
pub fn every_row(record: &Record) -> Markup {
    let heads = ["tensors", "elements", "bytes", "samples", "median, ms", "MAD, ms", "GB/s", "share", "of f32"];
    html! {
        section {
            h2 { "Every row" }
            p.soft {
                "MAD is the median distance of a sample from the median. A share is of the bytes per second of the \
                 fastest plain kernel of the same device that moves as many. Of f32: the time of a step in another \
                 format, path-FORMAT, over that in f32."
            }
            div.scroll tabindex="0" role="region" aria-label="Every row" {
                table.rows {
                    thead {
                        tr {
                            @for head in ["what", "path", "rule", "workload", "clock"] { th { (head) } }
                            @for head in heads { th.number { (head) } }
                            @for head in ["device", "note"] { th { (head) } }
                        }
                    }
                    tbody { @for row in &record.rows { (line(row)) } }
                }
            }
        }
    }
}

fn line(row: &Row) -> Markup {
    let counts = [("tensors", row.tensors), ("elements", row.elements), ("bytes", row.bytes), ("samples", row.samples)];
    let seconds = [("median_s", row.median_s), ("mad_s", row.mad_s)];
    html! {
        tr {
            td data-column="what" { (row.what) }
            td data-column="path" { (row.path) }
            td data-column="rule" { (row.rule) }
            td data-column="workload" { (row.workload) }
            td data-column="clock" { (row.clock) }
            @for (name, value) in counts { td.number data-column=(name) data-value=(value) { (value) } }
            @for (name, value) in seconds { td.number data-column=(name) data-value=(value) { (digits(value * 1e3)) } }
            td.number { (digits(series::gigabytes(row))) }
            @if let Some(share) = row.share {
                td.number data-column="share" data-value=(share) { (format!("{share:.3}")) }
            } @else {
                td.number data-column="share" data-value="" { "–" }
            }
            td.number { (row.of_f32.map_or("–".into(), |of| format!("{of:.3}"))) }
            td data-column="device" { (row.device) }
            td data-column="note" { (row.note) }
        }
    }
}

/// Four significant digits.
fn digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let decimals = 3 - value.abs().log10().floor() as i32;
    format!("{value:.*}", decimals.clamp(0, 9) as usize)
}

/// A whole number with its thousands apart.
pub fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}
