//! The launch plan of a job in words: what it allocates, and what it dispatches.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};
use wgpu_optim::MemoryPlan;
use wgpu_optim::plan::{Lanes, Launch, Limits, Run};

use crate::report::{count, size};

/// Dispatches that are listed; there are more only where there are many windows.
const LISTED: usize = 8;

pub fn to_json(plan: &MemoryPlan, limits: &Limits) -> Value {
    let dispatch = |(launch, run): &(usize, Run)| {
        let launch = &plan.launches[*launch];
        json!({
            "elements": run.elements(launch),
            "lanes": lanes(launch),
            "segments": run.segments(launch).len(),
            "grid": run.grid(limits),
        })
    };
    json!({
        "total": plan.total(),
        "params": plan.arena,
        "grads": plan.grads,
        "state": plan.state,
        "slots": slots(plan),
        "tables": plan.tables,
        "scalars": plan.scalars,
        "decision": plan.decision.iter().copied().collect::<BTreeMap<_, _>>(),
        "staging": plan.staging,
        "windows": plan.windows.len(),
        "dispatches": plan.dispatches.iter().map(dispatch).collect::<Vec<_>>(),
    })
}

pub fn to_text(plan: &MemoryPlan, limits: &Limits) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "  {label:<12}{value}");
    };
    for (label, pages) in [("parameters", &plan.arena), ("gradients", &plan.grads), ("state", &plan.state)] {
        line(label, format!("{} in {}", size(pages.iter().sum()), count(pages.len() as u64, "page")));
    }
    for (slot, bytes) in slots(plan) {
        line("", format!("{} of {slot}", size(bytes)));
    }
    line("tables", size(plan.tables));
    line("scalars", size(plan.scalars));
    if !plan.decision.is_empty() {
        line("decision", size(plan.decision.iter().map(|(_, bytes)| bytes).sum()));
    }
    line("total", size(plan.total()));
    line("staging", format!("{} at most", size(plan.staging)));
    line("windows", plan.windows.len().to_string());
    line("dispatches", plan.dispatches.len().to_string());
    for (launch, run) in plan.dispatches.iter().take(LISTED) {
        line("", dispatch(&plan.launches[*launch], run, limits));
    }
    if plan.dispatches.len() > LISTED {
        line("", format!("and {} more", plan.dispatches.len() - LISTED));
    }
    text
}

/// Bytes of each slot, over all tensors; what pages have besides is padding.
fn slots(plan: &MemoryPlan) -> BTreeMap<&'static str, u64> {
    let mut slots = BTreeMap::new();
    for (slot, bytes) in plan.tensors.iter().flat_map(|tensor| &tensor.slots) {
        *slots.entry(*slot).or_default() += bytes;
    }
    slots
}

fn dispatch(launch: &Launch, run: &Run, limits: &Limits) -> String {
    let (x, y) = run.grid(limits);
    let segments = count(run.segments(launch).len() as u64, "segment");
    let elements = count(run.elements(launch), "element");
    format!("{elements} as {} of {segments}, grid {x} x {y}", lanes(launch))
}

fn lanes(launch: &Launch) -> &'static str {
    match launch.lanes {
        Lanes::Quads => "quads",
        Lanes::Words => "words",
    }
}
