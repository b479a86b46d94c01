//! Trains a small network on images of handwritten digits, all of it on the device: forward, backward and the
//! optimizer's step are one encoder, and nothing is read back but the loss, some steps late.
//!
//!     cargo run --release --example train_digits -- --rule adam --steps 200
//!
//! Killed, and started again with `--resume`, it goes on from its last checkpoint. What to read first: `training.rs`,
//! the loop's one step; then `checkpoint.rs`, which saves and goes on; then `model.rs`, whose parameters and gradients
//! lie in a `wgpu_optim::Arena`; then `halves.rs`, which has an optimizer step 16 bits where the network reads 32:
//!
//!     cargo run --release --example train_digits -- --lr 3e-4 --format f32,bf16,bf16-kahan

pub mod activations;
pub mod checkpoint;
pub mod cli;
pub mod curve;
pub mod data;
pub mod device;
pub mod files;
pub mod format;
pub mod halves;
pub mod kernel;
pub mod layer;
pub mod loss;
pub mod model;
pub mod plot;
pub mod progress;
pub mod telemetry;
pub mod training;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use wgpu_optim::{Adam, RmsProp, Rule};

use cli::{Choice, Cli};
use curve::Curve;
use files::{Drawn, Saved};
use format::FormatKind;
use training::Training;

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
    cli.check_formats()?;
    match cli.rule {
        Choice::Adam => train_all(cli, Adam { lr: cli.lr.unwrap_or(0.01), ..Adam::PYTORCH }),
        Choice::Rmsprop => train_all(cli, RmsProp { lr: cli.lr.unwrap_or(0.001), ..RmsProp::PYTORCH }),
        Choice::RmspropArticle => {
            train_all(cli, RmsProp { lr: cli.lr.unwrap_or(RmsProp::ARTICLE.lr), ..RmsProp::ARTICLE })
        }
    }
}

/// Trains the network in each format, and draws what came of it.
fn train_all<R: Rule>(cli: &Cli, settings: R) -> Result<()> {
    let (device, queue, adapter) = device::open()?;
    let drawn = Drawn::new(&cli.out)?;
    let saved = cli.format.iter().map(|&format| Saved::new(&cli.rule.name(), cli.checkpoint_of(format)));
    let saved = saved.collect::<Result<Vec<_>>>()?;
    println!("{}", cli.title(&adapter));
    let mut curves = Vec::new();
    for (&format, saved) in cli.format.iter().zip(&saved) {
        let training = Training::new(&device, &queue, settings.clone(), cli.chain(), &format.formats())?;
        curves.push((format.to_string(), train(cli, format, saved, training)?));
    }
    let svg = drawn.write(&curves, &cli.title(&adapter))?.display();
    println!("{} {svg}", cli.one_or("the curve lies in", "the curves lie in"));
    Ok(())
}

/// Trains to the end, and tells how it went.
fn train<R: Rule>(cli: &Cli, format: FormatKind, saved: &Saved, mut training: Training<R>) -> Result<Curve> {
    let mut curve = if cli.resume { saved.resume(&mut training)? } else { saved.start() };
    cli.check_steps(training.steps()?)?;
    let speed = advance(cli, saved, &mut training, &mut curve)?;
    let last = training.evaluate()?;
    curve.extend([last]);
    let name = cli.one_or(String::new(), format!("{format}: "));
    println!("{name}loss {:.6}, accuracy {:.2} %{speed}", last.loss, 100.0 * last.accuracy);
    match training.telemetry.dropped() {
        0 => {}
        dropped => println!("its curve lacks {dropped} losses, which found no room on their way"),
    }
    Ok(curve)
}

/// Steps to the end, and saves on the way. Returns how fast it was, to be told.
fn advance<R: Rule>(cli: &Cli, saved: &Saved, training: &mut Training<R>, curve: &mut Curve) -> Result<String> {
    let (first, began) = (training.steps()?, Instant::now());
    let bar = progress::bar(cli.steps, first);
    for step in first + 1..=cli.steps {
        let mut arrived = training.step()?;
        let saves = step % cli.every == 0 || step == cli.steps;
        if saves {
            arrived.extend(training.drain()?);
        }
        progress::show(&bar, &arrived);
        curve.extend(arrived);
        if saves {
            saved.save(training, curve)?;
        }
    }
    Ok(match cli.steps - first {
        0 => ", which was there already".into(),
        taken => format!(", {:.0} steps a second", taken as f64 / began.elapsed().as_secs_f64()),
    })
}
