//! One rule on one workload: everything that is to be compared, built, verified, and timed in turn.

use anyhow::{Context, Result, anyhow};
use wgpu_optim::Rule;
use wgpu_optim::rule::kept_slots;

use super::PathKind;
use super::cpu::OnCpu;
use super::device::Clocked;
use super::gpu::OnGpu;
use super::machine::Machine;
use super::record::{Clock, Row, What};
use super::room::Room;
use super::timing::{Effort, Sample, Series, Subject, deviation, median, speedup, take_turns};
use super::transfer::{Readback, Upload};
use super::verify::{Path, check_normal, verify};
use super::workload::Workload;
use super::yardstick::{CpuCopy, CpuStream, Yardsticks, kernels};
use crate::adapter;
use crate::catalog::Job;

/// What is to be measured together.
pub struct Group<'a> {
    pub rule: &'a str,
    pub workload: &'a Workload,
    pub paths: &'a [PathKind],
    pub machine: &'a Machine,
    pub device: Option<&'a Clocked>,
    pub effort: &'a Effort,
    /// Is told what goes on.
    pub say: &'a dyn Fn(&str),
}

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    pub rows: Vec<Row>,
    /// Paths that could not be taken, and why.
    pub refused: Vec<String>,
    /// Paths that are wrong.
    pub wrong: Vec<String>,
}

/// Bytes that a step must move: parameters and kept slots are read and written, gradients are read.
pub fn bytes_of_step<R: Rule>(settings: &R, elements: u64) -> u64 {
    elements * 4 * (3 + 2 * kept_slots(settings).len() as u64)
}

/// Something timed, and the row that it becomes.
struct Entry<'a> {
    what: What,
    path: String,
    device: String,
    bytes: u64,
    note: String,
    series: Series<'a>,
}

/// A verified path lent to a series, and looked at again afterwards.
struct Lent<'a>(&'a mut dyn Path);

impl Subject for Lent<'_> {
    fn run(&mut self, times: u32) -> Result<Sample> {
        self.0.run(times)
    }
}

impl Job for Group<'_> {
    type Output = Outcome;

    fn run<R: Rule>(self, settings: R) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let room = Room::new(&settings, self.workload, self.device);
        let paths = room.allowed(self.paths, &mut outcome.refused);
        let mut ready: Vec<Ready> = Vec::new();
        for kind in paths {
            (self.say)(&format!("filling {kind}"));
            let say = |progress: &str| (self.say)(&format!("verifying {kind}, {progress}"));
            let about = |error| format!("{} {}, {kind}: {error:#}", self.rule, self.workload.name);
            match self.build(kind, &settings) {
                Ok(mut built) => match verify(built.path.as_mut(), &settings, self.workload, &say) {
                    Ok(()) => ready.push(built),
                    Err(error) => outcome.wrong.push(about(error)),
                },
                Err(error) => outcome.refused.push(about(error)),
            }
        }
        let bytes = bytes_of_step(&settings, self.workload.elements());
        outcome.rows = self.time(bytes, &room, &mut ready)?;
        Ok(outcome)
    }
}

