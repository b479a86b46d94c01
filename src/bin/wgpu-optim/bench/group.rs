//! One rule on one workload: everything that is to be compared, built, verified, and timed in turn.

use anyhow::{Context, Result, anyhow};
use half::bf16;
use wgpu_optim::Rule;
use wgpu_optim::format::Format;

use super::PathKind;
use super::cpu::OnCpu;
use super::device::Clocked;
use super::format::{FormatKind, bytes_of_step};
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
    /// Each once.
    pub formats: &'a [FormatKind],
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

/// Something timed, and the row that it becomes.
struct Entry<'a> {
    what: What,
    format: FormatKind,
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
        let room = Room::new(&settings, self.formats, self.workload, self.device);
        let paths = room.allowed(self.paths, &mut outcome.refused);
        let mut ready: Vec<Ready> = Vec::new();
        for kind in paths {
            for &format in self.formats {
                self.prepare(kind, format, &settings, &mut ready, &mut outcome);
            }
        }
        outcome.rows = self.time(&room, &mut ready)?;
        Ok(outcome)
    }
}

impl Group<'_> {
    /// Builds a path in a format, and holds it to what is right.
    fn prepare<R: Rule>(
        &self,
        kind: PathKind,
        format: FormatKind,
        settings: &R,
        ready: &mut Vec<Ready>,
        outcome: &mut Outcome,
    ) {
        let name = format.named(&kind.to_string());
        (self.say)(&format!("filling {name}"));
        let say = |progress: &str| (self.say)(&format!("verifying {name}, {progress}"));
        let about = |error| format!("{} {}, {name}: {error:#}", self.rule, self.workload.name);
        match self.build(kind, format, settings) {
            Ok(mut built) => match verify(built.path.as_mut(), settings, &format.formats(), self.workload, &say) {
                Ok(()) => ready.push(built),
                Err(error) => outcome.wrong.push(about(error)),
            },
            Err(error) => outcome.refused.push(about(error)),
        }
    }

    fn build<R: Rule>(&self, kind: PathKind, format: FormatKind, settings: &R) -> Result<Ready> {
        let (formats, workload) = (format.formats(), self.workload);
        let bytes = bytes_of_step(settings, &formats, workload);
        let ready = |path, travel| Ready { kind, format, bytes, path, travel };
        let plain = kind == PathKind::Twin;
        Ok(match (kind, formats.params) {
            (PathKind::Gpu, _) => {
                let device = self.device.context("no adapter was opened")?;
                let path = OnGpu::new(device, settings, &formats, workload)?;
                let travel = (format == FormatKind::F32).then(|| {
                    let (grads, params) = path.travellers(workload);
                    (Upload::new(device, grads), Readback::new(device, params))
                });
                ready(Box::new(path), travel)
            }
            (_, Format::F32) => ready(Box::new(OnCpu::<R>::new(settings, &formats, workload, plain)?), None),
            _ => ready(Box::new(OnCpu::<R, bf16>::new(settings, &formats, workload, plain)?), None),
        })
    }

    /// Everything in turn, yardsticks first on each device.
    fn time(&self, room: &Room, ready: &mut [Ready]) -> Result<Vec<Row>> {
        let (gpu, cpu) = ready.split_at_mut(ready.partition_point(|ready| ready.kind == PathKind::Gpu));
        let mut entries = Vec::new();
        for (on_gpu, part) in [(true, gpu), (false, cpu)] {
            let mut formats: Vec<(FormatKind, u64)> = part.iter().map(|ready| (ready.format, ready.bytes)).collect();
            formats.sort();
            formats.dedup();
            for (format, bytes) in formats {
                self.yardsticks(on_gpu, format, bytes, &mut entries)?;
            }
            for Ready { kind, format, bytes, path, travel } in part {
                let (path, format) = (Lent(path.as_mut()), *format);
                let note = room.note(*kind, format, self.machine);
                let entry = self.entry(What::Step, on_gpu, &kind.to_string(), *bytes, path);
                entries.push(Entry { note, format, ..entry });
                if let Some((up, down)) = travel.take() {
                    let (up_bytes, down_bytes) = (up.bytes(), down.bytes());
                    entries.push(self.entry(What::Upload, on_gpu, "gpu", up_bytes, up));
                    entries.push(self.entry(What::Readback, on_gpu, "gpu", down_bytes, down));
                }
            }
        }
        let rows = self.rows(entries)?;
        for Ready { kind, format, path, .. } in ready {
            let name = format.named(&kind.to_string());
            check_normal(path.as_mut()).map_err(|error| anyhow!("{} {name}: {error:#}", self.workload.name))?;
        }
        Ok(rows)
    }

    /// Those of a step that moves so many bytes; the driver's copy is measured beside `f32` alone.
    fn yardsticks<'a>(&self, on_gpu: bool, format: FormatKind, bytes: u64, entries: &mut Vec<Entry<'a>>) -> Result<()> {
        (self.say)("measuring the copies");
        match self.device {
            Some(device) if on_gpu => {
                let Yardsticks { kernels, driver: (driver_bytes, driver) } = kernels(device, bytes)?;
                for (name, bytes, kernel) in kernels {
                    entries.push(Entry { format, ..self.entry(What::Copy, on_gpu, name, bytes, kernel) });
                }
                if format == FormatKind::F32 {
                    let note = "the driver's own, no part of the share".into();
                    entries.push(Entry { note, ..self.entry(What::Copy, on_gpu, DRIVER, driver_bytes, driver) });
                }
            }
            _ => {
                let (copy, stream) = (CpuCopy::new(bytes)?, CpuStream::new(bytes)?);
                let (copy_bytes, stream_bytes) = (copy.bytes(), stream.bytes());
                entries.push(Entry { format, ..self.entry(What::Copy, on_gpu, "copy", copy_bytes, copy) });
                entries.push(Entry { format, ..self.entry(What::Copy, on_gpu, "stream", stream_bytes, stream) });
            }
        }
        Ok(())
    }

    fn entry<'a>(&self, what: What, on_gpu: bool, path: &str, bytes: u64, subject: impl Subject + 'a) -> Entry<'a> {
        let device = self.device.filter(|_| on_gpu).map(|device| adapter::describe(&device.info));
        let device = device.unwrap_or_else(|| self.machine.cpu_path());
        let (path, note) = (path.into(), String::new());
        Entry { what, format: FormatKind::F32, path, device, bytes, note, series: Series::new(subject) }
    }

    fn rows(&self, mut entries: Vec<Entry<'_>>) -> Result<Vec<Row>> {
        let mut series: Vec<Series<'_>> = Vec::new();
        let mut about = Vec::new();
        for Entry { what, format, path, device, bytes, note, series: own } in entries.drain(..) {
            series.push(own);
            about.push((what, format, path, device, bytes, note));
        }
        (self.say)("timing");
        take_turns(&mut series, self.effort, || {})?;
        let mut timed = Vec::new();
        for ((what, format, path, device, bytes, note), series) in about.iter().zip(&series) {
            for (clock, seconds) in [(Clock::Wall, Some(&series.wall[..])), (Clock::Timestamp, series.device())] {
                let Some(seconds) = seconds else { continue };
                timed.push(Timed { what: *what, format: *format, path, device, bytes: *bytes, note, clock, seconds });
            }
        }
        Ok(timed.iter().map(|one| self.row(one, &timed)).collect())
    }

    fn row(&self, timed: &Timed<'_>, all: &[Timed<'_>]) -> Row {
        // Of like bytes: a yardstick's length is rounded to its lanes.
        let share = fastest(timed, all)
            .map(|fastest| speedup(timed.seconds, fastest.seconds) * timed.bytes as f64 / fastest.bytes as f64);
        Row {
            what: timed.what,
            path: timed.format.named(timed.path),
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
            of_f32: in_f32(timed, all).map(|plain| speedup(plain.seconds, timed.seconds)),
            note: timed.note.into(),
        }
    }
}

