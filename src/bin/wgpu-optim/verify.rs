//! `verify`: does this adapter compute the steps?

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use wgpu_optim::envelope::{SHARE, ULPS, Worst};
use wgpu_optim::verify::{self, Row};

use crate::adapter::{self, Opened};
use crate::report::{print, print_json};

/// Check every rule and case on an adapter; exits with 1 where the envelope is broken
///
/// Each step is compared with one step of the f64 oracle and of the f32 twin on the CPU, from the same bits. An
/// element may be off by a share of the tensor's largest update, plus some units in the last place of the parameter,
/// plus what the oracle itself moves by when the gradient is off by some roundings. The column "limit" is the largest
/// error over that sum. State is compared too, and nothing beside a tensor may be written.
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
    let rows = rows(&opened)?;
    let passed = rows.iter().all(Row::passed);
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
        let envelope = json!({"share_of_update": SHARE, "ulps": ULPS});
        print_json(&json!({"adapter": about, "passed": passed, "envelope": envelope, "cases": rows}))?;
    } else {
        let seconds = started.elapsed().as_secs_f64();
        let driver = format!("{} {}", info.driver, info.driver_info);
        print(&format!("{}\ndriver: {}\n\n", adapter::describe(&info), driver.trim()))?;
        print(&table(&rows))?;
        print(&verdict(&rows, seconds))?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs every case, with a bar on a terminal.
fn rows(opened: &Opened) -> Result<Vec<Row>> {
    let bar = ProgressBar::new(verify::cases() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    let each = |row: &Row| {
        bar.inc(1);
        bar.set_message(format!("{} {}", row.rule, row.case));
    };
    let rows = verify::run(&opened.device, &opened.queue, each);
    bar.finish_and_clear();
    opened.check()?;
    Ok(rows?)
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

fn verdict(rows: &[Row], seconds: f64) -> String {
    let elements: u64 = rows.iter().map(|row| row.elements).sum();
    let broken = rows.iter().filter(|row| !row.passed()).count();
    let what = format!("{} cases, {elements} element steps in {seconds:.1} s", rows.len());
    let limit = format!("{SHARE:e} of the largest update + {ULPS} ULP + what cancels");
    match broken {
        0 => format!("\n{what}\nall within {limit}\n"),
        _ => format!("\n{what}\n{broken} not within {limit}\n"),
    }
}
