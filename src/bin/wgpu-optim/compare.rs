//! `compare`: how far two results of one job are apart, as a share of what the job did.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde::Serialize;
use wgpu_optim::format::{Format, Rounding};
use wgpu_optim::safetensors::{Archive, Entry};

use crate::numbers::{Numbers, format_of, half_of};
use crate::report::{print, print_json};

/// The share of a tensor's largest update that two results may be apart: some roundings of f32.
const SHARE: f64 = 1e-5;
/// Units in the last place of a parameter that they may be apart besides. A step rounds the parameter once, and
/// over some steps the roundings of two devices drift by a few.
const ULPS: f64 = 4.0;
/// The same of 16 bits, where an update is seldom near the middle between two numbers.
const HALF_ULPS: f64 = 1.0;

/// Compare two results of one job; exits with 1 where they are too far apart
///
/// Two values of a tensor may differ by 1e-5 of the largest update in that tensor, and by 4 units in the last
/// place of the value besides; values of F16 and BF16 by 1 unit of theirs. Other types are equal or not.
#[derive(clap::Args)]
pub struct Args {
    /// One result
    #[arg(value_name = "A.safetensors")]
    a: PathBuf,
    /// The other
    #[arg(value_name = "B.safetensors")]
    b: PathBuf,
    /// The parameters before the job, which give the size of the update
    #[arg(long, value_name = "FILE")]
    before: PathBuf,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let (a, b, before) = (Archive::open(&args.a)?, Archive::open(&args.b)?, Archive::open(&args.before)?);
    if let Some(extra) = b.names().find(|name| a.get(name).is_none()) {
        bail!("{}: there is no tensor {extra:?}, which is in {}", a.path(), b.path());
    }
    let mut rows = Vec::new();
    for entry in a.entries() {
        rows.push(compare(&a, entry, &b, &before)?);
    }
    let equal = rows.iter().all(|row| row.passed);
    if args.json {
        print_json(&serde_json::json!({"passed": equal, "tensors": rows}))?;
    } else {
        print(&table(&rows, equal))?;
    }
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One tensor.
#[derive(Serialize)]
struct Row {
    tensor: String,
    elements: u64,
    /// The largest |a - b|.
    difference: f64,
    /// The largest |a - before|.
    update: f64,
    passed: bool,
}

impl Row {
    fn share(&self) -> f64 {
        if self.difference == 0.0 { 0.0 } else { self.difference / self.update }
    }
}

fn compare(a: &Archive, entry: &Entry, b: &Archive, before: &Archive) -> Result<Row> {
    let (ours, theirs) = (a.path(), b.path());
    let row = |difference, update, passed| {
        let (tensor, elements) = (entry.name.clone(), entry.len());
        Row { tensor, elements, difference, update, passed }
    };
    let (other, first) = (find(b, entry)?, find(before, entry)?);
    let Some(format) = format_of(entry.dtype) else {
        if a.bytes(entry)? != b.bytes(other)? {
            bail!("tensor {:?} of {} differs between {ours} and {theirs}", entry.name, entry.dtype);
        }
        return Ok(row(0.0, 0.0, true));
    };
    let values = |archive, entry| anyhow::Ok(Numbers::read(archive, entry)?.widened().collect::<Vec<f32>>());
    let (x, y, p) = (values(a, entry)?, values(b, other)?, values(before, first)?);
    let update = largest(x.iter().zip(&p).map(|(x, p)| apart(*x, *p)).filter(|update| update.is_finite()));
    let difference = largest(x.iter().zip(&y).map(|(x, y)| apart(*x, *y)));
    let ulps = if format == Format::F32 { ULPS } else { HALF_ULPS };
    let passed = x.iter().zip(&y).all(|(&x, &y)| apart(x, y) <= SHARE * update + ulps * ulp(x, format));
    Ok(row(difference, update, passed))
}

/// The entry of the same name, which must have the same shape and dtype.
fn find<'a>(archive: &'a Archive, entry: &Entry) -> Result<&'a Entry> {
    let (file, name) = (archive.path(), &entry.name);
    let Some(found) = archive.get(name) else { bail!("{file}: there is no tensor {name:?}") };
    if found.shape != entry.shape || found.dtype != entry.dtype {
        let (shape, dtype) = (&entry.shape, entry.dtype);
        bail!("{file}: {name:?} is {:?} of {}, expected {shape:?} of {dtype}", found.shape, found.dtype);
    }
    Ok(found)
}

/// |a - b|; 0 for two that are alike, NaN with NaN too, and infinite where one alone is not finite.
fn apart(a: f32, b: f32) -> f64 {
    let apart = (f64::from(a) - f64::from(b)).abs();
    match a == b || (a.is_nan() && b.is_nan()) {
        true => 0.0,
        false if apart.is_nan() => f64::INFINITY,
        false => apart,
    }
}

/// The distance from `x` to the next number of its format.
fn ulp(x: f32, format: Format) -> f64 {
    let x = x.abs();
    let next = match half_of(format) {
        None => x.next_up(),
        Some(half) => half.widen(half.narrow(x, Rounding::Nearest, 0).saturating_add(1)),
    };
    if x.is_finite() { f64::from(next) - f64::from(x) } else { 0.0 }
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

fn table(rows: &[Row], equal: bool) -> String {
    let name = |row: &Row| row.tensor.escape_debug().to_string();
    let widest = rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max("tensor".len());
    let mut text = format!("{:<widest$}  {:>10}  {:>10}  {:>8}\n", "tensor", "difference", "update", "share");
    for row in rows {
        let verdict = if row.passed { "" } else { "  too far apart" };
        let share = row.share();
        let (tensor, Row { difference, update, .. }) = (name(row), row);
        let _ = writeln!(text, "{tensor:<widest$}  {difference:>10.2e}  {update:>10.2e}  {share:>8.1e}{verdict}");
    }
    let passed = rows.iter().filter(|row| row.passed).count();
    let _ = match equal {
        true => writeln!(text, "all within {SHARE:e} of the update and {ULPS} ULP, or {HALF_ULPS} of 16 bits"),
        false => writeln!(text, "{} of {} tensors are too far apart", rows.len() - passed, rows.len()),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_on_one_side_alone_is_infinitely_far() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        assert_eq!(apart(nan, nan), 0.0);
        assert_eq!(apart(inf, inf), 0.0);
        for (a, b) in [(nan, 1.0), (1.0, nan), (inf, 1.0), (inf, -inf), (nan, inf)] {
            assert_eq!(apart(a, b), f64::INFINITY, "{a} and {b}");
        }
    }

    #[test]
    fn an_ulp_is_the_distance_to_the_next_number() {
        for (format, last) in [(Format::F32, 23), (Format::F16, 10), (Format::Bf16, 7)] {
            assert_eq!(ulp(1.0, format), 0.5f64.powi(last));
            assert_eq!(ulp(-1.0, format), ulp(1.0, format));
            assert!(ulp(0.0, format) > 0.0);
        }
    }
}
