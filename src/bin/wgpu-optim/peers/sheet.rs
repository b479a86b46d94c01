//! The cells: which rows of the files are held against which.

use crate::bench::record::{Clock, Row, What};

use super::BASELINE;

/// Paths down, rules with workloads across.
pub struct Sheet<'a> {
    pub columns: Vec<Column<'a>>,
    /// The names of the rows: the path, and the device or the file where that alone is not one row.
    pub paths: Vec<String>,
    /// For each path a cell for each column.
    pub cells: Vec<Vec<Option<f64>>>,
    /// The names of the files that have a reference.
    pub files: Vec<&'a str>,
}

pub struct Column<'a> {
    pub rule: &'a str,
    pub workload: &'a str,
    /// The references of the shares, each with its file.
    pub references: Vec<(&'a str, &'a Row)>,
}

/// A path of a file on a device: a row of the sheet.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Peer<'a> {
    file: usize,
    path: &'a str,
    device: &'a str,
}

/// What was measured, with the file's name.
type File = (String, Vec<Row>);

pub fn is_step(row: &Row) -> bool {
    row.what == What::Step
}

impl<'a> Sheet<'a> {
    pub fn of(files: &'a [File], against: &str) -> Self {
        let columns = columns(files, against);
        let peers = peers(files);
        let cell = |peer: &Peer<'_>, column: &Column<'_>| cell(&files[peer.file].1, peer, column, against);
        let row = |peer: &Peer<'_>| columns.iter().map(|column| cell(peer, column)).collect::<Vec<_>>();
        // The reference beside itself says nothing; where it is on more than one device it may.
        let rows = peers
            .iter()
            .map(|peer| (peer, row(peer)))
            .filter(|(peer, cells)| peer.path != against || cells.iter().flatten().any(|share| *share != 1.0));
        let (paths, cells) = rows.map(|(peer, cells)| (named(peer, &peers, files), cells)).unzip();
        let has = |file: &&str| columns.iter().any(|column| column.references.iter().any(|(other, _)| other == file));
        let files = files.iter().map(|(file, _)| file.as_str()).filter(has).collect();
        Self { columns, paths, cells, files }
    }
}

fn columns<'a>(files: &'a [File], against: &str) -> Vec<Column<'a>> {
    let mut columns: Vec<Column<'a>> = Vec::new();
    for (file, rows) in files {
        for row in rows.iter().filter(|row| is_step(row)) {
            let there = |column: &Column<'_>| column.rule == row.rule && column.workload == row.workload;
            let at = columns.iter().position(there).unwrap_or_else(|| {
                columns.push(Column { rule: &row.rule, workload: &row.workload, references: Vec::new() });
                columns.len() - 1
            });
            let is_first = columns[at].references.last().is_none_or(|(other, _)| other != file);
            if row.path == against && is_first {
                columns[at].references.push((file, row));
            }
        }
    }
    columns
}

fn peers(files: &[File]) -> Vec<Peer<'_>> {
    let mut peers: Vec<Peer<'_>> = Vec::new();
    for (file, (_, rows)) in files.iter().enumerate() {
        for row in rows.iter().filter(|row| is_step(row)) {
            let peer = Peer { file, path: &row.path, device: &row.device };
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
    }
    peers
}

fn cell(rows: &[Row], peer: &Peer<'_>, column: &Column<'_>, against: &str) -> Option<f64> {
    let of_column = |row: &&Row| is_step(row) && row.rule == column.rule && row.workload == column.workload;
    let found = |clock| {
        let is_peer = |row: &&Row| row.path == peer.path && row.device == peer.device && row.clock == clock;
        let row = rows.iter().filter(of_column).find(is_peer)?;
        let references = || rows.iter().filter(of_column).filter(|row| row.path == against && row.clock == clock);
        let reference = references().find(|other| other.device == row.device).or_else(|| references().next())?;
        match row.share {
            Some(share) if against == BASELINE => Some(share),
            _ => Some(reference.median_s / row.median_s),
        }
    };
    found(Clock::Wall).or_else(|| found(Clock::Timestamp))
}

/// The path, and as much more as tells it from the others.
fn named(peer: &Peer<'_>, peers: &[Peer<'_>], files: &[File]) -> String {
    let alike = || peers.iter().filter(|other| other.path == peer.path && *other != peer);
    let mut name = peer.path.to_string();
    if alike().any(|other| other.file == peer.file) {
        name += &format!(" on {}", peer.device);
    }
    if alike().any(|other| other.file != peer.file) {
        let file = std::path::Path::new(&files[peer.file].0);
        name += &format!(" in {}", file.file_stem().unwrap_or_default().to_string_lossy());
    }
    name
}
