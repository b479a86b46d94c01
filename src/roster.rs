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
use crate::format::blocks::BLOCK;
#[cfg(feature = "gpu")]
use crate::format::noise;
#[cfg(feature = "gpu")]
use crate::format::stored::Stored;
use crate::format::{Formats, Plane};
use crate::rule::{Rule, Value, kept_slots};
use crate::schedule::{Base, Schedule};

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
    /// Where [`Roster::taken`] was when it was frozen.
    frozen_at: u64,
}

impl Member {
    pub fn new(name: String, len: u64, group: usize) -> Self {
        Self { name, len, group, frozen: false, step: 0, history: 0, frozen_at: 0 }
    }

    /// Freezes or thaws it when so many steps were taken.
    fn set_frozen(&mut self, frozen: bool, taken: u64) {
        match (self.frozen, frozen) {
            (false, true) => self.frozen_at = taken,
            (true, false) if self.frozen_at != taken => {
                self.history = hashed((self.history, self.frozen_at, taken));
            }
            _ => {}
        }
        self.frozen = frozen;
    }
}

fn hashed(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
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

/// What a tensor has taken, as it is put back.
#[cfg(all(feature = "checkpoint", not(target_arch = "wasm32")))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    pub tensor: usize,
    pub step: u64,
    /// Its number among [`Roster::histories`].
    pub history: u64,
    /// Whether it is frozen, where that is told.
    pub frozen: Option<bool>,
}

/// Groups of settings, and the tensors in them.
#[derive(Clone, Debug)]
pub(crate) struct Roster<R> {
    groups: Vec<R>,
    /// The settings of each group in the next step, by its schedule.
    current: Vec<R>,
    schedules: Vec<Option<Schedule>>,
    /// How the tensors of each group lie in memory.
    formats: Vec<Formats>,
    /// The group with whose gradients those of each group are clipped: itself, or an earlier one.
    together: Vec<usize>,
    members: Vec<Member>,
    index: HashMap<String, usize>,
    classes: Vec<Class>,
    class_of: Vec<u32>,
    /// The first tensor of each class.
    firsts: Vec<usize>,
    chain: Chain,
    /// Steps so far, of whatever tensors: where schedules are.
    recorded: u64,
    /// The same, but never set back: where histories part.
    taken: u64,
}

impl<R: Rule> Roster<R> {
    pub fn new(chain: Chain) -> Self {
        Self {
            groups: Vec::new(),
            current: Vec::new(),
            schedules: Vec::new(),
            formats: Vec::new(),
            together: Vec::new(),
            members: Vec::new(),
            index: HashMap::new(),
            classes: Vec::new(),
            class_of: Vec::new(),
            firsts: Vec::new(),
            chain,
            recorded: 0,
            taken: 0,
        }
    }

    /// Steps so far, of whatever tensors.
    pub fn recorded(&self) -> u64 {
        self.recorded
    }

