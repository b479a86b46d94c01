//! Files of a record: each is written anew, whole, when another group has been measured.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::page::page;
use super::record::{Record, to_csv};
use crate::output::{Output, check_paths, commit};
use crate::report::print;

/// Where a record goes.
pub struct Outputs {
    csv: Option<PathBuf>,
    json: Option<PathBuf>,
    html: Option<PathBuf>,
    json_to_stdout: bool,
}

impl Outputs {
    /// Takes the files of `--csv`, `--json` (`-` is stdout) and `--html`, as far as they are given.
    ///
    /// # Errors
    /// Of usage for what is no file; where one could not be written.
    pub fn new(csv: Option<&Path>, json: Option<&Path>, html: Option<&Path>) -> Result<Self> {
        let json_to_stdout = json == Some(Path::new("-"));
        let json = json.filter(|_| !json_to_stdout);
        let named = [("--csv", csv), ("--json", json), ("--html", html)];
        let paths: Vec<(&str, &Path)> = named.into_iter().filter_map(|(option, path)| Some((option, path?))).collect();
        check_paths(&[], &paths)?;
        // What cannot be written is told now, and not when something has been measured.
        paths.iter().try_for_each(|(_, path)| Output::create(path).map(drop))?;
        let [csv, json, html] = [csv, json, html].map(|path| path.map(PathBuf::from));
        Ok(Self { csv, json, html, json_to_stdout })
    }

    /// Whether stdout is kept free for JSON.
    pub fn want_stdout(&self) -> bool {
        self.json_to_stdout
    }

    /// Puts what has been measured so far in the place of what was there.
    ///
    /// # Errors
    /// With the file that could not be written; it is as it was.
    pub fn write(&self, record: &Record) -> Result<()> {
        let mut written = Vec::new();
        if let Some(path) = &self.csv {
            written.push(whole(path, &to_csv(&record.rows)?)?);
        }
        if let Some(path) = &self.html {
            written.push(whole(path, &page(record)?)?);
        }
        if let Some(path) = &self.json {
            written.push(whole(path, &to_json(record)?)?);
        }
        commit(written)
    }

    /// Prints the record, where stdout is for that.
    ///
    /// # Errors
    /// Where stdout cannot be written to.
    pub fn finish(&self, record: &Record) -> Result<()> {
        if self.json_to_stdout { print(&to_json(record)?) } else { Ok(()) }
    }

    /// Writes another value to the place of `--json`, or to stdout.
    ///
    /// # Errors
    /// Where that cannot be written to.
    pub fn write_json(&self, value: &impl Serialize) -> Result<()> {
        match &self.json {
            Some(path) => commit(vec![whole(path, &to_json(value)?)?]),
            None => print(&to_json(value)?),
        }
    }
}

/// A file that is whole and not yet in its place.
fn whole(path: &Path, text: &str) -> Result<Output> {
    let mut output = Output::create(path)?;
    output.fill(|sink| Ok(sink.write_all(text.as_bytes())?))?;
    Ok(output)
}

fn to_json(value: &impl Serialize) -> Result<String> {
    Ok(format!("{:#}\n", serde_json::to_value(value)?))
}

#[cfg(test)]
mod tests {
    use super::super::page::tests::record;
    use super::*;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn files_hold_what_has_been_measured_so_far_and_nothing_lies_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let [csv, json, html] = ["a.csv", "a.json", "a.html"].map(|name| folder.path().join(name));
        std::fs::write(&csv, "an earlier record").unwrap();
        let outputs = Outputs::new(Some(&csv), Some(&json), Some(&html)).unwrap();
        assert_eq!(read(&csv), "an earlier record", "kept until there is something to put there");
        let whole = record(false);
        for rows in [3, whole.rows.len()] {
            let mut record = whole.clone();
            record.rows.truncate(rows);
            outputs.write(&record).unwrap();
            assert_eq!(read(&csv), to_csv(&record.rows).unwrap());
            assert_eq!(read(&json), to_json(&record).unwrap());
            assert_eq!(read(&html), page(&record).unwrap());
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
        }
    }
}
