//! What is told, and where: results on stdout, everything else on stderr.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};
use serde_json::Value;

/// Writes a result to stdout. A reader that has gone away (`| head`) is no failure.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// Writes one JSON value to stdout.
pub fn print_json(value: &Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// Writes a line to stderr. There is nobody to tell if that fails.
pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// What a job wants known besides its result.
#[derive(Default)]
pub struct Report {
    warnings: Vec<String>,
}

impl Report {
    /// Something that is as it should be, but perhaps not as expected.
    pub fn note(&self, text: impl Display) {
        complain(&format!("note: {text}"));
    }

    /// Something that may be wrong; also part of the JSON result.
    pub fn warn(&mut self, text: impl Display) {
        complain(&format!("warning: {text}"));
        self.warnings.push(text.to_string());
    }

    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// `1 tensor`, `2 tensors`.
pub fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Bytes as a person reads them.
pub fn size(bytes: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => count(bytes, "byte"),
    }
}

/// The candidate that takes the fewest edits, however many those are.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates.into_iter().min_by_key(|candidate| strsim::damerau_levenshtein(name, candidate))
}
