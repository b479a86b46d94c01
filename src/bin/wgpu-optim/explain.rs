//! `apply --explain`: the formulas with their numbers, and what a step will do to the device.

mod around;
mod memory;
mod tensors;

use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value as Json, json};
use wgpu_optim::checkpoint::settings::value_to_json;
use wgpu_optim::format::Plane;
use wgpu_optim::memory::Planned;
use wgpu_optim::plan::Limits;
use wgpu_optim::rule::Value;
use wgpu_optim::{Error, MemoryPlan, Rule, memory_plan_together, required_limits};

use crate::adapter::Choice;
use crate::config::{Config, Group};
use crate::inputs::{Inputs, Member, parts, together};
use crate::report::{count, print, print_json};
use crate::state::metadata::chain_json;
use crate::stepper::advise;

/// A job as it would be.
pub struct Explanation<'a, R> {
    pub config: &'a Config<R>,
    pub inputs: &'a Inputs,
    pub members: &'a [Member],
    pub choice: &'a Choice,
}

impl<R: Rule> Explanation<'_, R> {
    /// Prints the groups and the launch plan.
    ///
    /// # Errors
    /// Where the device cannot hold the tensors.
    pub fn print(&self, json: bool) -> Result<()> {
        let limits = match self.choice {
            Choice::Cpu => Limits::DEFAULT,
            Choice::Gpu(adapter) => Limits::from(&required_limits(adapter)),
        };
        // The CPU path steps what no device can hold, so there a plan that fails is an answer.
        let plan = match (self.plan(&limits), self.choice) {
            (Err(error), Choice::Gpu(_)) => return Err(advise(error)),
            (plan, _) => plan,
        };
        if json {
            return print_json(&self.to_json(plan.ok().map(|plan| memory::to_json(&plan, &limits))));
        }
        let plan = match plan {
            Ok(plan) => memory::to_text(&plan, &limits) + &around::costs(&self.config.chain),
            Err(error) => format!("  impossible: {error}\n"),
        };
        print(&(self.to_text() + &plan))
    }

    fn plan(&self, limits: &Limits) -> Result<MemoryPlan, Error> {
        let groups: Vec<Planned<'_, R>> = parts(self.members)
            .map(|part| {
                let sizes = part.iter().map(|member| (member.name.as_str(), member.len)).collect();
                (self.config.groups[part[0].group].steps[0].clone(), part[0].formats.clone(), sizes)
            })
            .collect();
        memory_plan_together(&groups, &together(self.members), &self.config.chain, 0, limits)
    }

    fn of_group(&self, group: usize) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.group == group)
    }

    fn planes(&self, Member { group, formats, len, .. }: &Member) -> Vec<Plane> {
        self.config.planes_of(*group, formats.params, *len)
    }

    /// Bytes of the averages.
    fn ema(&self) -> u64 {
        let elements: u64 = self.members.iter().map(|member| member.len).sum();
        if self.config.chain.ema.is_some() { elements * size_of::<f32>() as u64 } else { 0 }
    }

    fn unchanged(&self) -> usize {
        self.inputs.params.entries().len() - self.members.len()
    }

    fn to_json(&self, plan: Option<Json>) -> Json {
        let groups: Vec<Json> = (0..self.config.groups.len()).map(|group| self.group_json(group)).collect();
        let tensors = self.members.iter().map(|member| tensors::to_json(member, &self.planes(member)));
        let tensors: Vec<Json> = tensors.collect();
        let Config { rule, preset, .. } = self.config;
        let (unchanged, device) = (self.unchanged(), self.choice.to_json());
        json!({
            "rule": rule, "preset": preset, "chain": chain_json(&self.config.chain), "groups": groups, "tensors": tensors,
            "unchanged": unchanged, "device": device, "ema": self.ema(), "plan": plan,
        })
    }

    /// All but the plan.
    fn to_text(&self) -> String {
        let Config { path, rule, preset, chain, groups } = self.config;
        let mut text = format!("{}: {rule}, preset {preset}\n", path.display());
        for group in 0..groups.len() {
            text += &self.group_text(group);
        }
        let lines = around::chain(chain);
        text.push_str(if lines.is_empty() { "" } else { "\naround each update\n" });
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
        if self.unchanged() > 0 {
            let _ = writeln!(text, "\nunchanged: {}", count(self.unchanged() as u64, "tensor"));
        }
        let of = match self.choice {
            Choice::Cpu => "at WebGPU's default limits; the CPU path needs none of it".into(),
            Choice::Gpu(_) => format!("on {}", self.choice.describe()),
        };
        let _ = writeln!(text, "\none step {of}");
        text
    }

    fn group_json(&self, number: usize) -> Json {
        let group = &self.config.groups[number];
        let settings = settings(group).into_iter().map(|(name, values)| {
            let mut values: Vec<Json> = values.into_iter().map(value_to_json).collect();
            (name.to_string(), if values.len() == 1 { values.remove(0) } else { values.into() })
        });
        json!({
            "match": group.pattern.as_ref().map(regex::Regex::as_str),
            "settings": settings.collect::<serde_json::Map<_, _>>(),
            "formula": group.steps[0].formula(),
            "format": format_json(group),
            "schedule": group.schedule.as_ref().and_then(|schedule| serde_json::to_value(schedule).ok()),
            "tensors": self.of_group(number).map(|member| member.name.as_str()).collect::<Vec<_>>(),
        })
    }

    fn group_text(&self, number: usize) -> String {
        let group = &self.config.groups[number];
        let tensors = self.of_group(number).count() as u64;
        let elements = self.of_group(number).map(|member| member.len).sum();
        let sizes = format!("{}, {}", count(tensors, "tensor"), count(elements, "element"));
        let mut text = format!("\n{}: {sizes}\n", self.config.group_name(number));
        for (name, values) in settings(group) {
            let values: Vec<String> = values.iter().map(Value::to_string).collect();
            let _ = match values.as_slice() {
                [value] => writeln!(text, "  {name} = {value}"),
                _ => writeln!(text, "  {name} = [{}]", values.join(", ")),
            };
        }
        let first = if group.steps.len() > 1 { " of the first step" } else { "" };
        let _ = writeln!(text, "  formula{first}");
        for line in group.steps[0].formula() {
            let _ = writeln!(text, "    {line}");
        }
        let keys = format_json(group);
        text.push_str(if keys.is_empty() { "" } else { "  format\n" });
        for (key, value) in keys {
            let _ = writeln!(text, "    {key} = {value}");
        }
        if let Some(schedule) = &group.schedule {
            let _ = writeln!(text, "  schedule\n    {}", around::schedule(schedule));
        }
        text.push_str(if tensors > 0 { "  tensors\n" } else { "" });
        for member in self.of_group(number) {
            text += &tensors::to_text(member, &self.planes(member));
        }
        text
    }
}

/// The keys of `[format]` that are said.
fn format_json<R: Rule>(group: &Group<R>) -> serde_json::Map<String, Json> {
    let keys = serde_json::to_value(&group.format).ok();
    keys.and_then(|keys| keys.as_object().cloned()).unwrap_or_default()
}

/// Each setting, with one value, or with one for each step where they differ.
fn settings<R: Rule>(group: &Group<R>) -> Vec<(&'static str, Vec<Value>)> {
    let steps: Vec<_> = group.steps.iter().map(R::settings).collect();
    let all = steps[0].iter().enumerate().map(|(i, (name, value))| {
        let differ = steps.iter().any(|step| step[i].1 != *value);
        let values = steps.iter().take(if differ { steps.len() } else { 1 }).map(|step| step[i].1.clone());
        (*name, values.collect())
    });
    all.collect()
}
