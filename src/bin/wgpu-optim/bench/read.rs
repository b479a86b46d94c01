//! Files of measurements, read back: whole, checked, and with the line of what is wrong.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use csv::{ByteRecord, DeserializeError, ErrorKind, Position, Reader, StringRecord};

use super::record::Row;

/// What `bench --csv` and benches/peers/run.py write.
const COLUMNS: [&str; 14] = [
    "what", "path", "device", "rule", "workload", "tensors", "elements", "bytes", "clock", "samples", "median_s",
    "mad_s", "share", "note",
];
/// More than any run writes, and little enough to hold.
const LIMIT: u64 = 64 << 20;

/// The rows of a CSV file: at least one, each with a time above zero, and no two of the same thing.
///
/// # Errors
/// With the file's name, and with the line where there is one.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    rows(&bytes(path)?).with_context(|| path.display().to_string())
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    let failed = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes)).with_context(failed)?;
    ensure!(bytes.len() as u64 <= LIMIT, "{} is larger than 64 MiB, which is no file of measurements", path.display());
    Ok(bytes)
}

fn rows(bytes: &[u8]) -> Result<Vec<Row>> {
    ensure!(!bytes.is_empty(), "the file is empty, expected the columns {}", COLUMNS.join(","));
    let mut reader = Reader::from_reader(bytes);
    let header = header(reader.byte_headers()?)?;
    let mut rows: Vec<Row> = Vec::new();
    let mut starts = Vec::new();
    let mut record = ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(|error| plain(&error, bytes))? {
        let start = record.position().cloned();
        let read = row(&record, &header).with_context(|| format!("line {}", line(bytes, start.as_ref())));
        rows.push(read?);
        starts.push(start);
    }
    ensure!(!rows.is_empty(), "the file has a header and no rows");
    no_row_twice(&rows, |row| line(bytes, starts[row].as_ref()))?;
    Ok(rows)
}

/// The line of a record. The csv crate's own count is that of the end of the record before, which differs where lines
/// are empty.
fn line(bytes: &[u8], start: Option<&Position>) -> usize {
    let start = start.and_then(|start| usize::try_from(start.byte()).ok()).unwrap_or(0);
    let empty = bytes.iter().skip(start).take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    1 + bytes.iter().take(start + empty).filter(|byte| **byte == b'\n').count()
}

/// The first line, which must hold every column once; columns besides are not looked at.
fn header(found: &ByteRecord) -> Result<StringRecord> {
    let header = StringRecord::from_byte_record_lossy(found.clone());
    for column in COLUMNS {
        match header.iter().filter(|name| *name == column).count() {
            1 => {}
            0 => bail!("line 1: there is no column {column:?}, expected the columns {}", COLUMNS.join(",")),
            _ => bail!("line 1: there is more than one column {column:?}"),
        }
    }
    Ok(header)
}

fn row(record: &ByteRecord, header: &StringRecord) -> Result<Row> {
    let text = StringRecord::from_byte_record(record.clone());
    let text = text.map_err(|_| anyhow::anyhow!("this is not UTF-8 text"))?;
    let row: Row = text.deserialize(Some(header)).map_err(|error| match error.kind() {
        ErrorKind::Deserialize { err, .. } => in_column(err, &text, header),
        _ => anyhow::anyhow!("{error}"),
    })?;
    let (median, mad) = (row.median_s, row.mad_s);
    ensure!(median.is_finite() && median > 0.0, "median_s is {median}, expected seconds above 0");
    ensure!(mad.is_finite() && mad >= 0.0, "mad_s is {mad}, expected seconds, or 0");
    if let Some(share) = row.share {
        ensure!(share.is_finite() && share >= 0.0, "share is {share}, expected a share, or nothing");
    }
    Ok(row)
}

/// The cell and its column, which the csv crate counts but does not name.
fn in_column(error: &DeserializeError, record: &StringRecord, header: &StringRecord) -> anyhow::Error {
    let at = error.field().and_then(|field| usize::try_from(field).ok());
    match at.and_then(|at| Some((header.get(at)?, record.get(at)?))) {
        Some((column, cell)) => anyhow::anyhow!("{column} is {:?}: {}", shortened(cell, 40), error.kind()),
        None => anyhow::anyhow!("{}", error.kind()),
    }
}

/// An error of the csv crate in the words of this file.
fn plain(error: &csv::Error, bytes: &[u8]) -> anyhow::Error {
    match error.kind() {
        ErrorKind::UnequalLengths { pos, expected_len, len } => {
            anyhow::anyhow!("line {}: there are {len} cells, expected {expected_len}", line(bytes, pos.as_ref()))
        }
        _ => anyhow::anyhow!("{error}"),
    }
}

fn no_row_twice(rows: &[Row], line: impl Fn(usize) -> usize) -> Result<()> {
    let mut seen = HashMap::new();
    for (at, row) in rows.iter().enumerate() {
        if let Some(first) = seen.insert(row.key(), at) {
            let (line, first) = (line(at), line(first));
            bail!("line {line}: what, path, device, rule, workload and clock are those of line {first}");
        }
    }
    Ok(())
}

/// At most so many characters of a text from a file, none of which a terminal would obey.
pub fn shortened(text: &str, limit: usize) -> String {
    let safe: Vec<char> = text.escape_debug().filter(|c| *c != '\\').collect();
    match safe.len() > limit {
        true => safe[..limit.saturating_sub(1)].iter().chain(&['…']).collect(),
        false => safe.into_iter().collect(),
    }
}
