//! `apply`: the job.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use serde_json::json;
use wgpu_optim::Rule;

use crate::adapter::{Choice, Kind};
use crate::catalog::{Job, unknown, with_preset};
use crate::config::{Config, ConfigFile};
use crate::explain;
use crate::inputs::{Inputs, Member};
use crate::output::{Output, check_paths, commit};
use crate::report::{Report, count, print, print_json};
use crate::safetensors::Archive;
use crate::state::{self, Saved, slots_of};
use crate::stepper::{self, Stepper};
use crate::usage::usage;

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
    #[arg(long, value_name = "FILE", required_unless_present = "explain")]
    out_params: Option<PathBuf>,
    /// The state of an earlier run, to go on from
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Where the state goes, to go on from later
    #[arg(long, value_name = "FILE")]
    out_state: Option<PathBuf>,
    /// What to step on
    #[arg(long, value_enum, default_value_t = Kind::Auto)]
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
        let inputs = Inputs::open(&args.params, &args.grads)?;
        let members = inputs.members(&config);
        let saved = args.state.as_ref().map(|path| Saved::open(path, &inputs, &config)).transpose()?;
        let mut report = Report::default();
        warn_of_idle_groups(&config, &inputs, &mut report);
        for difference in saved.iter().flat_map(|saved| &saved.differences) {
            report.note(difference);
        }
        let choice = Choice::make(args.device, args.adapter.as_deref(), &report)?;
        if args.explain {
            explain::print(&config, &inputs, &members, &choice, args.json)?;
        } else {
            Task { args, config, inputs, members, saved, choice, report }.run()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A group that takes no tensor is most likely a slip of its regex.
fn warn_of_idle_groups<R: Rule>(config: &Config<R>, inputs: &Inputs, report: &mut Report) {
    for (number, group) in config.groups.iter().enumerate() {
        let Some(pattern) = &group.pattern else { continue };
        let mut names = inputs.params.names();
        let why = if names.any(|name| config.group_of(name) == number) {
            continue;
        } else if inputs.params.names().any(|name| pattern.is_match(name)) {
            "matches only tensors that an earlier group takes"
        } else {
            "matches no tensor"
        };
        report.warn(format!("{}: {} {why}", config.path.display(), config.group_name(number)));
    }
}

/// A job that has been checked.
struct Task<'a, R> {
    args: &'a Args,
    config: Config<R>,
    inputs: Inputs,
    members: Vec<Member>,
    saved: Option<Saved>,
    choice: Choice,
    report: Report,
}

