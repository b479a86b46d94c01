//! The bytes of what is around a step: what decides about it on the device, and what tells of it.

use super::{Named, ROW};
use crate::chain::{Chain, Over};
use crate::plan::{ELEMENT, Launch, Run};
use crate::rule::{Rule, Scalars};
use crate::watch::{MOVED, READING, REPORT, Watch};

/// Step counts that there is room for, at least, so that adding some tensors needs no larger buffer.
pub(crate) const FEWEST: usize = 64;
/// Bytes of a workgroup's part of a norm.
const PART: u64 = 16;
/// Words of `struct Orders` of `control.wgsl` before its list, and of a class in the list, its scalars apart.
const ORDERS: u64 = 17;
const CLASS: u64 = 6;

/// A step, as far as its decision must know.
pub(super) struct Shape {
    pub tensors: usize,
    /// For each tensor.
    pub class_of: Vec<u32>,
    pub scopes: u64,
}

impl Shape {
    /// That of a first step, of tensors in these groups, each of which is clipped together with one.
    pub fn of(chain: &Chain, group_of: &[usize], together: &[usize]) -> Self {
        let over = chain.measured().1;
        let apart = chain.measures() && over == Over::Tensor;
        let class = |(tensor, &group): (usize, &usize)| if apart { tensor } else { group } as u32;
        let scopes = match over {
            Over::Tensor => group_of.len(),
            Over::Group => group_of.iter().map(|&group| together[group] + 1).max().unwrap_or(0),
            Over::All | Over::Value => group_of.len().min(1),
        };
        let class_of = group_of.iter().enumerate().map(class).collect();
        Self { tensors: group_of.len(), class_of, scopes: scopes as u64 }
    }

    /// Tensors that share scalars, as one.
    pub fn classes(&self) -> u64 {
        self.class_of.iter().collect::<std::collections::HashSet<_>>().len() as u64
    }

    /// Bytes of what one step makes anew: its scalars, or what a device makes them from.
    pub fn fresh<R: Rule>(&self, chain: &Chain) -> u64 {
        let scalars = <R::Hyper<f32> as Scalars<f32>>::FIELDS.len() as u64;
        match chain.measures() {
            true => (ORDERS + self.classes() * (CLASS + 2 * scalars)) * ELEMENT,
            false => self.classes() * ROW,
        }
    }

    /// The buffers of a decision, where the chain asks for one.
    pub fn decision(&self, chain: &Chain, dispatches: &[(usize, Run)]) -> Vec<Named> {
        if !chain.measures() {
            return Vec::new();
        }
        let parts: u64 = dispatches.iter().map(|(_, run)| run.groups()).sum();
        vec![
            ("scaler", 16),
            ("steps", self.tensors.max(FEWEST).next_power_of_two() as u64 * ELEMENT),
            ("report", REPORT),
            // One more, for steps of no row.
            ("jobs", (dispatches.len() as u64 + 1) * ROW),
            ("scopes", self.scopes * 8),
            ("roll", self.tensors as u64 * ELEMENT),
            ("rows", self.classes() * ROW),
            ("partials", parts * PART),
            ("sums", self.scopes * PART),
        ]
    }
}

/// The buffers of what is watched: readings, and the step's other plan where it takes what parameters move by.
pub(super) fn watched(watch: Watch, launches: &[Launch], dispatches: &[(usize, Run)]) -> Vec<Named> {
    let mut buffers = vec![("telemetry", watch.depth as u64 * READING)];
    if watch.updates {
        let parts: u64 = dispatches.iter().map(|(_, run)| run.groups()).sum();
        buffers.extend([
            ("tables of updates", super::tables(launches, dispatches)),
            ("jobs of updates", dispatches.len() as u64 * ROW),
            ("scope of updates", 8),
            ("partials of updates", parts * MOVED),
            ("sums of updates", MOVED),
        ]);
    }
    if watch.depth > 0 { buffers } else { Vec::new() }
}
