//! Trains a small network on images of handwritten digits, all of it on the device: forward, backward and the
//! optimizer's step are one encoder, and nothing is read back but the loss, some steps late.
//!
//!     cargo run --release --example train_digits -- --rule adam --steps 200
//!
//! Killed, and started again with `--resume`, it goes on from its last checkpoint. What to read first: `training.rs`,
//! the loop's one step; then `model.rs`, whose parameters and gradients lie in a `wgpu_optim::Arena`.

pub mod checkpoint;
pub mod curve;
pub mod data;
pub mod kernel;
pub mod model;
pub mod output;
pub mod telemetry;
pub mod training;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use wgpu_optim::{Adam, RmsProp, Rule, wgpu};

use curve::Curve;
use telemetry::Sample;
use training::Training;

/// Train a 64-32-10 network on images of digits, wholly on the device
#[derive(Parser)]
#[command(name = "train_digits", max_term_width = 100)]
pub struct Cli {
    /// The optimizer
    #[arg(long, value_enum, default_value_t = Choice::Adam)]
    rule: Choice,

    /// Steps to have taken at the end, those before a checkpoint among them
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,

    /// Steps from one checkpoint to the next
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,

    /// Where the curve goes, loss.svg and loss.csv
    #[arg(long, value_name = "DIR", default_value = "target/train_digits")]
    out: PathBuf,

    /// The checkpoint [default: checkpoint.safetensors in the folder of --out]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,

    /// Go on from the checkpoint, if there is one
    #[arg(long)]
    resume: bool,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Choice {
    /// PyTorch's Adam, lr 0.01
    Adam,
    /// PyTorch's RMSprop, lr 0.001
    Rmsprop,
    /// The textbook's RMSprop, lr 0.001
    RmspropArticle,
}

/// Exit codes: 0 done, 1 the job failed, 2 wrong usage.
fn main() -> ExitCode {
    let Err(error) = run(&Cli::parse()) else { return ExitCode::SUCCESS };
    match error.downcast::<clap::Error>() {
        Ok(usage) => usage.exit(),
        Err(error) => eprintln!("error: {error:#}"),
    }
    ExitCode::FAILURE
}

/// Does what was asked for.
pub fn run(cli: &Cli) -> Result<()> {
    match cli.rule {
        Choice::Adam => train(cli, Adam { lr: 0.01, ..Adam::PYTORCH }),
        Choice::Rmsprop => train(cli, RmsProp { lr: 0.001, ..RmsProp::PYTORCH }),
        Choice::RmspropArticle => train(cli, RmsProp::ARTICLE),
    }
}

fn train<R: Rule>(cli: &Cli, settings: R) -> Result<()> {
    let (device, queue, adapter) = open()?;
    let mut training = Training::new(&device, &queue, settings)?;
    let files = Files::new(cli)?;
    let mut curve = if cli.resume { files.resume(&mut training)? } else { Curve::default() };
    let first = training.steps()?;
    check_steps(cli.steps, first)?;
    let began = Instant::now();
    advance(cli, &files, &mut training, &mut curve)?;
    let speed = (cli.steps - first) as f64 / began.elapsed().as_secs_f64();
    let last = training.evaluate()?;
    curve.extend([last]);
    let title = format!("{}, {} steps on {adapter}", files.rule, cli.steps);
    files.write_curve(&curve, &title)?;
    println!("{title}, {speed:.0} a second");
    println!("loss {:.6}, accuracy {:.2} %", last.loss, 100.0 * last.accuracy);
    println!("the curve lies in {}", files.svg.display());
    Ok(())
}

/// Steps to the end, and saves on the way.
fn advance<R: Rule>(cli: &Cli, files: &Files, training: &mut Training<R>, curve: &mut Curve) -> Result<()> {
    let first = training.steps()?;
    let bar = progress(cli.steps, first);
    for step in first + 1..=cli.steps {
        let arrived = training.step()?;
        show(&bar, &arrived);
        curve.extend(arrived);
        if step % cli.every == 0 || step == cli.steps {
            let arrived = training.drain()?;
            show(&bar, &arrived);
            curve.extend(arrived);
            files.save(training, curve)?;
        }
    }
    Ok(())
}

/// The adapter's name and a device on it, at WebGPU's default limits. `WGPU_BACKEND` is heard.
fn open() -> Result<(wgpu::Device, wgpu::Queue, String)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let options =
        wgpu::RequestAdapterOptions { power_preference: wgpu::PowerPreference::HighPerformance, ..Default::default() };
    let adapter = pollster::block_on(instance.request_adapter(&options))
        .context("no adapter to train on; scripts/setup.sh installs a software one")?;
    let name = adapter.get_info().name;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))
        .with_context(|| format!("cannot open {name}"))?;
    Ok((device, queue, name))
}

fn check_steps(steps: u64, taken: u64) -> Result<()> {
    if steps >= taken {
        return Ok(());
    }
    let message = format!("--steps is {steps}, but the checkpoint has taken {taken} already; ask for {taken} or more");
    Err(Cli::command().error(ErrorKind::ValueValidation, message).into())
}

fn progress(steps: u64, taken: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {per_sec}  {msg}");
    let bar = ProgressBar::new(steps).with_position(taken);
    bar.reset_eta();
    // An error on the way takes the bar from the screen before it is told.
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_finish(ProgressFinish::AndClear)
}

fn show(bar: &ProgressBar, arrived: &[Sample]) {
    if let Some(sample) = arrived.last() {
        bar.set_position(sample.step + 1);
        bar.set_message(format!("loss {:.4}", sample.loss));
    }
}

/// What a run leaves.
struct Files {
    rule: String,
    checkpoint: PathBuf,
    csv: PathBuf,
    svg: PathBuf,
}

impl Files {
    fn new(cli: &Cli) -> Result<Self> {
        fs::create_dir_all(&cli.out).with_context(|| format!("cannot make {}", cli.out.display()))?;
        let place = |name: &str| cli.out.join(name);
        let rule = cli.rule.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default();
        let checkpoint = cli.checkpoint.clone().unwrap_or_else(|| place("checkpoint.safetensors"));
        Ok(Self { rule, checkpoint, csv: place("loss.csv"), svg: place("loss.svg") })
    }

    /// The curve first: it may be ahead of the checkpoint, never behind it.
    fn save<R: Rule>(&self, training: &Training<R>, curve: &Curve) -> Result<()> {
        curve.write(&self.csv)?;
        checkpoint::save(&self.checkpoint, &self.rule, training)
    }

    /// Goes on from the checkpoint, and returns the curve up to there. A run that was killed before its first one
    /// starts again.
    fn resume<R: Rule>(&self, training: &mut Training<R>) -> Result<Curve> {
        if !self.checkpoint.exists() {
            eprintln!("note: there is no {} yet, so this starts at step 0", self.checkpoint.display());
            return Ok(Curve::default());
        }
        checkpoint::load(&self.checkpoint, &self.rule, training)?;
        Curve::read(&self.csv, training.steps()?)
    }

    fn write_curve(&self, curve: &Curve, title: &str) -> Result<()> {
        curve.write(&self.csv)?;
        curve.draw(&self.svg, title)
    }
}