impl Group<'_> {
    fn build<R: Rule>(&self, kind: PathKind, settings: &R) -> Result<Ready> {
        let ready = |path, travel| Ready { kind, path, travel };
        Ok(match kind {
            PathKind::Cpu => ready(Box::new(OnCpu::new(settings, self.workload, false)?), None),
            PathKind::Twin => ready(Box::new(OnCpu::new(settings, self.workload, true)?), None),
            PathKind::Gpu => {
                let device = self.device.context("no adapter was opened")?;
                let path = OnGpu::new(device, settings, self.workload)?;
                let (grads, params) = path.travellers(self.workload);
                let travel = Some((Upload::new(device, grads), Readback::new(device, params)));
                ready(Box::new(path), travel)
            }
        })
    }

    /// Everything in turn, yardsticks first on each device.
    fn time(&self, bytes: u64, room: &Room, ready: &mut [Ready]) -> Result<Vec<Row>> {
        let (gpu, cpu) = ready.split_at_mut(ready.partition_point(|ready| ready.kind == PathKind::Gpu));
        let mut entries = Vec::new();
        for (on_gpu, part) in [(true, gpu), (false, cpu)] {
            if !part.is_empty() {
                self.yardsticks(on_gpu, bytes, &mut entries)?;
            }
            for Ready { kind, path, travel } in part {
                let path = Lent(path.as_mut());
                let note = room.note(*kind, self.machine);
                entries.push(Entry { note, ..self.entry(What::Step, on_gpu, &kind.to_string(), bytes, path) });
                if let Some((up, down)) = travel.take() {
                    let (up_bytes, down_bytes) = (up.bytes(), down.bytes());
                    entries.push(self.entry(What::Upload, on_gpu, "gpu", up_bytes, up));
                    entries.push(self.entry(What::Readback, on_gpu, "gpu", down_bytes, down));
                }
            }
        }
        let rows = self.rows(entries)?;
        for Ready { kind, path, .. } in ready {
            check_normal(path.as_mut()).map_err(|error| anyhow!("{} {kind}: {error:#}", self.workload.name))?;
        }
        Ok(rows)
    }

    fn yardsticks<'a>(&self, on_gpu: bool, bytes: u64, entries: &mut Vec<Entry<'a>>) -> Result<()> {
        (self.say)("measuring the copies");
        match self.device {
            Some(device) if on_gpu => {
                let Yardsticks { kernels, driver: (driver_bytes, driver) } = kernels(device, bytes)?;
                for (name, bytes, kernel) in kernels {
                    entries.push(self.entry(What::Copy, on_gpu, name, bytes, kernel));
                }
                let note = "the driver's own, no part of the share".into();
                entries.push(Entry { note, ..self.entry(What::Copy, on_gpu, DRIVER, driver_bytes, driver) });
            }
            _ => {
                let (copy, stream) = (CpuCopy::new(bytes)?, CpuStream::new(bytes)?);
                let (copy_bytes, stream_bytes) = (copy.bytes(), stream.bytes());
                entries.push(self.entry(What::Copy, on_gpu, "copy", copy_bytes, copy));
                entries.push(self.entry(What::Copy, on_gpu, "stream", stream_bytes, stream));
            }
        }
        Ok(())
    }

    fn entry<'a>(&self, what: What, on_gpu: bool, path: &str, bytes: u64, subject: impl Subject + 'a) -> Entry<'a> {
        let device = self.device.filter(|_| on_gpu).map(|device| adapter::describe(&device.info));
        let device = device.unwrap_or_else(|| self.machine.cpu_path());
        let (path, note) = (path.into(), String::new());
        Entry { what, path, device, bytes, note, series: Series::new(subject) }
    }

    fn rows(&self, mut entries: Vec<Entry<'_>>) -> Result<Vec<Row>> {
        let mut series: Vec<Series<'_>> = Vec::new();
        let mut about = Vec::new();
        for Entry { what, path, device, bytes, note, series: own } in entries.drain(..) {
            series.push(own);
            about.push((what, path, device, bytes, note));
        }
        (self.say)("timing");
        take_turns(&mut series, self.effort, || {})?;
        let mut timed = Vec::new();
        for ((what, path, device, bytes, note), series) in about.iter().zip(&series) {
            for (clock, seconds) in [(Clock::Wall, Some(&series.wall[..])), (Clock::Timestamp, series.device())] {
                let Some(seconds) = seconds else { continue };
                timed.push(Timed { what: *what, path, device, bytes: *bytes, note, clock, seconds });
            }
        }
        Ok(timed.iter().map(|one| self.row(one, fastest(one, &timed))).collect())
    }

    fn row(&self, timed: &Timed<'_>, fastest: Option<&Timed<'_>>) -> Row {
        // Of like bytes: a yardstick's length is rounded to its lanes.
        let share =
            fastest.map(|fastest| speedup(timed.seconds, fastest.seconds) * timed.bytes as f64 / fastest.bytes as f64);
        Row {
            what: timed.what,
            path: timed.path.into(),
            device: timed.device.into(),
            rule: self.rule.into(),
            workload: self.workload.name.clone(),
            tensors: self.workload.tensors.len() as u64,
            elements: self.workload.elements(),
            bytes: timed.bytes,
            clock: timed.clock,
            samples: timed.seconds.len() as u64,
            median_s: median(timed.seconds),
            mad_s: deviation(timed.seconds),
            share,
            note: timed.note.into(),
        }
    }
}

/// The path of the driver's copy.
pub const DRIVER: &str = "driver-copy";

/// A path that is right, and what travels for it; the GPU's come first.
struct Ready {
    kind: PathKind,
    path: Box<dyn Path>,
    travel: Option<(Upload, Readback)>,
}

/// An entry's samples by one clock.
struct Timed<'a> {
    what: What,
    path: &'a str,
    device: &'a str,
    bytes: u64,
    note: &'a str,
    clock: Clock,
    seconds: &'a [f64],
}

impl Timed<'_> {
    fn speed(&self) -> f64 {
        self.bytes as f64 / median(self.seconds)
    }
}

/// The fastest plain kernel of the same device and clock; for what travels there is none.
fn fastest<'a>(of: &Timed<'_>, all: &'a [Timed<'a>]) -> Option<&'a Timed<'a>> {
    let kernel = |other: &&Timed<'_>| {
        other.what == What::Copy && other.path != DRIVER && other.device == of.device && other.clock == of.clock
    };
    let steps = matches!(of.what, What::Step | What::Copy);
    all.iter().filter(|_| steps).filter(kernel).max_by(|a, b| a.speed().total_cmp(&b.speed()))
}
