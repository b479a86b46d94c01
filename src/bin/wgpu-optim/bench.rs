//! `bench`: the options, and the order of things: plan, verify, time, tell.

mod cpu;
mod crossover;
mod data;
mod device;
mod format;
mod gpu;
mod group;
mod in_turn;
mod machine;
mod narrow;
mod near;
mod outputs;
mod page;
pub mod read;
pub mod record;
mod room;
mod table;
mod timing;
mod transfer;
mod verify;
mod workload;
mod yardstick;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressStyle};

use crate::adapter;
use crate::catalog::{unknown, with_preset};
use crate::report::{Report, complain, print};
use crate::usage::usage;
use device::Clocked;
use format::FormatKind;
use group::{Group, Outcome};
use in_turn::InTurn;
use machine::Machine;
use outputs::Outputs;
use record::Record;
use timing::Effort;
use workload::{KINDS, Size, Workload};

/// Measure the step on the GPU and on the CPU, each beside plain copies of as many bytes
///
/// Every path is first held to the envelope, as by `verify`, in every element; one that is wrong is not timed, and the
/// exit code is 1. Samples of everything that is compared are taken in turn, because a machine's bandwidth drifts. A
/// step moves bytes, so its figure is a share: of the bytes per second of the fastest plain kernel on the same device.
///
/// In other formats than f32 a path is held to the codes that the plain loop makes, all but 1 % the same and no other
/// than a neighbour, and timed beside plain kernels that move as many bytes as it does: path-FORMAT in the rows.
///
/// A group is one rule on one workload. As each ends, its rows are printed and every file is written anew and put in
/// its place: a run that is stopped leaves the groups that it had measured.
#[derive(clap::Args)]
pub struct Args {
    /// Rules, with PyTorch's settings
    #[arg(long, value_name = "RULE", value_delimiter = ',', default_values = ["adam", "rmsprop"])]
    rule: Vec<String>,
    /// Workloads: single, gpt2, resnet50, splats, many-small, many-buffers, apart, or all
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_values = ["single"])]
    workload: Vec<String>,
    /// Lengths of the single tensors, as 4096, 4k or 16m in powers of 1024 [default: 1k to 64m]
    #[arg(long, value_name = "LEN", value_delimiter = ',')]
    sizes: Vec<Size>,
    /// What to step on [default: gpu,cpu, as far as there is an adapter]
    #[arg(long, value_enum, value_delimiter = ',')]
    path: Vec<PathKind>,
    /// How numbers lie; beside f32 each is told as a share of its time
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["f32"])]
    format: Vec<FormatKind>,
    /// Samples of each, 5 or more
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(5..=100_000))]
    samples: u32,
    /// Seconds for each, after which 5 samples do
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Write the rows as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write machine, command and rows as JSON, to stdout where no file is given
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Write a page with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// An adapter with these letters in its name; by default the best there is
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    adapter: Option<String>,
    /// List the workloads, and measure nothing
    #[arg(long)]
    list: bool,
    /// Time one path of one workload, so many steps for each number on stdin, for benches/peers/run.py
    #[arg(long, conflicts_with_all = ["list", "csv", "json", "html"])]
    in_turn: bool,
}

/// What a step runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum PathKind {
    /// The adapter
    Gpu,
    /// All cores
    Cpu,
    /// The plain loop that checks the others, on one core
    Twin,
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PathKind::Gpu => "gpu",
            PathKind::Cpu => "cpu",
            PathKind::Twin => "twin",
        })
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|s| (0.0..=3600.0).contains(s));
    seconds.ok_or_else(|| format!("{text:?} is no number of seconds from 0 to 3600"))
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let workloads = workloads(args)?;
    if args.list {
        return list(args, &workloads);
    }
    for rule in &args.rule {
        with_preset(rule, "pytorch", Known).unwrap_or_else(|| Err(usage!("{}", unknown(rule, "pytorch"))))?;
    }
    let outputs = args.outputs()?;
    let (paths, device) = paths(args)?;
    if args.in_turn {
        return in_turn(args, &workloads, &paths, device.as_ref());
    }
    let machine = Machine::of(device.as_ref().map(|device| &device.info));
    let record = Record { machine, command: command(), rows: Vec::new(), crossovers: Vec::new() };
    let mut told = Told { record, outputs, is_right: true };
    measure(args, &workloads, &paths, device.as_ref(), &mut told)?;
    told.finish()
}

/// What has been measured so far, where it goes, and whether every path was right.
struct Told {
    record: Record,
    outputs: Outputs,
    is_right: bool,
}

impl Told {
    /// Tells of one more group.
    fn group(&mut self, outcome: Outcome) -> Result<()> {
        outcome.refused.iter().for_each(|why| Report::default().note(format!("left out: {why}")));
        outcome.wrong.iter().for_each(|wrong| complain(&format!("error: {wrong}; it was not timed")));
        self.is_right &= outcome.wrong.is_empty();
        if !self.outputs.want_stdout() && !outcome.rows.is_empty() {
            print(&format!("{}\n", table::table(&outcome.rows)))?;
        }
        self.record.rows.extend(outcome.rows);
        self.record.crossovers = crossover::crossovers(&self.record.rows);
        self.outputs.write(&self.record)
    }

