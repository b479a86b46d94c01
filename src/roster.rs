//! Who is stepped, with which settings, and how many times it has been: the part of an optimizer that is the
//! same on the CPU and on the GPU.
//!
//! Tensors that share a group and a step count form a class. Scalars are folded once for a class, and a step
//! costs the host nothing for each tensor: a tensor's class changes only when it is frozen, thawed, added or
//! given another step count.

use std::collections::HashMap;

use crate::Error;
use crate::rule::{Rule, kept_slots};

/// The class of a tensor that is left alone.
pub(crate) const SKIP: u32 = u32::MAX;

/// One tensor, as far as it has no buffers.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub name: String,
    pub len: u64,
    pub group: usize,
    frozen: bool,
    /// The step count while the tensor is in no class.
    step: u64,
}

impl Member {
    pub fn new(name: String, len: u64, group: usize) -> Self {
        Self { name, len, group, frozen: false, step: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Class {
    group: usize,
    step: u64,
}

/// Groups of settings, and the tensors in them.
#[derive(Clone, Debug)]
pub(crate) struct Roster<R> {
    groups: Vec<R>,
    members: Vec<Member>,
    index: HashMap<String, usize>,
    classes: Vec<Class>,
    class_of: Vec<u32>,
}

impl<R: Rule> Roster<R> {
    pub fn new() -> Self {
        Self {
            groups: Vec::new(),
            members: Vec::new(),
            index: HashMap::new(),
            classes: Vec::new(),
            class_of: Vec::new(),
        }
    }

    pub fn add_group(&mut self, settings: R) -> Result<usize, Error> {
        settings.check()?;
        self.groups.push(settings);
        Ok(self.groups.len() - 1)
    }

    /// Adds tensors, all or none.
    pub fn add_members(&mut self, members: Vec<Member>) -> Result<(), Error> {
        self.refuse_duplicates(&members)?;
        self.settle();
        for member in members {
            self.index.insert(member.name.clone(), self.members.len());
            self.members.push(member);
        }
        self.classify();
        Ok(())
    }

    fn refuse_duplicates(&self, members: &[Member]) -> Result<(), Error> {
        let mut names: std::collections::HashSet<&str> = self.index.keys().map(String::as_str).collect();
        for member in members {
            self.group(member.group)?;
            if !names.insert(&member.name) {
                return Err(Error::DuplicateName { name: member.name.clone() });
            }
        }
        Ok(())
    }

    pub fn groups(&self) -> &[R] {
        &self.groups
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn group(&self, group: usize) -> Result<&R, Error> {
        self.groups.get(group).ok_or(Error::UnknownGroup { group, groups: self.groups.len() })
    }

    pub fn find(&self, name: &str) -> Result<usize, Error> {
        self.index.get(name).copied().ok_or_else(|| Error::UnknownName {
            name: name.into(),
            nearest: nearest(name, self.members.iter().map(|m| m.name.as_str())),
        })
    }

    /// The tensors of these names, all or none.
    pub fn find_all<S: AsRef<str>>(&self, names: impl IntoIterator<Item = S>) -> Result<Vec<usize>, Error> {
        names.into_iter().map(|name| self.find(name.as_ref())).collect()
    }

    /// The settings that a tensor is stepped with.
    pub fn settings_of(&self, tensor: usize) -> &R {
        &self.groups[self.members[tensor].group]
    }

    /// The index in [`Rule::SLOTS`] of a slot that the tensor keeps.
    pub fn slot(&self, tensor: usize, slot: &str) -> Result<usize, Error> {
        let settings = self.settings_of(tensor);
        let kept = kept_slots(settings);
        kept.iter().copied().find(|&k| R::SLOTS[k] == slot).ok_or_else(|| Error::UnknownSlot {
            name: self.members[tensor].name.clone(),
            slot: slot.into(),
            known: kept.iter().map(|&k| R::SLOTS[k]).collect::<Vec<_>>().join(", "),
        })
    }

    /// Gives a group other numbers.
    pub fn retune(&mut self, group: usize, settings: R) -> Result<(), Error> {
        let old = self.group(group)?;
        settings.check()?;
        for ((setting, from), (_, to)) in old.structure().into_iter().zip(settings.structure()) {
            if from != to {
                let (from, to) = (from.to_string(), to.to_string());
                return Err(Error::Structure { rule: R::NAME, setting, group, from, to });
            }
        }
        self.groups[group] = settings;
        Ok(())
    }

    pub fn step_of(&self, tensor: usize) -> u64 {
        match self.class_of[tensor] {
            SKIP => self.members[tensor].step,
            class => self.classes[class as usize].step,
        }
    }

    pub fn set_step(&mut self, tensors: impl IntoIterator<Item = usize>, step: u64) {
        self.settle();
        for tensor in tensors {
            self.members[tensor].step = step;
        }
        self.classify();
    }

    /// Puts back the step counts of some tensors, and whether they are frozen where that is told.
    #[cfg(all(feature = "checkpoint", not(target_arch = "wasm32")))]
    pub fn restore(&mut self, counts: &[(usize, u64, Option<bool>)]) {
        self.settle();
        for &(tensor, step, frozen) in counts {
            let member = &mut self.members[tensor];
            member.step = step;
            member.frozen = frozen.unwrap_or(member.frozen);
        }
        self.classify();
    }

    pub fn is_frozen(&self, tensor: usize) -> bool {
        self.members[tensor].frozen
    }

    /// Freezes or thaws; `true` if that changed anything.
    pub fn set_frozen(&mut self, tensors: &[usize], frozen: bool) -> bool {
        if tensors.iter().all(|&tensor| self.members[tensor].frozen == frozen) {
            return false;
        }
        self.settle();
        for &tensor in tensors {
            self.members[tensor].frozen = frozen;
        }
        self.classify();
        true
    }

    /// Each tensor's class, [`SKIP`] for a frozen one.
    pub fn class_of(&self) -> &[u32] {
        &self.class_of
    }

    /// The settings of a class.
    #[cfg(feature = "gpu")]
    pub fn settings_of_class(&self, class: u32) -> &R {
        &self.groups[self.classes[class as usize].group]
    }

    /// The scalars of the step after this one, one for each class.
    pub fn next_hypers(&self) -> Vec<R::Hyper<f64>> {
        self.classes.iter().map(|class| self.groups[class.group].fold(class.step.saturating_add(1))).collect()
    }

    /// Counts one step of every tensor that is not frozen.
    pub fn advance(&mut self) {
        for class in &mut self.classes {
            class.step = class.step.saturating_add(1);
        }
    }

    /// Writes the step counts of the classes back into their members.
    fn settle(&mut self) {
        for tensor in 0..self.class_of.len() {
            self.members[tensor].step = self.step_of(tensor);
        }
    }

    fn classify(&mut self) {
        let mut seen = HashMap::new();
        self.classes.clear();
        self.class_of.clear();
        for member in &self.members {
            if member.frozen {
                self.class_of.push(SKIP);
                continue;
            }
            let class = Class { group: member.group, step: member.step };
            let row = *seen.entry(class).or_insert_with(|| {
                self.classes.push(class);
                self.classes.len() as u32 - 1
            });
            self.class_of.push(row);
        }
    }
}

/// The candidate that takes the fewest edits, if they are few.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::levenshtein(name, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 1 + name.chars().count() / 3)
        .map(|(_, candidate)| candidate.to_string())
}
