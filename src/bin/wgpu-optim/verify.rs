//! `verify`: does this adapter compute the steps?

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use wgpu_optim::envelope::{SHARE, ULPS, Worst};
use wgpu_optim::verify::formats::{self, Off};
use wgpu_optim::verify::{self, Row};

use crate::adapter::{self, Opened};
use crate::report::{print, print_json};

/// Check every rule, case and format on an adapter; exits with 1 where the envelope is broken
///
/// Each step is compared with one step of the f64 oracle and of the f32 twin on the CPU, from the same bits. An
/// element may be off by a share of the tensor's largest update, plus some units in the last place of the parameter,
/// plus what the oracle itself moves by when the gradient is off by some roundings. The column "limit" is the largest
/// error over that sum. State is compared too, and nothing beside a tensor may be written.
///
/// Then every rule steps in every format. A code of 16 or 8 bits must be the twin's, or seldom an adjacent one; those
/// further off are wrong. What is f32 there, 8-bit scales and what Kahan's compensation keeps are held to the envelope.
#[derive(clap::Args)]
pub struct Args {
    /// An adapter with these letters in its name; by default the best there is
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    adapter: Option<String>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let adapter = adapter::pick(args.adapter.as_deref())?;
    let started = Instant::now();
    let opened = adapter::open(&adapter)?;
    let (rows, formats) = rows(&opened)?;
    let passed = rows.iter().all(Row::passed) && formats.iter().all(formats::Row::passed);
    let info = adapter.get_info();
    if args.json {
        let about = json!({
            "name": info.name,
            "backend": info.backend.to_str(),
            "driver": info.driver,
            "driver_info": info.driver_info,
            "software": adapter::is_software(&info),
        });
        let rows: Vec<Value> = rows.iter().map(row_json).collect();
        let formats: Vec<Value> = formats.iter().map(format_json).collect();
        let envelope = json!({"share_of_update": SHARE, "ulps": ULPS, "adjacent_share": formats::SHARE});
        let all = json!({"adapter": about, "passed": passed, "envelope": envelope, "cases": rows, "formats": formats});
        print_json(&all)?;
    } else {
        let seconds = started.elapsed().as_secs_f64();
        let driver = format!("{} {}", info.driver, info.driver_info);
        print(&format!("{}\ndriver: {}\n\n", adapter::describe(&info), driver.trim()))?;
        print(&table(&rows))?;
        print(&format_table(&formats))?;
        print(&verdict(&rows, &formats, seconds))?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs every case, with a bar on a terminal.
fn rows(opened: &Opened) -> Result<(Vec<Row>, Vec<formats::Row>)> {
    let bar = ProgressBar::new((verify::cases() + formats::cases()) as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    let each = |what: String| {
        bar.inc(1);
        bar.set_message(what);
    };
    let Opened { device, queue, .. } = opened;
    let rows = verify::run(device, queue, |row| each(format!("{} {}", row.rule, row.case)));
    let formats = formats::run(device, queue, |row| each(format!("{} {}", row.rule, row.formats)));
    bar.finish_and_clear();
    opened.check()?;
    Ok((rows?, formats?))
}

fn row_json(row: &Row) -> Value {
    let worst = |worst: &Worst| json!({"share_of_update": worst.share, "ulps": worst.ulps, "share_of_envelope": worst.envelope});
    json!({
        "rule": row.rule,
        "case": row.case,
        "passed": row.passed(),
        "elements": row.elements,
        "against_oracle": worst(&row.oracle),
        "against_twin": worst(&row.twin),
        "damage": row.damage,
    })
}

fn format_json(row: &formats::Row) -> Value {
    let Off { codes, adjacent, wrong, envelope } = row.off;
    json!({
        "rule": row.rule,
        "case": row.case,
        "formats": row.formats,
        "passed": row.passed(),
        "elements": row.elements,
        "codes": codes,
        "adjacent": adjacent,
        "wrong": wrong,
        "share_of_envelope": envelope,
        "damage": row.damage,
    })
}

/// The errors of each case: as a share of the largest update, in ULP, and as a share of what is allowed.
fn table(rows: &[Row]) -> String {
    let name = |row: &Row| format!("{} {}", row.rule, row.case);
    let widest = rows.iter().map(|row| name(row).len()).max().unwrap_or(0);
    let mut text = format!("{:widest$}  {:^19}  {:^19}\n", "", "from the oracle", "from the twin");
    let columns = format!("  {:>7} {:>5} {:>5}", "update", "ULP", "limit");
    let _ = writeln!(text, "{:widest$}{columns}{columns}", "case");
    for row in rows {
        let _ = write!(text, "{:widest$}", name(row));
        for Worst { share, ulps, envelope } in [row.oracle, row.twin] {
            let _ = write!(text, "  {share:>7.1e} {ulps:>5.1} {:>4.0}%", envelope * 100.0);
        }
        let _ = writeln!(text, "{}", if row.passed() { "" } else { "  BROKEN" });
        if let Some(damage) = &row.damage {
            let _ = writeln!(text, "{:widest$}  {damage}", "");
        }
    }
    text
}

/// The codes of each format that are others than the twin's, and the errors of what is `f32`.
fn format_table(rows: &[formats::Row]) -> String {
    let name = |row: &formats::Row| format!("{} {}", row.rule, row.formats);
    let widest = rows.iter().map(|row| name(row).len()).max().unwrap_or(0);
    let mut text = format!("\n{:widest$}  {:>5} {:>8} {:>8} {:>6}\n", "formats", "limit", "codes", "adjacent", "wrong");
    for row in rows {
        let Off { codes, adjacent, wrong, envelope } = row.off;
        let limit = envelope * 100.0;
        let _ = write!(text, "{:widest$}  {limit:>4.0}% {codes:>8} {adjacent:>8} {wrong:>6}", name(row));
        let broken = format!("  BROKEN: {}", row.case);
        let _ = writeln!(text, "{}", if row.passed() { "" } else { &broken });
        if let Some(damage) = &row.damage {
            let _ = writeln!(text, "{:widest$}  {damage}", "");
        }
    }
    text
}

fn verdict(rows: &[Row], formats: &[formats::Row], seconds: f64) -> String {
    let of_cases = rows.iter().map(|row| (row.elements, row.passed()));
    let all: Vec<_> = of_cases.chain(formats.iter().map(|row| (row.elements, row.passed()))).collect();
    let elements: u64 = all.iter().map(|(elements, _)| elements).sum();
    let broken = all.iter().filter(|(_, passed)| !passed).count();
    let counts = format!("{} cases, {} in formats", rows.len(), formats.len());
    let what = format!("{counts}, {elements} element steps in {seconds:.1} s");
    let limit = format!("{SHARE:e} of the largest update + {ULPS} ULP + what cancels");
    match broken {
        0 => format!("\n{what}\nall within {limit}\n"),
        _ => format!("\n{what}\n{broken} not within {limit}\n"),
    }
}