    fn finish(self) -> Result<ExitCode> {
        let Self { record, outputs, is_right } = self;
        if !outputs.want_stdout() {
            print(&table::remarks(&record.rows, &record.crossovers))?;
        }
        outputs.finish(&record)?;
        Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Args {
    fn outputs(&self) -> Result<Outputs> {
        Outputs::new(self.csv.as_deref(), self.json.as_deref(), self.html.as_deref())
    }
}

/// Accepts any rule.
struct Known;

impl crate::catalog::Job for Known {
    type Output = ();
    fn run<R: wgpu_optim::Rule>(self, _: R) -> Result<()> {
        Ok(())
    }
}

fn workloads(args: &Args) -> Result<Vec<Workload>> {
    let sizes = if args.sizes.is_empty() { Size::ladder() } else { args.sizes.clone() };
    let names: Vec<&str> = match args.list || args.workload.iter().any(|name| name == "all") {
        true => KINDS.iter().map(|(name, _)| *name).collect(),
        false => args.workload.iter().map(String::as_str).collect(),
    };
    let mut workloads: Vec<Workload> = Vec::new();
    for name in names {
        for workload in Workload::named(name, &sizes).map_err(|message| usage!("{message}"))? {
            if !workloads.contains(&workload) {
                workloads.push(workload);
            }
        }
    }
    Ok(workloads)
}

fn list(args: &Args, workloads: &[Workload]) -> Result<ExitCode> {
    if args.json.is_some() {
        args.outputs()?.write_json(&workloads)?;
        return Ok(ExitCode::SUCCESS);
    }
    let kinds = KINDS.map(|(name, about)| format!("{name:<14}{about}\n"));
    print(&kinds.concat())?;
    Ok(ExitCode::SUCCESS)
}

/// What is asked for and there, and a device where it takes one.
fn paths(args: &Args) -> Result<(Vec<PathKind>, Option<Clocked>)> {
    let default = vec![PathKind::Gpu, PathKind::Cpu];
    let mut paths = if args.path.is_empty() { default } else { args.path.clone() };
    paths.sort();
    paths.dedup();
    if !paths.contains(&PathKind::Gpu) {
        return match &args.adapter {
            Some(name) => Err(usage!("--adapter {name} asks for an adapter and --path for none")),
            None => Ok((paths, None)),
        };
    }
    let from_env = std::env::var("WGPU_ADAPTER_NAME").ok();
    match adapter::pick(args.adapter.as_deref().or(from_env.as_deref())) {
        Ok(adapter) => Ok((paths, Some(Clocked::open(&adapter)?))),
        Err(error) if args.path.is_empty() && args.adapter.is_none() => {
            Report::default().note(format!("measuring the CPU path alone: {error:#}"));
            Ok((vec![PathKind::Cpu], None))
        }
        Err(error) => Err(error),
    }
}

fn in_turn(args: &Args, workloads: &[Workload], paths: &[PathKind], device: Option<&Clocked>) -> Result<ExitCode> {
    let ([rule], [workload], [path]) = (&args.rule[..], workloads, paths) else {
        let found = format!("{} x {} x {}", args.rule.len(), workloads.len(), paths.len());
        return Err(usage!("--in-turn takes one --rule, one --workload and one --path, and these are {found}"));
    };
    if args.format != [FormatKind::F32] {
        return Err(usage!(
            "--in-turn is in f32 alone, and --format asks for {}",
            args.format.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        ));
    }
    let job = InTurn { workload, path: *path, device };
    with_preset(rule, "pytorch", job).context("the rule is known by now")??;
    Ok(ExitCode::SUCCESS)
}

/// Every rule on every workload; each group is told of when it has been measured.
fn measure(
    args: &Args,
    workloads: &[Workload],
    paths: &[PathKind],
    device: Option<&Clocked>,
    told: &mut Told,
) -> Result<()> {
    let mut formats = args.format.clone();
    formats.sort();
    formats.dedup();
    let effort = Effort { samples: args.samples as usize, seconds: args.seconds };
    let bar = progress(args.rule.len() * workloads.len());
    for rule in &args.rule {
        for workload in workloads {
            let say = |what: &str| bar.set_message(format!("{rule} {}: {what}", workload.name));
            let group = Group {
                rule,
                workload,
                paths,
                formats: &formats,
                machine: &told.record.machine,
                device,
                effort: &effort,
                say: &say,
            };
            let outcome = with_preset(rule, "pytorch", group).context("the rule is known by now")??;
            bar.suspend(|| told.group(outcome))?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn progress(groups: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:20} {pos}/{len} {elapsed} {msg}");
    let bar = ProgressBar::new(groups as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// The command line, without the place of the program.
fn command() -> String {
    let arguments = std::env::args().skip(1);
    std::iter::once("wgpu-optim".to_string()).chain(arguments).collect::<Vec<_>>().join(" ")
}
