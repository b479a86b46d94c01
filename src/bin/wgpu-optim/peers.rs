//! `peers`: sets of paths side by side, each as a share of one of them.

mod sheet;

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::bench::read::{read, shortened};
use crate::bench::record::Row;
use crate::report::{nearest, print, print_json};
use sheet::{Column, Sheet};

/// The path whose share benches/peers/run.py writes: each sample over the sample of it that was taken in turn.
const BASELINE: &str = "baseline-c";
/// Characters of a line, which leave room on a terminal of 80 and fit on a narrow one.
const WIDTH: usize = 70;
/// Characters of a name; a longer one is cut.
const NAME: usize = 32;

/// Set peers side by side, from files of benches/peers/run.py or of `bench --csv`
///
/// A row for each path, a column for each rule and workload. A cell is a speed as a share of that of the path
/// --against, above 1 where it is faster. Only times of one file and of one clock, the wall's where there is one, are
/// held against each other, since machines and their moods differ: the cell is the median time of the reference over
/// that of the path. Against baseline-c, the column "share" of the file is taken instead where the file has that
/// baseline too: it is the median over samples that were taken in turn, and a drift of the machine cancels in it.
#[derive(clap::Args)]
pub struct Args {
    /// Files of measurements
    #[arg(value_name = "FILE.csv", required = true)]
    files: Vec<PathBuf>,
    /// The path that the others are a share of
    #[arg(long, value_name = "PATH", default_value = BASELINE)]
    against: String,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let mut files = Vec::new();
    for path in &args.files {
        files.push((path.display().to_string(), read(path)?));
    }
    let sheet = Sheet::of(&files, &args.against);
    if sheet.columns.iter().all(|column| column.references.is_empty()) {
        bail!("{}", no_reference(&files, &args.against));
    }
    if args.json {
        print_json(&as_json(&sheet, &args.against))?;
    } else {
        print(&text(&sheet, &args.against))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn no_reference(files: &[(String, Vec<Row>)], against: &str) -> String {
    let steps = files.iter().flat_map(|(_, rows)| rows.iter().filter(|row| sheet::is_step(row)));
    let mut paths: Vec<&str> = steps.map(|row| row.path.as_str()).collect();
    paths.sort_unstable();
    paths.dedup();
    let there: Vec<String> = paths.iter().take(20).map(|path| shortened(path, NAME)).collect();
    match nearest(against, paths.iter().copied()) {
        None => "no row is a step".into(),
        Some(near) => format!(
            "no step is of the path {against:?}, which --against names; the nearest is {:?} of {}",
            shortened(near, NAME),
            there.join(", ")
        ),
    }
}

/// Groups of columns, as many as fit in a line.
fn text(sheet: &Sheet<'_>, against: &str) -> String {
    let names: Vec<String> = sheet.paths.iter().map(|path| shortened(path, NAME)).collect();
    let first = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut text = format!("speed as a share of that of {}, above 1 where faster\n", shortened(against, NAME));
    let mut rest: Vec<usize> = (0..sheet.columns.len()).collect();
    while !rest.is_empty() {
        let mut used = first;
        let fits = |at: &&usize| {
            used += 2 + width(&sheet.columns[**at]);
            used <= WIDTH
        };
        let fitting = rest.iter().take_while(fits).count().max(1);
        let group: Vec<usize> = rest.drain(..fitting).collect();
        text.push('\n');
        block(&mut text, sheet, &names, first, &group);
    }
    text + &references(sheet, against)
}

fn heads(column: &Column<'_>) -> [String; 2] {
    [column.rule, column.workload].map(|name| shortened(name, NAME))
}

fn width(column: &Column<'_>) -> usize {
    heads(column).iter().map(|head| head.chars().count()).max().unwrap_or(0).max(6)
}

/// The rows of some columns, without those rows that have nothing there.
fn block(text: &mut String, sheet: &Sheet<'_>, names: &[String], first: usize, group: &[usize]) {
    for head in 0..2 {
        let mut line = format!("{:first$}", if head == 1 { "path" } else { "" });
        for column in group.iter().map(|at| &sheet.columns[*at]) {
            let _ = write!(line, "  {:>1$}", heads(column)[head], width(column));
        }
        let _ = writeln!(text, "{line}");
    }
    for (name, cells) in names.iter().zip(&sheet.cells) {
        if group.iter().all(|at| cells[*at].is_none()) {
            continue;
        }
        let _ = write!(text, "{name:first$}");
        for at in group {
            let cell = cells[*at].map_or("-".into(), share);
            let _ = write!(text, "  {cell:>0$}", width(&sheet.columns[*at]));
        }
        text.push('\n');
    }
}

/// `0.873`, `12.4`, `1.2e3`: at most six characters.
fn share(share: f64) -> String {
    match share {
        0.0..10.0 => format!("{share:.3}"),
        10.0..1000.0 => format!("{share:.1}"),
        _ => format!("{share:.0e}"),
    }
}

/// What the reference of each column took, so that a share is a time again: in each file that has it.
fn references(sheet: &Sheet<'_>, against: &str) -> String {
    let name = |column: &Column<'_>| heads(column).join(" ");
    let widest = sheet.columns.iter().map(|column| name(column).chars().count()).max().unwrap_or(0).min(WIDTH - 30);
    let mut text = String::new();
    for file in &sheet.files {
        let _ = writeln!(text, "\n{} itself, in {}", shortened(against, NAME), shortened(file, NAME));
        for column in &sheet.columns {
            for (_, row) in column.references.iter().filter(|(other, _)| other == file) {
                let (ms, rate) = (row.median_s * 1e3, row.bytes_per_second() / 1e9);
                let _ =
                    writeln!(text, "  {:widest$}  {ms:>10.4} ms  {rate:>8.2} GB/s", shortened(&name(column), widest));
            }
        }
    }
    text
}

fn as_json(sheet: &Sheet<'_>, against: &str) -> Value {
    let reference = |(file, row): &(&str, &Row)| {
        let (seconds, rate) = (row.median_s, row.bytes_per_second());
        json!({"file": file, "device": row.device, "clock": row.clock, "median_s": seconds, "bytes_per_second": rate})
    };
    let column = |column: &Column<'_>| {
        let references: Vec<Value> = column.references.iter().map(reference).collect();
        json!({"rule": column.rule, "workload": column.workload, "references": references})
    };
    let columns: Vec<Value> = sheet.columns.iter().map(column).collect();
    let row = |(path, cells): (&String, &Vec<Option<f64>>)| json!({"path": path, "shares": cells});
    let rows: Vec<Value> = sheet.paths.iter().zip(&sheet.cells).map(row).collect();
    json!({"against": against, "columns": columns, "rows": rows})
}
