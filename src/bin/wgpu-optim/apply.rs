//! `apply`: the options, and everything that is checked before the job begins.

mod gradients;
mod skips;
mod task;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;
use wgpu_optim::Rule;
use wgpu_optim::format::{Format, Rounding};

use crate::adapter::{Choice, Kind};
use crate::catalog::{Job, unknown, with_preset};
use crate::config::format::FormatKeys;
use crate::config::{Config, ConfigFile};
use crate::explain::Explanation;
use crate::inputs::{Inputs, Member};
use crate::output::check_paths;
use crate::report::Report;
use crate::state::Saved;
use crate::usage::usage;
use task::Task;

/// Step parameters with gradients, one file of gradients for each step
///
/// Every file is a safetensors file. A parameter that a file of gradients does not name has no gradient in that
/// step; one that none of them names comes through unchanged.
#[derive(clap::Args)]
#[command(override_usage = "wgpu-optim apply --config FILE --params FILE --grads FILE... --out-params FILE [OPTIONS]")]
pub struct Args {
    /// The rule and its settings, as TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The parameters
    #[arg(long, value_name = "FILE")]
    params: PathBuf,
    /// The gradients of each step, in order; give it once or more
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "explain")]
    grads: Vec<PathBuf>,
    /// Where the stepped parameters go
    ///
    /// An output takes its name when all of them are whole. Until then it lies beside it as `.NAME.*.partial`, which
    /// a run that is killed leaves behind; it may be deleted.
    #[arg(long, value_name = "FILE", required_unless_present = "explain")]
    out_params: Option<PathBuf>,
    /// The state of an earlier run, to go on from
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Where the state goes, to go on from later
    #[arg(long, value_name = "FILE")]
    out_state: Option<PathBuf>,
    /// Where the averages of the parameters go; for a config with a table [ema]
    #[arg(long, value_name = "FILE")]
    out_ema: Option<PathBuf>,
    /// What to step on
    #[arg(long, value_enum, default_value_t = Kind::Auto)]
    device: Kind,
    /// Step on the adapter with these letters in its name
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    adapter: Option<String>,
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
    /// Print the formulas and the launch plan, and step nothing
    #[arg(long)]
    explain: bool,
}

impl Args {
    fn check_paths(&self) -> Result<()> {
        let mut inputs: Vec<&Path> = vec![&self.config, &self.params];
        inputs.extend(self.grads.iter().map(PathBuf::as_path));
        inputs.extend(self.state.as_deref());
        let outputs =
            [("--out-params", &self.out_params), ("--out-state", &self.out_state), ("--out-ema", &self.out_ema)];
        let outputs: Vec<(&str, &Path)> =
            outputs.iter().filter_map(|(option, path)| Some((*option, path.as_deref()?))).collect();
        check_paths(&inputs, &outputs)
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    args.check_paths()?;
    let file = ConfigFile::read(&args.config)?;
    let done = with_preset(&file.rule, &file.preset, Apply { args, file: &file });
    done.unwrap_or_else(|| Err(usage!("{}: {}", args.config.display(), unknown(&file.rule, &file.preset))))
}

struct Apply<'a> {
    args: &'a Args,
    file: &'a ConfigFile,
}

impl Job for Apply<'_> {
    type Output = ExitCode;

    fn run<R: Rule>(self, preset: R) -> Result<ExitCode> {
        let Self { args, file } = self;
        let config = file.resolve(&preset, args.grads.len())?;
        if args.out_ema.is_some() && config.chain.ema.is_none() {
            return Err(usage!("--out-ema: {} has no table [ema], so no averages are kept", args.config.display()));
        }
        let inputs = Inputs::open(&args.params, &args.grads)?;
        let members = inputs.members(&config)?;
        let saved = args.state.as_ref().map(|path| Saved::open(path, &inputs, &members, &config)).transpose()?;
        let mut report = Report::default();
        warn_of_idle_groups(&config, &inputs, &mut report);
        warn_of_idle_formats(&config, &members, &mut report);
        for difference in saved.iter().flat_map(|saved| &saved.differences) {
            report.note(difference);
        }
        let choice = Choice::make(args.device, args.adapter.as_deref(), &report)?;
        if args.explain {
            let (config, inputs, members, choice) = (&config, &inputs, &members, &choice);
            Explanation { config, inputs, members, choice }.print(args.json)?;
        } else {
            Task { args, config, inputs, members, saved, choice, report }.run()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A key of `[format]`, whether it is said, and whether it does nothing for a tensor.
type FormatKey = (&'static str, fn(&FormatKeys) -> bool, fn(&Member) -> bool);

const FORMAT_KEYS: [FormatKey; 3] = [
    ("master = true", |keys| keys.master == Some(true), is_wide),
    ("rounding = \"kahan\"", |keys| keys.rounding == Some(Rounding::Kahan), is_wide),
    (
        "rounding = \"stochastic\"",
        |keys| keys.rounding == Some(Rounding::Stochastic),
        |member| member.formats.is_plain(),
    ),
];

fn is_wide(member: &Member) -> bool {
    member.formats.params == Format::F32
}

/// What is said of 16 bits, and of chance, where there are none, is most likely a slip.
fn warn_of_idle_formats<R: Rule>(config: &Config<R>, members: &[Member], report: &mut Report) {
    for (key, is_said, is_idle) in FORMAT_KEYS {
        let mut own = members.iter().filter(|member| is_said(&config.groups[member.group].format)).peekable();
        if own.peek().is_some() && own.all(is_idle) {
            let path = config.path.display();
            report.warn(format!("{path}: [format] {key} does nothing: the tensors that it is said of are F32"));
        }
    }
}

/// A group that takes no tensor is most likely a slip of its regex.
fn warn_of_idle_groups<R: Rule>(config: &Config<R>, inputs: &Inputs, report: &mut Report) {
    let used: BTreeSet<usize> = inputs.params.names().map(|name| config.group_of(name)).collect();
    for (number, group) in config.groups.iter().enumerate().filter(|(number, _)| !used.contains(number)) {
        let Some(pattern) = &group.pattern else { continue };
        let why = if inputs.params.names().any(|name| pattern.is_match(name)) {
            "matches only tensors that an earlier group takes"
        } else {
            "matches no tensor"
        };
        report.warn(format!("{}: {} {why}", config.path.display(), config.group_name(number)));
    }
}
