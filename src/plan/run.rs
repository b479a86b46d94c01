//! Which tensors of a launch share a dispatch: neighbours of one class.

use super::{Lanes, Launch, Limits, Segment, Window, groups};

impl Launch {
    /// The dispatches of a step in which the tensors have these classes; those of class `skip` have none.
    pub fn runs(&self, class_of: &[u32], skip: u32) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut first = 0;
        for segment in &self.segments {
            let class = class_of[segment.tensor];
            let alone = Run { class, first, groups: groups(segment.lanes), stretch: Some(*segment) };
            first += alone.groups;
            match runs.last_mut() {
                Some(last) if last.class == class && last.first + last.groups == alone.first => last.take(&alone),
                _ if class == skip => {}
                _ => runs.push(alone),
            }
        }
        runs
    }
}

/// One dispatch: workgroups of a launch whose tensors share a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// The class.
    pub class: u32,
    /// The first workgroup, in the launch's table.
    pub first: u64,
    /// Workgroups, as the table counts them.
    pub groups: u64,
    /// All of it, where it is one stretch of each buffer: then no table is read.
    pub stretch: Option<Segment>,
}

/// How a dispatch finds where its lanes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Places {
    /// One stretch from zero in all three buffers, in a grid that is not folded: there is nothing to find.
    Origin,
    /// One stretch, by the run's uniform.
    Uniform,
    /// Many, by the launch's table.
    Table,
}

impl Run {
    /// The segments that it steps.
    pub fn segments<'a>(&self, launch: &'a Launch) -> &'a [Segment] {
        let mut first = 0;
        let mut place = |segment: &Segment| {
            first += groups(segment.lanes);
            first
        };
        let ends: Vec<u64> = launch.segments.iter().map(&mut place).collect();
        let at = |group: u64| ends.partition_point(|&end| end <= group);
        &launch.segments[at(self.first)..at(self.first + self.groups)]
    }

    /// Elements stepped, padding included.
    pub fn elements(&self, launch: &Launch) -> u64 {
        self.segments(launch).iter().map(|segment| segment.lanes * launch.lanes.elements()).sum()
    }

    /// Takes the run behind this one.
    fn take(&mut self, next: &Self) {
        self.groups += next.groups;
        self.stretch = self.stretch.zip(next.stretch).and_then(|(a, b)| a.followed_by(&b));
    }

    /// Workgroups that have work.
    pub fn groups(&self) -> u64 {
        self.stretch.map_or(self.groups, |stretch| groups(stretch.lanes))
    }

    /// The dispatched grid, folded where a row would be too long.
    pub fn grid(&self, limits: &Limits) -> (u32, u32) {
        super::folded(self.groups(), limits)
    }

    /// How it finds its lanes.
    pub fn places(&self, limits: &Limits) -> Places {
        let is_flat = self.grid(limits).1 == 1;
        match self.stretch {
            Some(Segment { params: 0, grads: 0, state: 0, .. }) if is_flat => Places::Origin,
            Some(_) => Places::Uniform,
            None => Places::Table,
        }
    }

    /// The same workgroups in class 0: what is bound for them does not depend on their class.
    #[cfg(feature = "gpu")]
    pub(crate) fn unclassed(&self) -> Self {
        Self { class: 0, ..*self }
    }

    /// The run as `walk.wgsl` reads it, for a launch of these lanes.
    pub fn words(&self, window: &Window, lanes: Lanes, limits: &Limits) -> [u32; 12] {
        let (width, stride) = (self.grid(limits).0.into(), window.stride / lanes.elements());
        let stretch = match self.stretch {
            Some(Segment { lanes, params, grads, state, .. }) => [params, grads, state, lanes],
            None => [0; 4],
        };
        let [params, grads, state, lanes] = stretch;
        let key = self.stretch.and_then(|stretch| stretch.key).unwrap_or_default();
        let element = self.stretch.map_or(0, |stretch| stretch.start);
        let words = [self.first, self.groups(), width, stride, params, grads, state, lanes, key.into(), element, 0, 0];
        words.map(|word| word as u32)
    }
}

impl Segment {
    /// Both as one, where the second starts in each buffer where the first ends; what is rounded by chance has a word
    /// for each tensor.
    fn followed_by(&self, next: &Self) -> Option<Self> {
        let starts = |of: fn(&Self) -> u64| of(self) + self.lanes == of(next);
        let joined = starts(|s| s.params) && starts(|s| s.grads) && starts(|s| s.state);
        let steady = self.key.is_none() && next.key.is_none();
        (joined && steady).then_some(Self { lanes: self.lanes + next.lanes, ..*self })
    }
}
