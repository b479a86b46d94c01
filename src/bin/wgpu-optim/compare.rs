//! `compare`: how far two results of one job are apart, as a share of what the job did.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde::Serialize;
use wgpu_optim::safetensors::{Archive, Dtype, Entry};

use crate::report::{print, print_json};

/// The share of a tensor's largest update that two results may be apart: some roundings of f32.
const SHARE: f64 = 1e-5;
/// Units in the last place of a parameter that they may be apart besides. A step rounds the parameter once, and
/// over some steps the roundings of two devices drift by a few.
const ULPS: f64 = 4.0;

/// Compare two results of one job; exits with 1 where they are too far apart
///
/// Two values of a tensor may differ by 1e-5 of the largest update in that tensor, and by 4 units in the last
/// place of the value besides.
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
    if entry.dtype != Dtype::F32 {
        if bytes(a, entry)? != bytes(b, other)? {
            bail!("tensor {:?} of {} differs between {ours} and {theirs}", entry.name, entry.dtype);
        }
        return Ok(row(0.0, 0.0, true));
    }
    let (x, y, p) = (a.values(entry)?, b.values(other)?, before.values(first)?);
    let update = largest(x.iter().zip(&p).map(|(x, p)| apart(*x, *p)).filter(|update| update.is_finite()));
    let difference = largest(x.iter().zip(&y).map(|(x, y)| apart(*x, *y)));
    let passed = x.iter().zip(&y).all(|(&x, &y)| apart(x, y) <= SHARE * update + ULPS * ulp(x));
    Ok(row(difference, update, passed))
}

/// A tensor's bytes, whatever they mean.
fn bytes(archive: &Archive, entry: &Entry) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    archive.read_each(entry, |chunk| {
        bytes.extend_from_slice(chunk);
        anyhow::Ok(())
    })?;
    Ok(bytes)
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

/// The distance from `x` to the next number of f32.
fn ulp(x: f32) -> f64 {
    let x = x.abs();
    if x.is_finite() { f64::from(x.next_up()) - f64::from(x) } else { 0.0 }
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
        true => writeln!(text, "all within {SHARE:e} of the update and {ULPS} ULP"),
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
        assert_eq!(ulp(1.0), f64::from(f32::EPSILON));
        assert_eq!(ulp(-1.0), ulp(1.0));
        assert!(ulp(0.0) > 0.0);
    }
}
