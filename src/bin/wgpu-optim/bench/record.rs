//! What was measured: rows, the machine, the command; written as CSV and JSON. `read` reads them back.

use std::fmt;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::machine::Machine;

/// One measured thing; a row of a CSV file. `benches/peers/run.py` writes the same columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub what: What,
    /// `gpu`, `cpu`, `twin`, each with its format (`gpu-bf16`) where that is not `f32`, a plain kernel (`copy-words`,
    /// …) or a peer (`pytorch-fused`, …).
    pub path: String,
    /// The adapter, or the CPU with its threads.
    pub device: String,
    pub rule: String,
    pub workload: String,
    pub tensors: u64,
    pub elements: u64,
    /// Bytes that must be moved: for a step each value read and each value written, once.
    pub bytes: u64,
    pub clock: Clock,
    pub samples: u64,
    pub median_s: f64,
    /// The median distance of a sample from the median.
    pub mad_s: f64,
    /// Bytes per second over those of the fastest plain kernel of the same device and run.
    pub share: Option<f64>,
    /// Of a step in another format: its seconds over those of the same step in `f32`, turn by turn.
    #[serde(default)]
    pub of_f32: Option<f64>,
    pub note: String,
}

/// What a row tells the time of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// One step of every tensor.
    Step,
    /// A plain kernel that moves as many bytes as the step.
    Copy,
    /// Gradients, from the host to the device.
    Upload,
    /// Parameters, from the device to the host.
    Readback,
}

/// How a time was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// On the host, from before the submit until the device is idle.
    Wall,
    /// By the device's timestamps, around the work alone.
    Timestamp,
}

/// What two records are compared by.
pub type Key<'a> = (What, &'a str, &'a str, &'a str, &'a str, Clock);

impl Row {
    pub fn key(&self) -> Key<'_> {
        (self.what, &self.path, &self.device, &self.rule, &self.workload, self.clock)
    }

    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.median_s
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            What::Step => "step",
            What::Copy => "copy",
            What::Upload => "upload",
            What::Readback => "readback",
        })
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Clock::Wall => "wall",
            Clock::Timestamp => "timestamp",
        })
    }
}

/// A run of `bench`.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    pub machine: Machine,
    /// The command that made it.
    pub command: String,
    pub rows: Vec<Row>,
    /// Lengths at which one path overtakes another.
    pub crossovers: Vec<Crossover>,
}

/// From which length on the GPU is faster than the CPU path.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Crossover {
    pub rule: String,
    /// Whether gradients and parameters travel between host and device at each step.
    pub travelling: bool,
    /// Elements of a single tensor, interpolated between the sizes that were measured; none where the GPU is not
    /// faster at any of them.
    pub elements: Option<f64>,
    /// Whether it is faster at the smallest size already, so that `elements` is that size.
    pub at_once: bool,
}

/// The rows as CSV.
pub fn to_csv(rows: &[Row]) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row)?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}
