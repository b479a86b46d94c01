//! A job that has been checked, and is done.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use serde_json::json;
use wgpu_optim::Rule;

use super::Args;
use super::gradients::Gradients;
use super::skips::Skips;
use crate::adapter::Choice;
use crate::config::Config;
use crate::inputs::{Inputs, Member};
use crate::numbers::Numbers;
use crate::output::{Output, commit};
use crate::report::{Report, count, print, print_json};
use crate::state::{self, Saved, average};
use crate::stepper::{self, Stepper};

/// What was asked for, with every file open and every number known.
pub struct Task<'a, R> {
    pub args: &'a Args,
    pub config: Config<R>,
    pub inputs: Inputs,
    pub members: Vec<Member>,
    pub saved: Option<Saved>,
    pub choice: Choice,
    pub report: Report,
}

impl<R: Rule> Task<'_, R> {
    pub fn run(mut self) -> Result<()> {
        let start = Instant::now();
        // Made before the work, so that a directory that cannot be written to is found before it.
        let create = |path: &Option<PathBuf>| path.as_deref().map(Output::create).transpose();
        let mut params = create(&self.args.out_params)?;
        let mut state = create(&self.args.out_state)?;
        let mut ema = create(&self.args.out_ema)?;
        let mut stepper = stepper::build(&self.choice, &self.config, &self.members)?;
        self.load(stepper.as_mut())?;
        let skips = self.step_all(stepper.as_mut())?;
        if let Some(output) = &mut params {
            output.fill(|sink| self.write_params(stepper.as_ref(), sink))?;
        }
        let Self { config, inputs, members, saved, .. } = &self;
        if let Some(output) = &mut state {
            output.fill(|sink| state::write(sink, config, inputs, members, saved.as_ref(), stepper.as_ref()))?;
        }
        if let Some(output) = &mut ema {
            output.fill(|sink| average::write(sink, inputs, members, saved.as_ref(), stepper.as_ref()))?;
        }
        commit(params.into_iter().chain(state).chain(ema).collect())?;
        self.tell(start.elapsed().as_secs_f64(), skips.as_ref())
    }

    /// Parameters, and the state that was saved of them.
    fn load(&self, stepper: &mut dyn Stepper<R>) -> Result<()> {
        let params = &self.inputs.params;
        if let Some(control) = self.saved.as_ref().and_then(|saved| saved.control)
            && self.config.chain.scaler.is_some()
        {
            stepper.set_control(control)?;
        }
        for (tensor, member) in self.members.iter().enumerate() {
            let Member { name, len, group, formats, .. } = member;
            if let Some(entry) = params.get(name) {
                stepper.set_params(tensor, Numbers::read(params, entry)?)?;
            }
            if let Some(saved) = &self.saved
                && let Some(step) = saved.step_of(name)
            {
                stepper.set_step(tensor, step)?;
                for plane in self.config.planes_of(*group, formats.params, *len) {
                    stepper.set_state(tensor, plane.slot, saved.slot(name, plane)?)?;
                }
            }
        }
        Ok(())
    }

    /// Returns what the scaler did, if there is one.
    fn step_all(&mut self, stepper: &mut dyn Stepper<R>) -> Result<Option<Skips>> {
        let bar = progress(self.inputs.grads.len() as u64);
        let before = self.saved.as_ref().map_or(0, |saved| saved.recorded);
        let scaled = self.config.chain.scaler.is_some();
        let mut skips = scaled.then(|| Skips::new(stepper)).transpose()?;
        let mut seen = Gradients::default();
        for step in 0..self.inputs.grads.len() {
            self.retune(stepper, step)?;
            stepper.set_recorded(before + step as u64);
            let absent = self.load_gradients(stepper, step, &mut seen)?;
            // A step of nothing is none, for the scaler too; only schedules go on.
            if absent.len() < self.members.len() {
                stepper.step(&absent)?;
            }
            if let Some(skips) = &mut skips {
                bar.suspend(|| skips.follow(step + 1, stepper, &self.report))?;
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        seen.tell(scaled, &mut self.report);
        Ok(skips)
    }

    fn retune(&self, stepper: &mut dyn Stepper<R>, step: usize) -> Result<()> {
        for (number, group) in self.config.groups.iter().enumerate() {
            if step > 0 && group.steps[step] != group.steps[step - 1] {
                stepper.retune(number, &group.steps[step])?;
            }
        }
        Ok(())
    }

    /// Returns the tensors that have no gradient in this step.
    fn load_gradients(
        &mut self,
        stepper: &mut dyn Stepper<R>,
        step: usize,
        seen: &mut Gradients,
    ) -> Result<Vec<usize>> {
        let grads = Inputs::open_grads(&self.inputs.params, &self.inputs.grads[step])?;
        let mut absent = Vec::new();
        for (tensor, member) in self.members.iter().enumerate() {
            match grads.get(&member.name) {
                None => absent.push(tensor),
                Some(entry) => {
                    let (values, loss) = Numbers::read(&grads, entry)?.cast(member.formats.grads);
                    seen.count(&values, loss, || format!("{:?} of {}", member.name, grads.path()));
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
                None => params.read_each(entry, |chunk| anyhow::Ok(sink.write_all(chunk)?))?,
            }
        }
        Ok(())
    }

    fn tell(&self, seconds: f64, skips: Option<&Skips>) -> Result<()> {
        let elements: u64 = self.members.iter().map(|member| member.len).sum();
        let (tensors, steps) = (self.members.len() as u64, self.inputs.grads.len() as u64);
        let Config { rule, preset, .. } = &self.config;
        if self.args.json {
            // Not every path is a text, and JSON can hold nothing else.
            let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
            return print_json(&json!({
                "tensors": tensors,
                "elements": elements,
                "steps": steps,
                "rule": rule,
                "preset": preset,
                "device": self.choice.to_json(),
                "seconds": seconds,
                "out_params": shown(&self.args.out_params),
                "out_state": shown(&self.args.out_state),
                "out_ema": shown(&self.args.out_ema),
                "scaler": skips.map(Skips::to_json),
                "warnings": self.report.warnings(),
            }));
        }
        print(&format!(
            "{} ({}), {} of {rule} ({preset}) on {} in {seconds:.3} s\n",
            count(tensors, "tensor"),
            count(elements, "element"),
            count(steps, "step"),
            self.choice.describe(),
        ))?;
        skips.map_or(Ok(()), |skips| print(&format!("{}\n", skips.tell(steps))))
    }
}

/// A bar on a terminal, nothing elsewhere.
fn progress(steps: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_bar} step {pos} of {len}");
    // An error on the way takes the bar from the screen before it is told.
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_finish(ProgressFinish::AndClear)
}
