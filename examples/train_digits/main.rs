//! Trains a small network on images of handwritten digits, all of it on the device: forward, backward and the
//! optimizer's step are one encoder, and nothing is read back but the loss, some steps late.
//!
//!     cargo run --release --example train_digits -- --rule adam --steps 200
//!
//! Killed, and started again with `--resume`, it goes on from its last checkpoint. What to read first: `training.rs`,
//! the loop's one step; then `checkpoint.rs`, which saves and goes on; then `model.rs`, whose parameters and gradients
//! lie in a `wgpu_optim::Arena`.

pub mod activations;
pub mod checkpoint;
pub mod cli;
pub mod curve;
pub mod data;
pub mod device;
pub mod files;
pub mod kernel;
pub mod layer;
pub mod loss;
pub mod model;
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
use files::Files;
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
    match cli.rule {
        Choice::Adam => train(cli, Adam { lr: 0.01, ..Adam::PYTORCH }),
        Choice::Rmsprop => train(cli, RmsProp { lr: 0.001, ..RmsProp::PYTORCH }),
        Choice::RmspropArticle => train(cli, RmsProp::ARTICLE),
    }
}

fn train<R: Rule>(cli: &Cli, settings: R) -> Result<()> {
    let (device, queue, adapter) = device::open()?;
    let mut training = Training::new(&device, &queue, settings, cli.chain())?;
    let files = Files::new(&cli.rule.name(), &cli.out, cli.checkpoint.as_deref())?;
    let mut curve = if cli.resume { files.resume(&mut training)? } else { files.start() };
    cli.check_steps(training.steps()?)?;
    let speed = advance(cli, &files, &mut training, &mut curve)?;
    let last = training.evaluate()?;
    curve.extend([last]);
    let title = format!("{}, {} steps on {adapter}", cli.rule.name(), cli.steps);
    let drawn = files.write_curve(&curve, &title)?;
    println!("{title}");
    println!("loss {:.6}, accuracy {:.2} %{speed}", last.loss, 100.0 * last.accuracy);
    println!("the curve lies in {}", drawn.display());
    match training.telemetry.dropped() {
        0 => {}
        dropped => println!("it lacks {dropped} losses, which found no room on their way"),
    }
    Ok(())
}

/// Steps to the end, and saves on the way. Returns how fast it was, to be told.
fn advance<R: Rule>(cli: &Cli, files: &Files, training: &mut Training<R>, curve: &mut Curve) -> Result<String> {
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
            files.save(training, curve)?;
        }
    }
    Ok(match cli.steps - first {
        0 => ", which was there already".into(),
        taken => format!(", {:.0} steps a second", taken as f64 / began.elapsed().as_secs_f64()),
    })
}
