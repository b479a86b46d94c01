//! `apply`: the job.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use wgpu_optim::Rule;

use crate::adapter::{Choice, Kind};
use crate::catalog::{Job, with_preset};
use crate::config::{Config, ConfigFile};
use crate::explain;
use crate::inputs::{Inputs, Member};
use crate::output::{Output, check_paths, commit};
use crate::report::{Report, count, print, print_json};
use crate::safetensors::Archive;
use crate::state::{self, Saved, slots_of};
use crate::stepper::{self, Stepper};
use crate::usage::{Usage, usage};

/// Step parameters with gradients, one file of gradients for each step
///
/// Every file is a safetensors file. A parameter that a file of gradients does not name has no gradient in that
/// step; one that none of them names comes through unchanged.
#[derive(clap::Args)]
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
    #[arg(long, value_name = "FILE", required_unless_present = "explain")]
    out_params: Option<PathBuf>,
    /// The state of an earlier run, to go on from
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Where the state goes, to go on from later
    #[arg(long, value_name = "FILE")]
    out_state: Option<PathBuf>,
    /// What to step on
    #[arg(long, value_enum, default_value_t = Kind::Auto, hide_possible_values = false)]
    device: Kind,
    /// Step on the adapter with these letters in its name
    #[arg(long, value_name = "NAME")]
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
        let outputs = [("--out-params", &self.out_params), ("--out-state", &self.out_state)];
        let outputs: Vec<(&str, &Path)> =
            outputs.iter().filter_map(|(option, path)| Some((*option, path.as_deref()?))).collect();
        check_paths(&inputs, &outputs)
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    args.check_paths()?;
    let file = ConfigFile::read(&args.config)?;
    let shown = args.config.display();
    with_preset(&file.rule, &file.preset, Apply { args, file: &file }).map_err(|error| {
        // The search for a rule does not know which file named it.
        match error.downcast::<Usage>() {
            Ok(Usage(why)) if !why.starts_with(&shown.to_string()) => usage!("{shown}: {why}"),
            Ok(other) => other.into(),
            Err(error) => error,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
