//! The rows of a record, chosen for the charts.

use crate::bench::record::{Clock, Record, Row, What};

/// A line of a chart.
pub struct Line {
    /// What the legend says.
    pub name: String,
    pub look: Look,
    /// Length in elements, and the value there; every number is finite and above 0.
    pub points: Vec<(f64, f64)>,
}

/// How a line looks: a class of the style sheet, and the mark on its points.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub class: &'static str,
    pub mark: Mark,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    Circle,
    Square,
    Triangle,
    /// A yardstick, which is dashed and has no marks of its own.
    None,
}

/// The rows of one rule.
pub struct Of<'a> {
    record: &'a Record,
    pub rule: &'a str,
}

/// Every rule that was stepped, as the rows have them.
pub fn rules(record: &Record) -> Vec<Of<'_>> {
    distinct(steps(record).map(|row| row.rule.as_str())).into_iter().map(|rule| Of { record, rule }).collect()
}

/// The paths that were stepped.
pub fn paths(record: &Record) -> Vec<&str> {
    distinct(steps(record).map(|row| row.path.as_str()))
}

fn steps(record: &Record) -> impl Iterator<Item = &Row> {
    record.rows.iter().filter(|row| row.what == What::Step)
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

impl<'a> Of<'a> {
    fn rows(&self, what: What) -> impl Iterator<Item = &'a Row> {
        let rule = self.rule;
        self.record.rows.iter().filter(move |row| row.what == what && row.rule == rule)
    }

    fn paths(&self) -> Vec<&'a str> {
        distinct(self.rows(What::Step).map(|row| row.path.as_str()))
    }

    /// The steps of a path, one for each workload: by this clock, or by the other where it was not used.
    fn steps(&self, path: &str, clock: Clock) -> Vec<&'a Row> {
        let rows: Vec<&Row> = self.rows(What::Step).filter(|row| row.path == path && is_sound(row)).collect();
        let preferred = |row: &&Row| {
            row.clock == clock || !rows.iter().any(|other| other.clock == clock && other.workload == row.workload)
        };
        rows.iter().copied().filter(preferred).collect()
    }

    /// The steps of every path on every workload that this holds for, workload by workload.
    pub fn steps_by_workload(&self, wanted: impl Fn(&Row) -> bool, clock: Clock) -> Vec<(&'a str, Vec<&'a Row>)> {
        let rows: Vec<&Row> = self.paths().iter().flat_map(|path| self.steps(path, clock)).collect();
        let of = |name| rows.iter().copied().filter(|row| row.workload == name && wanted(row)).collect();
        let names = distinct(self.rows(What::Step).map(|row| row.workload.as_str()));
        names.into_iter().map(|name| (name, of(name))).filter(|(_, rows): &(_, Vec<_>)| !rows.is_empty()).collect()
    }

    /// Bytes per second against length: the paths, and the copy on each of their devices.
    pub fn throughput(&self) -> Vec<Line> {
        let paths = self.paths();
        let lines = paths.iter().map(|path| {
            let points = self.singles(path, Clock::Timestamp).map(|row| (row.elements as f64, gigabytes(row)));
            Line { name: self.named(path), look: look(path), points: by_length(points) }
        });
        let mut lines: Vec<Line> = lines.collect();
        let on = |path: &str| self.rows(What::Step).find(|row| row.path == path).map(|row| row.device.as_str());
        for device in distinct(paths.iter().filter_map(|path| on(path))) {
            lines.extend(self.roof(device));
        }
        lines.retain(|line| !line.points.is_empty());
        lines
    }

    /// The fastest plain kernel of a device at each length. `driver-copy` is none: it may be a machine of its own.
    fn roof(&self, device: &str) -> Option<Line> {
        let path = self.rows(What::Step).find(|row| row.device == device)?.path.as_str();
        let points = self.singles(path, Clock::Timestamp).filter_map(|step| {
            let copies = self.record.rows.iter().filter(|row| is_copy_of(row, step) && row.clock == step.clock);
            Some((step.elements as f64, copies.map(gigabytes).max_by(f64::total_cmp)?))
        });
        let look = Look { class: if is_on_gpu(path) { "roof-gpu" } else { "roof-cpu" }, mark: Mark::None };
        Some(Line { name: format!("copy beside {path}"), look, points: by_length(points) })
    }

    fn singles(&self, path: &str, clock: Clock) -> impl Iterator<Item = &'a Row> {
        self.steps(path, clock).into_iter().filter(|row| is_single(row))
    }

    /// The GPU's time over the CPU's, against length, by the wall where it was used: that is what a caller waits.
    pub fn ratios(&self) -> Vec<Line> {
        let cpu: Vec<&Row> = self.singles("cpu", Clock::Wall).collect();
        let line = |name: &str, class, mark, travels: bool| {
            let points = self.singles("gpu", Clock::Wall).filter_map(|row| {
                let host = cpu.iter().find(|other| other.workload == row.workload)?;
                let travel = if travels { self.travel(row)? } else { 0.0 };
                Some((row.elements as f64, (row.median_s + travel) / host.median_s))
            });
            Line { name: name.into(), look: Look { class, mark }, points: by_length(points) }
        };
        let mut lines = vec![
            line("resident", "resident", Mark::Circle, false),
            line("travelling", "travelling", Mark::Square, true),
        ];
        lines.retain(|line| !line.points.is_empty());
        lines
    }

    /// Seconds that gradients take to the device and parameters back; none where one of them was not measured.
    fn travel(&self, step: &Row) -> Option<f64> {
        let seconds = |what| {
            let mut rows = self.record.rows.iter().filter(move |row| row.what == what);
            let alike = |row: &&Row| row.workload == step.workload && row.device == step.device;
            let of_rule = |row: &&Row| row.rule == step.rule || row.rule.is_empty();
            rows.find(|row| alike(row) && of_rule(row) && is_sound(row)).map(|row| row.median_s)
        };
        Some(seconds(What::Upload)? + seconds(What::Readback)?)
    }

    /// Which clock the steps of the GPU on single tensors were taken by, where there are any.
    pub fn clock(&self, preferred: Clock) -> Option<Clock> {
        self.singles("gpu", preferred).next().map(|row| row.clock)
    }

    /// The path, and where it is `gpu` without being one, that too.
    pub fn named(&self, path: &str) -> String {
        if is_on_gpu(path) && self.on_software() { format!("{path} (software)") } else { path.into() }
    }

    /// Whether the path `gpu` ran on a software adapter.
    pub fn on_software(&self) -> bool {
        let software = self.record.machine.adapter.as_ref().is_some_and(|adapter| adapter.software);
        software && self.paths().into_iter().any(is_on_gpu)
    }
}