/// The path of the driver's copy.
pub const DRIVER: &str = "driver-copy";

/// A path that is right, and what travels for it; the GPU's come first.
struct Ready {
    kind: PathKind,
    format: FormatKind,
    /// Of a step.
    bytes: u64,
    path: Box<dyn Path>,
    travel: Option<(Upload, Readback)>,
}

/// An entry's samples by one clock.
struct Timed<'a> {
    what: What,
    format: FormatKind,
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

/// The step that another format's is held against.
fn in_f32<'a>(of: &Timed<'_>, all: &'a [Timed<'a>]) -> Option<&'a Timed<'a>> {
    let alike = |other: &&Timed<'_>| {
        (other.what, other.path, other.device, other.clock) == (of.what, of.path, of.device, of.clock)
    };
    let is_other = of.what == What::Step && of.format != FormatKind::F32;
    all.iter().filter(|_| is_other).filter(alike).find(|other| other.format == FormatKind::F32)
}

/// The fastest plain kernel of as many bytes on the same device by the same clock; for what travels there is none.
fn fastest<'a>(of: &Timed<'_>, all: &'a [Timed<'a>]) -> Option<&'a Timed<'a>> {
    let kernel = |other: &&Timed<'_>| {
        let alike = other.format == of.format && other.device == of.device && other.clock == of.clock;
        other.what == What::Copy && other.path != DRIVER && alike
    };
    let steps = matches!(of.what, What::Step | What::Copy);
    all.iter().filter(|_| steps).filter(kernel).max_by(|a, b| a.speed().total_cmp(&b.speed()))
}