impl<R: Rule> Task<'_, R> {
    fn run(mut self) -> Result<()> {
        let start = Instant::now();
        // Made before the work, so that a directory that cannot be written to is found before it.
        let create = |path: &Option<PathBuf>| path.as_deref().map(Output::create).transpose();
        let mut params = create(&self.args.out_params)?;
        let mut state = create(&self.args.out_state)?;
        let mut stepper = stepper::build(&self.choice, &self.config, &self.members)?;
        self.load(stepper.as_mut())?;
        self.step_all(stepper.as_mut())?;
        if let Some(output) = &mut params {
            output.fill(|sink| self.write_params(stepper.as_ref(), sink))?;
        }
        if let Some(output) = &mut state {
            let Self { config, inputs, members, saved, .. } = &self;
            output.fill(|sink| state::write(sink, config, inputs, members, saved.as_ref(), stepper.as_ref()))?;
        }
        commit(params.into_iter().chain(state).collect())?;
        self.tell(start.elapsed().as_secs_f64())
    }

    /// Parameters, and the state that was saved of them.
    fn load(&self, stepper: &mut dyn Stepper<R>) -> Result<()> {
        let params = &self.inputs.params;
        for (tensor, Member { name, group, .. }) in self.members.iter().enumerate() {
            if let Some(entry) = params.get(name) {
                stepper.set_params(tensor, params.values(entry)?)?;
            }
            if let Some(saved) = &self.saved
                && let Some(step) = saved.step_of(name)
            {
                stepper.set_step(tensor, step)?;
                for slot in slots_of(&self.config.groups[*group].steps[0]) {
                    stepper.set_state(tensor, slot, saved.values(name, slot)?)?;
                }
            }
        }
        Ok(())
    }

    fn step_all(&mut self, stepper: &mut dyn Stepper<R>) -> Result<()> {
        let bar = progress(self.inputs.grads.len() as u64);
        let mut not_finite = NotFinite::default();
        for step in 0..self.inputs.grads.len() {
            self.retune(stepper, step)?;
            let absent = self.load_gradients(stepper, step, &mut not_finite)?;
            stepper.step(&absent)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        not_finite.tell(&mut self.report);
        Ok(())
    }

    fn retune(&self, stepper: &mut dyn Stepper<R>, step: usize) -> Result<()> {
        for (number, group) in self.config.groups.iter().enumerate() {
            if step > 0 && group.steps[step] != group.steps[step - 1] {
                stepper.retune(number, group.steps[step].clone())?;
            }
        }
        Ok(())
    }

    /// Returns the tensors that have no gradient in this step.
    fn load_gradients(
        &mut self,
        stepper: &mut dyn Stepper<R>,
        step: usize,
        not_finite: &mut NotFinite,
    ) -> Result<Vec<usize>> {
        let grads = Inputs::open_grads(&self.inputs.params, &self.inputs.grads[step])?;
        let mut absent = Vec::new();
        for (tensor, member) in self.members.iter().enumerate() {
            match grads.get(&member.name) {
                None => absent.push(tensor),
                Some(entry) => {
                    let values = grads.values(entry)?;
                    not_finite.count(&values, &grads, &member.name);
                    stepper.set_gradient(tensor, values)?;
                }
            }
        }
        if absent.len() == self.members.len() {
            self.report.warn(format!("{}: no gradients, so step {} changes nothing", grads.path(), step + 1));
        }
        Ok(absent)
    }

    /// The input's header as it is, and the data: stepped, or as they were.
    fn write_params(&self, stepper: &dyn Stepper<R>, sink: &mut dyn Write) -> Result<()> {
        let params = &self.inputs.params;
        let numbers: HashMap<&str, usize> =
            self.members.iter().enumerate().map(|(tensor, member)| (member.name.as_str(), tensor)).collect();
        sink.write_all(params.head())?;
        for entry in params.entries() {
            match numbers.get(entry.name.as_str()) {
                Some(&tensor) => stepper.write_params(tensor, sink)?,
                None => params.copy(entry, sink)?,
            }
        }
        Ok(())
    }

    fn tell(&self, seconds: f64) -> Result<()> {
        let elements: u64 = self.members.iter().map(|member| member.len).sum();
        let (tensors, steps) = (self.members.len() as u64, self.inputs.grads.len() as u64);
        let Config { rule, preset, .. } = &self.config;
        if self.args.json {
            return print_json(&json!({
                "tensors": tensors,
                "elements": elements,
                "steps": steps,
                "rule": rule,
                "preset": preset,
                "device": self.choice.to_json(),
                "seconds": seconds,
                "out_params": self.args.out_params,
                "out_state": self.args.out_state,
                "warnings": self.report.warnings(),
            }));
        }
        print(&format!(
            "{} ({}), {} of {rule} ({preset}) on {} in {seconds:.3} s\n",
            count(tensors, "tensor"),
            count(elements, "element"),
            count(steps, "step"),
            self.choice.describe(),
        ))
    }
}

/// A bar on a terminal, nothing elsewhere.
fn progress(steps: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_bar} step {pos} of {len}");
    // An error on the way takes the bar from the screen before it is told.
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_finish(ProgressFinish::AndClear)
}

/// Gradients that are no numbers. They are stepped with as the framework would, so somebody should know.
#[derive(Default)]
struct NotFinite {
    nan: u64,
    infinite: u64,
    first: Option<String>,
}

impl NotFinite {
    fn count(&mut self, values: &[f32], grads: &Archive, name: &str) {
        let nan = values.iter().filter(|value| value.is_nan()).count() as u64;
        let infinite = values.iter().filter(|value| value.is_infinite()).count() as u64;
        if nan + infinite > 0 {
            self.first.get_or_insert_with(|| format!("{name:?} of {}", grads.path()));
        }
        self.nan += nan;
        self.infinite += infinite;
    }

    fn tell(&self, report: &mut Report) {
        if let Some(first) = &self.first {
            let (nan, infinite) = (self.nan, self.infinite);
            report.warn(format!("the gradients hold {nan} NaN and {infinite} infinite values, first in {first}"));
        }
    }
}