/// Every path has its own colour, dash and mark, the same in every chart.
pub fn look(path: &str) -> Look {
    let (class, mark) = match path {
        "gpu" => ("gpu", Mark::Circle),
        "cpu" => ("cpu", Mark::Square),
        "twin" => ("twin", Mark::Triangle),
        _ => ("other", Mark::Circle),
    };
    Look { class, mark }
}

/// Whether it is the path `gpu`, in whatever format.
fn is_on_gpu(path: &str) -> bool {
    path == "gpu" || path.starts_with("gpu-")
}

pub fn is_single(row: &Row) -> bool {
    row.workload.starts_with("single-") && row.elements > 0
}

/// Whether it has a time and bytes, so that a logarithm of either is a number.
fn is_sound(row: &Row) -> bool {
    row.median_s.is_finite() && row.median_s > 0.0 && row.bytes > 0
}

fn is_copy_of(row: &Row, step: &Row) -> bool {
    let of_rule = row.rule == step.rule || row.rule.is_empty();
    let on_it = row.workload == step.workload && row.device == step.device;
    // Formats differ by more; what is short is rounded by less.
    let of_bytes = row.bytes.abs_diff(step.bytes) <= step.bytes / 10;
    row.what == What::Copy && row.path != "driver-copy" && of_rule && on_it && of_bytes && is_sound(row)
}

pub fn gigabytes(row: &Row) -> f64 {
    row.bytes_per_second() / 1e9
}

fn by_length(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut points: Vec<_> = points.collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}