    pub fn set_recorded(&mut self, steps: u64) {
        self.recorded = steps;
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

    pub fn add_group(&mut self, settings: R, formats: Formats) -> Result<usize, Error> {
        settings.check()?;
        formats.check_with(&settings)?;
        self.formats.push(formats);
        self.together.push(self.groups.len());
        self.groups.push(settings.clone());
        self.current.push(settings);
        self.schedules.push(None);
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

    /// Gives a tensor another length.
    pub fn set_len(&mut self, tensor: usize, len: u64) {
        self.members[tensor].len = len;
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
        &self.current[self.members[tensor].group]
    }

    /// The slots that a tensor keeps, by name, in the order of their planes: the rule's, the chain's, those of its formats.
    pub fn slots(&self, tensor: usize) -> Vec<&'static str> {
        self.planes(tensor).into_iter().map(|plane| plane.slot).collect()
    }

    /// How the state of a tensor lies.
    pub fn planes(&self, tensor: usize) -> Vec<Plane> {
        let Member { group, len, .. } = self.members[tensor];
        self.planes_of(group, len)
    }

    /// How the state of a tensor of so many elements would lie in a group.
    pub fn planes_of(&self, group: usize, len: u64) -> Vec<Plane> {
        let own = kept_slots(&self.groups[group]).into_iter().map(|slot| (R::SLOTS[slot], R::is_signed(slot)));
        self.formats[group].planes(own, self.chain.slots(), len)
    }

    /// Refuses a tensor whose rows cannot be gone over alone, since others would be rounded again.
    pub fn check_listed(&self, tensor: usize) -> Result<(), Error> {
        match self.planes(tensor).iter().find(|plane| plane.storage.has_scales()) {
            Some(plane) => Err(Error::SharedScale { slot: plane.slot, name: self.members[tensor].name.clone() }),
            None => Ok(()),
        }
    }

    /// Refuses another length of a tensor, and rows of so many elements, where its state could not be moved as it lies.
    pub fn check_moved(&self, tensor: usize, len: u64, width: u64) -> Result<(), Error> {
        let member = &self.members[tensor];
        let (now, then) = (self.planes(tensor), self.planes_of(member.group, len));
        let name = || member.name.clone();
        if let Some((now, then)) = now.iter().zip(&then).find(|(now, then)| now.storage != then.storage) {
            let (from, to, q8_min) = (now.storage.word(), then.storage.word(), self.formats[member.group].q8_min);
            return Err(Error::RowFormat { slot: now.slot, name: name(), from, to, len, q8_min });
        }
        match now.iter().find(|plane| plane.storage.has_scales()) {
            Some(plane) if !width.is_multiple_of(BLOCK) => {
                Err(Error::RowBlocks { slot: plane.slot, name: name(), width })
            }
            _ => Ok(()),
        }
    }

    /// How what a step moves of a tensor lies.
    #[cfg(feature = "gpu")]
    pub fn stored(&self, tensor: usize) -> Stored {
        let Member { group, len, .. } = self.members[tensor];
        self.stored_of(group, len)
    }

    /// How what a step moves of a tensor of so many elements would lie in a group.
    #[cfg(feature = "gpu")]
    pub fn stored_of(&self, group: usize, len: u64) -> Stored {
        let Formats { params, grads, rounding, q8_zero, .. } = self.formats[group];
        Stored { params, grads, planes: self.planes_of(group, len), rounding, q8_zero }
    }

    /// Whether anything is around the update of a group's tensors, if only the word of chance.
    #[cfg(feature = "gpu")]
    pub fn is_gated(&self, group: usize) -> bool {
        !self.chain.is_empty() || self.formats[group].has_chance()
    }

    /// The word of chance of a group's next step.
    #[cfg(feature = "gpu")]
    pub fn step_key(&self, group: usize) -> u32 {
        noise::step_key(self.formats[group].seed, self.recorded)
    }

    /// The group of a class.
    #[cfg(feature = "gpu")]
    pub fn group_of(&self, class: u32) -> usize {
        self.classes[class as usize].group
    }

    /// The formats of a group.
    pub fn formats(&self, group: usize) -> Result<&Formats, Error> {
        self.group(group)?;
        Ok(&self.formats[group])
    }

    /// What a slot holds before the first step.
    pub fn initial(&self, tensor: usize, slot: &str) -> f64 {
        let own = R::SLOTS.iter().position(|known| *known == slot);
        own.map_or(0.0, |slot| self.settings_of(tensor).initial(slot))
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
        if let Some(schedule) = &self.schedules[group] {
            check_cycled(group, &settings, schedule)?;
        }
        self.groups[group] = settings.clone();
        self.current[group] = settings;
        Ok(())
    }

    pub fn set_schedule(&mut self, group: usize, schedule: Option<Schedule>) -> Result<(), Error> {
        let settings = self.group(group)?.clone();
        if let Some(schedule) = &schedule {
            schedule.check()?;
            check_cycled(group, &settings, schedule)?;
        }
        self.current[group] = settings;
        self.schedules[group] = schedule;
        Ok(())
    }

    pub fn schedule(&self, group: usize) -> Result<Option<&Schedule>, Error> {
        self.group(group)?;
        Ok(self.schedules[group].as_ref())
    }

    /// Takes the settings of the next step from the schedules; `true` if that turned a switch.
    pub fn tune(&mut self) -> Result<bool, Error> {
        let mut turned = false;
        for (group, schedule) in self.schedules.iter().enumerate() {
            let Some(schedule) = schedule else { continue };
            let settings = scheduled(&self.groups[group], schedule, self.recorded)?;
            turned |= settings.switches() != self.current[group].switches();
            self.current[group] = settings;
        }
        Ok(turned)
    }

    /// The lr of the first group in the next step, of a rule that has one.
    #[cfg(feature = "gpu")]
    pub fn lr(&self) -> Option<f64> {
        let settings = self.current.first()?.settings();
        settings.into_iter().find(|(name, _)| *name == "lr").and_then(|(_, value)| value.number())
    }

    /// The settings of a group in the next step.
    #[cfg(feature = "gpu")]
    pub fn current(&self, group: usize) -> &R {
        &self.current[group]
    }

    pub fn step_of(&self, tensor: usize) -> u64 {
        match self.class_of[tensor] {
            SKIP => self.members[tensor].step,
            class => self.classes[class as usize].step,
        }
    }

    pub fn set_step(&mut self, tensors: impl IntoIterator<Item = usize>, step: u64) {
        self.settle();
        let history = hashed((self.taken, step));
        for tensor in tensors {
            let member = &mut self.members[tensor];
            (member.step, member.history) = (step, history);
        }
        self.classify();
    }

    /// A number for each tensor: those of one number have taken the same steps, and will be stepped together.
    #[cfg(all(feature = "checkpoint", not(target_arch = "wasm32")))]
    pub fn histories(&self) -> Vec<u64> {
        let mut seen = HashMap::new();
        let mut number = |(tensor, member): (usize, &Member)| {
            let apart = (member.frozen && member.frozen_at != self.taken).then_some(member.frozen_at);
            let next = seen.len() as u64;
            *seen.entry((self.step_of(tensor), member.history, apart)).or_insert(next)
        };
        self.members.iter().enumerate().map(&mut number).collect()
    }

    /// Puts back what tensors have taken. Those that go on from counts that only a device knows stay apart from them.
    #[cfg(all(feature = "checkpoint", not(target_arch = "wasm32")))]
    pub fn restore(&mut self, counts: &[Count]) {
        self.settle();
        for &Count { tensor, step, history, frozen } in counts {
            let member = &mut self.members[tensor];
            (member.step, member.history) = (step, hashed((self.taken, step, history)));
            (member.frozen, member.frozen_at) = (frozen.unwrap_or(member.frozen), self.taken);
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
            self.members[tensor].set_frozen(frozen, self.taken);
        }
        self.classify();
        true
    }

    /// Each tensor's class, [`SKIP`] for a frozen one.
    pub fn class_of(&self) -> &[u32] {
        &self.class_of
    }

    /// The settings of a class in the next step.
    #[cfg(feature = "gpu")]
    pub fn settings(&self, class: u32) -> &R {
        &self.current[self.classes[class as usize].group]
    }

    /// The scalars of the step after this one, one for each class.
    pub fn next_hypers(&self) -> Vec<R::Hyper<f64>> {
        self.classes.iter().map(|class| self.current[class.group].fold(class.step.saturating_add(1))).collect()
    }

    /// The classes of the next step.
    pub fn classes(&self) -> impl Iterator<Item = Next> {
        let over = self.chain.measured().1;
        self.classes.iter().enumerate().map(move |(row, class)| {
            let scope = match over {
                Over::Tensor => row,
                Over::Group => self.together[class.group],
                Over::All | Over::Value => 0,
            };
            Next { group: class.group, step: class.step.saturating_add(1), scope, first: self.firsts[row] }
        })
    }

    /// Takes the norm of a group's gradients over those of another, too.
    pub fn clip_together(&mut self, group: usize, with: usize) -> Result<(), Error> {
        join(&mut self.together, group, with)
    }

    /// How many sets of gradients are clipped together.
    pub fn scopes(&self) -> usize {
        self.classes().map(|class| class.scope + 1).max().unwrap_or(0)
    }

    /// Counts a step that no tensor took.
    pub fn skip(&mut self) {
        self.recorded = self.recorded.saturating_add(1);
        self.taken += 1;
    }

    /// Counts one step of every tensor that is not frozen.
    pub fn advance(&mut self) {
        self.skip();
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

/// Has a group, and all that are clipped together with it, clipped together with another.
pub(crate) fn join(together: &mut [usize], group: usize, with: usize) -> Result<(), Error> {
    let groups = together.len();
    let of = |group: usize| together.get(group).copied().ok_or(Error::UnknownGroup { group, groups });
    let (own, with) = (of(group)?, of(with)?);
    together.iter_mut().filter(|other| **other == own).for_each(|other| *other = with);
    Ok(())
}

/// The settings of a step that so many others came before.
fn scheduled<R: Rule>(base: &R, schedule: &Schedule, recorded: u64) -> Result<R, Error> {
    let number = |name: &str| base.settings().into_iter().find(|(own, _)| *own == name).and_then(|(_, x)| x.number());
    let momentum = R::CYCLED.and_then(number);
    let point = schedule.at(recorded, Base { lr: number("lr").unwrap_or_default(), momentum });
    let mut settings = base.clone();
    settings.set("lr", Value::Number(point.lr))?;
    if let (Some(name), Some(momentum)) = (R::CYCLED, point.momentum) {
        settings.set(name, Value::Number(momentum))?;
    }
    settings.check()?;
    Ok(settings)
}

/// Refuses a schedule that would give a group a momentum that it keeps no state for, or leave it none.
fn check_cycled<R: Rule>(group: usize, settings: &R, schedule: &Schedule) -> Result<(), Error> {
    if !schedule.cycles_momentum() {
        return Ok(());
    }
    let first = scheduled(settings, schedule, 0)?;
    for ((setting, from), (_, to)) in settings.structure().into_iter().zip(first.structure()) {
        if from != to {
            let (from, to) = (from.to_string(), to.to_string());
            return Err(Error::Structure { rule: R::NAME, setting, group, from, to });
        }
    }
    Ok(())
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
