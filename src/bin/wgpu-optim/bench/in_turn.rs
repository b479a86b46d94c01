//! `bench --in-turn`: one path, timed a sample at a time when it is asked for on stdin. `benches/peers/run.py` takes
//! turns with it so.

use std::io::BufRead;

use anyhow::{Context, Result};
use serde_json::json;
use wgpu_optim::Rule;
use wgpu_optim::format::Formats;

use super::PathKind;
use super::cpu::OnCpu;
use super::device::Clocked;
use super::gpu::OnGpu;
use super::machine::Machine;
use super::verify::{Path, verify};
use super::workload::Workload;
use crate::adapter;
use crate::catalog::Job;
use crate::report::print;
use crate::usage::usage;

/// One path of one rule on one workload.
pub struct InTurn<'a> {
    pub workload: &'a Workload,
    pub path: PathKind,
    pub device: Option<&'a Clocked>,
}

impl Job for InTurn<'_> {
    type Output = ();

    fn run<R: Rule>(self, settings: R) -> Result<()> {
        let formats = Formats::default();
        let mut path: Box<dyn Path> = match self.path {
            PathKind::Gpu => {
                Box::new(OnGpu::new(self.device.context("no adapter was opened")?, &settings, &formats, self.workload)?)
            }
            kind => Box::new(OnCpu::<R>::new(&settings, &formats, self.workload, kind == PathKind::Twin)?),
        };
        verify(path.as_mut(), &settings, &formats, self.workload, &|_| ())?;
        let device = match self.device {
            Some(device) => adapter::describe(&device.info),
            None => Machine::of(None).cpu_path(),
        };
        let name = format!("wgpu-optim-{}", self.path);
        print(&format!("{}\n", json!({"name": name, "version": env!("CARGO_PKG_VERSION"), "device": device})))?;
        for line in std::io::stdin().lock().lines() {
            let line = line.context("cannot read stdin")?;
            let steps = line.trim().parse::<u32>().ok().filter(|steps| *steps > 0);
            let steps = steps.ok_or_else(|| usage!("a line of stdin is {line:?}, expected a number of steps"))?;
            print(&format!("{:e}\n", path.run(steps)?.wall))?;
        }
        Ok(())
    }
}
