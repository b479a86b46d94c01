//! What is asked for on the command line.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use wgpu_optim::{Chain, Clip};

use super::format::FormatKind;

/// Train a 64-32-10 network on images of digits, wholly on the device
#[derive(Parser)]
#[command(name = "train_digits", max_term_width = 100)]
pub struct Cli {
    /// The optimizer
    #[arg(long, value_enum, default_value_t = Choice::Adam)]
    pub rule: Choice,

    /// How the optimizer keeps numbers; of several, by commas, each trains the network from its start
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32")]
    pub format: Vec<FormatKind>,

    /// Steps to have taken at the end, those before a checkpoint among them
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,

    /// Steps from one checkpoint to the next
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub every: u64,

    /// The learning rate [default: the rule's, as above]
    #[arg(long)]
    pub lr: Option<f64>,

    /// Hold the norm of all gradients to this, as clip_grad_norm_ does
    #[arg(long, value_name = "MAX")]
    pub clip: Option<f64>,

    /// Where the curve goes, loss.svg and loss.csv
    #[arg(long, value_name = "DIR", default_value = "target/train_digits")]
    pub out: PathBuf,

    /// The checkpoint of one format [default: checkpoint.safetensors in the folder of --out; of several formats
    /// checkpoint-FORMAT.safetensors]
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,

    /// Go on from the checkpoint, if there is one
    #[arg(long)]
    pub resume: bool,
}

impl Cli {
    /// What is done around each update.
    pub fn chain(&self) -> Chain {
        Chain { clip: self.clip.map(Clip::global_norm), ..Chain::default() }
    }

    /// Where the checkpoint of a format lies. Several formats have one each.
    pub fn checkpoint_of(&self, format: FormatKind) -> PathBuf {
        let own = self.one_or("checkpoint.safetensors".into(), format!("checkpoint-{format}.safetensors"));
        self.checkpoint.clone().unwrap_or_else(|| self.out.join(own))
    }

    /// What is trained, and on what.
    pub fn title(&self, adapter: &str) -> String {
        let format = match self.format[..] {
            [FormatKind::F32] => String::new(),
            [format] => format!(", {format}"),
            _ => ", by format".into(),
        };
        format!("{}{format}, {} steps on {adapter}", self.rule.name(), self.steps)
    }

    /// The one for one format, the other for several.
    pub fn one_or<T>(&self, one: T, several: T) -> T {
        if self.format.len() == 1 { one } else { several }
    }

    /// Refuses formats that would write the same file.
    pub fn check_formats(&self) -> Result<(), clap::Error> {
        let twice = (1..self.format.len()).find(|&i| self.format[..i].contains(&self.format[i]));
        if let Some(twice) = twice {
            let message = format!("--format names {} twice", self.format[twice]);
            return Err(Self::command().error(ErrorKind::ValueValidation, message));
        }
        if self.checkpoint.is_some() && self.format.len() > 1 {
            let message = format!("--checkpoint is one file, but --format names {} formats", self.format.len());
            return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        }
        Ok(())
    }

    /// Refuses a run that is over before it goes on.
    pub fn check_steps(&self, taken: u64) -> Result<(), clap::Error> {
        let steps = self.steps;
        if steps >= taken {
            return Ok(());
        }
        let message =
            format!("--steps is {steps}, but the checkpoint has taken {taken} already; ask for {taken} or more");
        Err(Self::command().error(ErrorKind::ValueValidation, message))
    }
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Choice {
    /// PyTorch's Adam, lr 0.01
    Adam,
    /// PyTorch's RMSprop, lr 0.001
    Rmsprop,
    /// The textbook's RMSprop, lr 0.001
    RmspropArticle,
}

impl Choice {
    /// As it is typed.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
    }
}
