//! Who is stepped, with which settings, and how many times it has been: the part of an optimizer that is the
//! same on the CPU and on the GPU.
//!
//! Tensors that share a group and a step count form a class. Scalars are folded once for a class, and a step
//! costs the host nothing for each tensor: a tensor's class changes only when it is frozen, thawed, added or
//! given another step count.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::Error;
use crate::chain::{Chain, Over};
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
    /// What became of it where others were stepped without it: tensors of one history have taken the same steps, also
    /// where a device has left some out.
    history: u64,
    /// Steps recorded when it was frozen.
    frozen_at: u64,
}

impl Member {
    pub fn new(name: String, len: u64, group: usize) -> Self {
        Self { name, len, group, frozen: false, step: 0, history: 0, frozen_at: 0 }
    }

    /// Freezes or thaws it when so many steps were recorded.
    fn set_frozen(&mut self, frozen: bool, recorded: u64) {
        match (self.frozen, frozen) {
            (false, true) => self.frozen_at = recorded,
            (true, false) if self.frozen_at != recorded => {
                let mut hasher = DefaultHasher::new();
                (self.history, self.frozen_at, recorded).hash(&mut hasher);
                self.history = hasher.finish();
            }
            _ => {}
        }
        self.frozen = frozen;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Class {
    group: usize,
    step: u64,
    history: u64,
    /// The tensor, where each is clipped by its own norm.
    tensor: Option<usize>,
}

/// A class, as its next step needs it.
#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "a device is told more than a CPU needs"))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Next {
    pub group: usize,
    /// The number of the step, the first being 1.
    pub step: u64,
    /// Whose gradients are clipped together with its own.
    pub scope: usize,
    /// Its first tensor.
    pub first: usize,
}

/// Groups of settings, and the tensors in them.
#[derive(Clone, Debug)]
pub(crate) struct Roster<R> {
    groups: Vec<R>,
    members: Vec<Member>,
    index: HashMap<String, usize>,
    classes: Vec<Class>,
    class_of: Vec<u32>,
    /// The first tensor of each class.
    firsts: Vec<usize>,
    chain: Chain,
    /// Steps so far, of whatever tensors.
    recorded: u64,
}

impl<R: Rule> Roster<R> {
    pub fn new(chain: Chain) -> Self {
        Self {
            groups: Vec::new(),
            members: Vec::new(),
            index: HashMap::new(),
            classes: Vec::new(),
            class_of: Vec::new(),
            firsts: Vec::new(),
            chain,
            recorded: 0,
        }
    }

    /// Steps so far, of whatever tensors.
    #[cfg(feature = "gpu")]
    pub fn recorded(&self) -> u64 {
        self.recorded
    }

    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Gives the chain other numbers.
    pub fn retune_chain(&mut self, chain: Chain) -> Result<(), Error> {
        chain.check()?;
        self.chain.check_retuned(&chain)?;
        self.settle();
        self.chain = chain;
        self.classify();
        Ok(())
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

    /// The slots that a tensor keeps, by name, in the order of their planes: the rule's, then the chain's.
    pub fn slots(&self, tensor: usize) -> Vec<&'static str> {
        self.slots_of(self.members[tensor].group)
    }

    /// The slots that the tensors of a group keep.
    pub fn slots_of(&self, group: usize) -> Vec<&'static str> {
        let own = kept_slots(&self.groups[group]).into_iter().map(|slot| R::SLOTS[slot]);
        own.chain(self.chain.slots()).collect()
    }

    /// The plane of a slot that the tensor keeps.
    pub fn plane(&self, tensor: usize, slot: &str) -> Result<usize, Error> {
        let kept = self.slots(tensor);
        kept.iter().position(|&known| known == slot).ok_or_else(|| Error::UnknownSlot {
            name: self.members[tensor].name.clone(),
            slot: slot.into(),
            known: kept.join(", "),
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
            let member = &mut self.members[tensor];
            (member.step, member.history) = (step, self.recorded);
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
            self.members[tensor].set_frozen(frozen, self.recorded);
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

    /// The classes of the next step.
    pub fn classes(&self) -> impl Iterator<Item = Next> {
        let over = self.chain.measured().1;
        self.classes.iter().enumerate().map(move |(row, class)| {
            let scope = match over {
                Over::Tensor => row,
                Over::Group => class.group,
                Over::All | Over::Value => 0,
            };
            Next { group: class.group, step: class.step.saturating_add(1), scope, first: self.firsts[row] }
        })
    }

    /// How many sets of gradients are clipped together.
    pub fn scopes(&self) -> usize {
        self.classes().map(|class| class.scope + 1).max().unwrap_or(0)
    }

    /// Counts a step that no tensor took.
    pub fn skip(&mut self) {
        self.recorded += 1;
    }

    /// Counts one step of every tensor that is not frozen.
    pub fn advance(&mut self) {
        self.recorded += 1;
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
        self.firsts.clear();
        self.class_of.clear();
        let apart = self.chain.measures() && self.chain.measured().1 == Over::Tensor;
        let scaled = self.chain.scaler.is_some();
        for (tensor, member) in self.members.iter().enumerate() {
            if member.frozen {
                self.class_of.push(SKIP);
                continue;
            }
            let class = Class {
                group: member.group,
                step: member.step,
                history: if scaled { member.history } else { 0 },
                tensor: apart.then_some(tensor),
            };
            let row = *seen.entry(class).or_insert_with(|| {
                self.classes.push(class);
                self.firsts.push(tensor);
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
