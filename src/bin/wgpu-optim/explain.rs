//! `apply --explain`: the formulas with their numbers, and what a step will do to the device.

mod memory;

use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value as Json, json};
use wgpu_optim::plan::Limits;
use wgpu_optim::rule::Value;
use wgpu_optim::{Error, MemoryPlan, Rule, memory_plan, required_limits};

use crate::adapter::Choice;
use crate::config::{Config, Group};
use crate::inputs::{Inputs, Member};
use crate::report::{count, print as print_text, print_json};
use crate::state::value_json;
use crate::stepper::advise;

/// Prints the groups and the launch plan.
///
/// # Errors
/// Where the device cannot hold the tensors.
pub fn print<R: Rule>(
    config: &Config<R>,
    inputs: &Inputs,
    members: &[Member],
    choice: &Choice,
    json: bool,
) -> Result<()> {
    let limits = match choice {
        Choice::Cpu => Limits::DEFAULT,
        Choice::Gpu(adapter) => Limits::from(&required_limits(adapter)),
    };
    // The CPU path steps what no device can hold, so there a plan that fails is an answer.
    let plan = match (plan(config, members, &limits), choice) {
        (Err(error), Choice::Gpu(_)) => return Err(advise(error)),
        (plan, _) => plan,
    };
    let unchanged = inputs.params.entries().len() - members.len();
    if json {
        let groups: Vec<Json> = (0..config.groups.len()).map(|group| group_json(config, group, members)).collect();
        let (rule, preset) = (&config.rule, &config.preset);
        return print_json(&json!({
            "rule": rule, "preset": preset, "groups": groups, "unchanged": unchanged,
            "device": choice.to_json(),
            "plan": plan.ok().map(|plan| memory::to_json(&plan, &limits)),
        }));
    }
    let mut text = format!("{}: {}, preset {}\n", config.path.display(), config.rule, config.preset);
    for group in 0..config.groups.len() {
        text += &group_text(config, group, members);
    }
    if unchanged > 0 {
        let _ = writeln!(text, "\n{} unchanged, for want of a gradient", count(unchanged as u64, "tensor"));
    }
    let of = match choice {
        Choice::Cpu => "at WebGPU's default limits; the CPU path needs none of it".into(),
        Choice::Gpu(_) => format!("on {}", choice.describe()),
    };
    let _ = writeln!(text, "\none step {of}");
    match plan {
        Ok(plan) => print_text(&(text + &memory::to_text(&plan, &limits))),
        Err(error) => print_text(&format!("{text}  impossible: {error}\n")),
    }
}

fn plan<R: Rule>(config: &Config<R>, members: &[Member], limits: &Limits) -> Result<MemoryPlan, Error> {
    let sizes = |group| of_group(members, group).map(|member| (member.name.as_str(), member.len)).collect();
    let groups: Vec<(R, Vec<(&str, u64)>)> =
        (0..).zip(&config.groups).map(|(number, group)| (group.steps[0].clone(), sizes(number))).collect();
    memory_plan(&groups, limits)
}

fn of_group(members: &[Member], group: usize) -> impl Iterator<Item = &Member> {
    members.iter().filter(move |member| member.group == group)
}

fn group_json<R: Rule>(config: &Config<R>, number: usize, members: &[Member]) -> Json {
    let group = &config.groups[number];
    let settings = settings(group).into_iter().map(|(name, values)| {
        let mut values: Vec<Json> = values.into_iter().map(value_json).collect();
        (name.to_string(), if values.len() == 1 { values.remove(0) } else { values.into() })
    });
    json!({
        "match": group.pattern.as_ref().map(regex::Regex::as_str),
        "settings": settings.collect::<serde_json::Map<_, _>>(),
        "formula": group.steps[0].formula(),
        "tensors": of_group(members, number).map(|member| member.name.as_str()).collect::<Vec<_>>(),
    })
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

fn group_text<R: Rule>(config: &Config<R>, number: usize, members: &[Member]) -> String {
    let group = &config.groups[number];
    let own = || of_group(members, number);
    let (tensors, elements) = (own().count() as u64, own().map(|member| member.len).sum());
    let sizes = format!("{}, {}", count(tensors, "tensor"), count(elements, "element"));
    let mut text = format!("\n{}: {sizes}\n", config.group_name(number));
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
    text.push_str(if tensors > 0 { "  tensors\n" } else { "" });
    for member in own() {
        let _ = writeln!(text, "    {} {:?}", member.name.escape_debug(), member.shape);
    }
    text
}
