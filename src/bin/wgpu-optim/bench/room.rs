//! Whether there is room for a workload, decided before anything is allocated.

use wgpu_optim::Rule;
use wgpu_optim::rule::kept_slots;

use super::PathKind;
use super::device::Clocked;
use super::format::{FormatKind, bytes_held, bytes_of_step};
use super::machine::{Machine, available_memory};
use super::workload::{Layout, Workload};
use super::yardstick;
use crate::adapter;
use crate::report::size;

/// WebGPU's default `max_buffer_size`.
const DEFAULT_BUFFER: u64 = 256 << 20;
/// A device's own cache is not told; none is as large as this.
const DEVICE_CACHE: u64 = 128 << 20;
/// The share of the memory that is left which a workload may take.
const SHARE: f64 = 0.8;

/// What a workload takes.
pub struct Room {
    name: String,
    /// Bytes of the longest buffer.
    buffer: u64,
    /// Bytes of parameters, gradients and state, in each format.
    working_sets: Vec<(FormatKind, u64)>,
    /// Bytes that verification holds besides: parameters and slots as they were before a step.
    verification: u64,
    /// Bytes of the host for what travels to the device and back.
    travelling: u64,
    yardsticks: u64,
    /// What the device allows, and whether its memory is the host's.
    device: Option<(u64, bool)>,
}

impl Room {
    pub fn new<R: Rule>(settings: &R, formats: &[FormatKind], workload: &Workload, device: Option<&Clocked>) -> Self {
        let slots = kept_slots(settings).len() as u64;
        let elements = workload.elements();
        let longest = workload.tensors.iter().map(|tensor| tensor.len * 4).max().unwrap_or(0);
        let apart = workload.layout == Layout::Apart;
        let device = device.map(|device| (device.device.limits().max_buffer_size, adapter::is_software(&device.info)));
        let moved = |kind: &FormatKind| bytes_of_step(settings, &kind.formats(), workload);
        Self {
            name: workload.name.clone(),
            buffer: if apart { 2 * longest.next_power_of_two() } else { longest },
            working_sets: formats.iter().map(|&kind| (kind, bytes_held(settings, &kind.formats(), workload))).collect(),
            verification: elements * 4 * (1 + slots),
            travelling: elements * 4 * 2,
            yardsticks: formats.iter().map(moved).map(yardstick::memory).sum(),
            device,
        }
    }

    /// The paths that there is room for; of the others it is said why not.
    pub fn allowed(&self, paths: &[PathKind], refused: &mut Vec<String>) -> Vec<PathKind> {
        let mut allowed = Vec::new();
        for &path in paths {
            match self.obstacle(path) {
                None => allowed.push(path),
                Some(why) => refused.push(format!("{}, {path}: {why}", self.name)),
            }
        }
        let (needed, left) = (self.memory(&allowed), available_memory());
        if needed as f64 > left as f64 * SHARE {
            let (needed, left) = (size(needed), size(left));
            refused.push(format!("{}: takes {needed} of memory, and {left} are left", self.name));
            allowed.clear();
        }
        allowed
    }

    fn obstacle(&self, path: PathKind) -> Option<String> {
        let (most, _) = self.device.filter(|_| path == PathKind::Gpu)?;
        let (needs, has) = (size(self.buffer), size(most));
        (self.buffer > most).then(|| format!("needs a max_buffer_size of {needs}, and the adapter has {has}"))
    }

    /// Bytes of the host's memory that these paths take at most.
    fn memory(&self, paths: &[PathKind]) -> u64 {
        let is_on_host =
            |path: &&PathKind| **path != PathKind::Gpu || self.device.is_some_and(|(_, software)| software);
        let on_host = paths.iter().filter(is_on_host).count() as u64;
        let travelling = if paths.contains(&PathKind::Gpu) { self.travelling } else { 0 };
        let working_sets: u64 = self.working_sets.iter().map(|(_, size)| size).sum();
        let yardsticks = self.yardsticks * on_host.min(2);
        self.verification + travelling + working_sets * on_host + yardsticks + self.buffer
    }

    /// What a reader of this path's row should know.
    pub fn note(&self, path: PathKind, format: FormatKind, machine: &Machine) -> String {
        let real = path == PathKind::Gpu && self.device.is_some_and(|(_, software)| !software);
        let cache = if real { Some(DEVICE_CACHE) } else { machine.cache };
        let working_set = self.working_sets.iter().find(|(kind, _)| *kind == format).map_or(0, |(_, size)| *size);
        let mut notes = Vec::new();
        match cache {
            Some(cache) if working_set <= cache && real => notes.push("may lie in the device's cache".into()),
            Some(cache) if working_set <= cache => {
                notes.push(format!("{} lie in the cache of {}", size(working_set), size(cache)));
            }
            _ => {}
        }
        if path == PathKind::Gpu && self.buffer > DEFAULT_BUFFER {
            notes.push("needs a max_buffer_size above WebGPU's default".into());
        }
        notes.join("; ")
    }
}
