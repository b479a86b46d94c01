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
pub mod device;
pub mod files;
pub mod kernel;
pub mod model;
pub mod output;
pub mod telemetry;
pub mod training;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use wgpu_optim::{Adam, Chain, Clip, RmsProp, Rule};

use curve::Curve;
use files::Files;
use telemetry::Sample;
use training::Training;

/// Train a 64-32-10 network on images of digits, wholly on the device
#[derive(Parser)]
#[command(name = "train_digits", max_term_width = 100)]
struct Cli {
    /// The optimizer
    #[arg(long, value_enum, default_value_t = Choice::Adam)]
    rule: Choice,

    /// Steps to have taken at the end, those before a checkpoint among them
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,

    /// Steps from one checkpoint to the next
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,

    /// Hold the norm of all gradients to this, as clip_grad_norm_ does
    #[arg(long, value_name = "MAX")]
    clip: Option<f64>,

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

impl Choice {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
    }
}

fn main() -> ExitCode {
    start(std::env::args_os())
}

/// Does what was asked for. Exit codes: 0 done, 1 the job failed, 2 wrong usage.
pub fn start(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let done = Cli::try_parse_from(args).map_err(anyhow::Error::from).and_then(|cli| run(&cli));
    let Err(error) = done else { return ExitCode::SUCCESS };
    match error.downcast::<clap::Error>() {
        Ok(usage) => usage.exit(),
        Err(error) => eprintln!("error: {error:#}"),
    }
    ExitCode::FAILURE
}

fn run(cli: &Cli) -> Result<()> {
    match cli.rule {
        Choice::Adam => train(cli, Adam { lr: 0.01, ..Adam::PYTORCH }),
        Choice::Rmsprop => train(cli, RmsProp { lr: 0.001, ..RmsProp::PYTORCH }),
        Choice::RmspropArticle => train(cli, RmsProp::ARTICLE),
    }
}

fn train<R: Rule>(cli: &Cli, settings: R) -> Result<()> {
    let (device, queue, adapter) = device::open()?;
    let chain = Chain { clip: cli.clip.map(Clip::global_norm), ..Chain::default() };
    let mut training = Training::new(&device, &queue, settings, chain)?;
    let rule = cli.rule.name();
    let files = Files::new(&rule, &cli.out, cli.checkpoint.as_deref())?;
    let mut curve = if cli.resume { files.resume(&mut training)? } else { Curve::default() };
    let first = training.steps()?;
    check_steps(cli.steps, first)?;
    let began = Instant::now();
    advance(cli, &files, &mut training, &mut curve)?;
    let speed = (cli.steps - first) as f64 / began.elapsed().as_secs_f64();
    let last = training.evaluate()?;
    curve.extend([last]);
    let title = format!("{rule}, {} steps on {adapter}", cli.steps);
    let drawn = files.write_curve(&curve, &title)?;
    println!("{title}");
    println!("loss {:.6}, accuracy {:.2} %, {speed:.0} steps a second", last.loss, 100.0 * last.accuracy);
    println!("the curve lies in {}", drawn.display());
    match training.telemetry.dropped() {
        0 => {}
        dropped => println!("it lacks {dropped} losses, which found no room on their way"),
    }
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

fn check_steps(steps: u64, taken: u64) -> Result<()> {
    if steps >= taken {
        return Ok(());
    }
    let message = format!("--steps is {steps}, but the checkpoint has taken {taken} already; ask for {taken} or more");
    Err(Cli::command().error(ErrorKind::ValueValidation, message).into())
}

fn progress(steps: u64, taken: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} step {pos} of {len}  {msg}");
    let bar = ProgressBar::new(steps).with_position(taken);
    // An error on the way takes the bar from the screen before it is told.
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_finish(ProgressFinish::AndClear)
}

fn show(bar: &ProgressBar, arrived: &[Sample]) {
    if let Some(sample) = arrived.last() {
        bar.set_position(sample.step + 1);
        bar.set_message(format!("loss {:.4}", sample.loss));
    }
}
