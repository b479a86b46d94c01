//! `devices`: the adapters of this machine.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use wgpu_optim::{Kernels, wgpu};

use crate::adapter;
use crate::report::{print, print_json, size};

/// List the adapters that there are, and whether the step runs on them
#[derive(clap::Args)]
pub struct Args {
    /// Print a JSON list
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let adapters: Vec<About> = adapter::all().iter().map(About::of).collect();
    if args.json {
        print_json(&adapters.iter().map(About::to_json).collect())?;
    } else if adapters.is_empty() {
        print(&format!("{}\n", adapter::none()))?;
    } else {
        print(&adapters.iter().map(About::to_text).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is told of an adapter.
struct About {
    info: wgpu::AdapterInfo,
    limits: Vec<(&'static str, u64)>,
    features: Vec<(&'static str, bool)>,
    /// Why the step cannot run, if it cannot.
    obstacle: Option<String>,
}

impl About {
    fn of(adapter: &wgpu::Adapter) -> Self {
        let obstacle = adapter::open(adapter).and_then(|opened| Ok(Kernels::new(&opened.device)?));
        Self {
            info: adapter.get_info(),
            limits: limits(&adapter.limits()),
            features: features(adapter.features()),
            obstacle: obstacle.err().map(|error| format!("{error:#}")),
        }
    }

    fn to_json(&self) -> Value {
        let limits: serde_json::Map<_, _> =
            self.limits.iter().map(|(name, limit)| (name.to_string(), (*limit).into())).collect();
        let features: serde_json::Map<_, _> =
            self.features.iter().map(|(name, there)| (name.to_string(), (*there).into())).collect();
        json!({
            "name": self.info.name,
            "type": adapter::kind(&self.info),
            "software": adapter::is_software(&self.info),
            "backend": self.info.backend.to_str(),
            "driver": self.info.driver,
            "driver_info": self.info.driver_info,
            "runs": self.obstacle.is_none(),
            "obstacle": self.obstacle,
            "limits": limits,
            "features": features,
        })
    }

    fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.info.name);
        let mut line = |label: &str, value: &str| {
            let _ = writeln!(text, "  {label:<10}{value}");
        };
        line("type", adapter::kind(&self.info));
        line("backend", self.info.backend.to_str());
        line("driver", format!("{} {}", self.info.driver, self.info.driver_info).trim());
        line("the step", self.obstacle.as_deref().unwrap_or("runs"));
        for (i, (name, limit)) in self.limits.iter().enumerate() {
            let shown = if name.ends_with("_size") { size(*limit) } else { limit.to_string() };
            line(if i == 0 { "limits" } else { "" }, &format!("{name} = {shown}"));
        }
        let there = self.features.iter().filter(|(_, there)| *there).map(|(name, _)| *name);
        line("features", &there.collect::<Vec<_>>().join(", "));
        text
    }
}

/// Those that decide whether the step runs, and in how many windows.
fn limits(limits: &wgpu::Limits) -> Vec<(&'static str, u64)> {
    vec![
        ("max_buffer_size", limits.max_buffer_size),
        ("max_storage_buffer_binding_size", limits.max_storage_buffer_binding_size),
        ("max_storage_buffers_per_shader_stage", limits.max_storage_buffers_per_shader_stage.into()),
        ("max_bind_groups", limits.max_bind_groups.into()),
        ("max_compute_workgroup_size_x", limits.max_compute_workgroup_size_x.into()),
        ("max_compute_invocations_per_workgroup", limits.max_compute_invocations_per_workgroup.into()),
        ("max_compute_workgroups_per_dimension", limits.max_compute_workgroups_per_dimension.into()),
        ("min_storage_buffer_offset_alignment", limits.min_storage_buffer_offset_alignment.into()),
    ]
}

fn features(features: wgpu::Features) -> Vec<(&'static str, bool)> {
    let known = [
        ("TIMESTAMP_QUERY", wgpu::Features::TIMESTAMP_QUERY),
        ("SHADER_F16", wgpu::Features::SHADER_F16),
        ("SUBGROUP", wgpu::Features::SUBGROUP),
    ];
    known.map(|(name, feature)| (name, features.contains(feature))).to_vec()
}
