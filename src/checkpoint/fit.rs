//! A file held against an optimizer, before anything is touched: what disagrees, what is to be moved, and what becomes
//! of everything else.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::changes::{changed_structure, changes, tell};
use super::fitted::{Fitted, Request};
use super::saved::Saved;
use super::{Checkpoint, Disagreement, Error, Format, Report, formats, running};
use crate::chain::Chain;
use crate::format::Formats;
use crate::roster::{Count, Member, Roster, nearest};
use crate::rule::{Rule, kept_slots};
use crate::schedule::Schedule;

/// Holds a file against an optimizer, and then against its own checksums.
///
/// # Errors
/// [`Error::Mismatch`] with everything that disagrees; [`Error::Damaged`], [`Error::Unsound`], [`Error::File`].
pub(crate) fn fit<R: Rule>(
    checkpoint: &Checkpoint,
    roster: &Roster<R>,
    request: &Request<'_>,
) -> Result<Fitted<R>, Error> {
    let mut fit = Fit {
        checkpoint,
        roster,
        request,
        groups: Vec::new(),
        same_rule: true,
        disagreements: Vec::new(),
        fitted: Fitted {
            moves: Vec::new(),
            counts: Vec::new(),
            settings: Vec::new(),
            chain: None,
            recorded: None,
            control: None,
            report: Report::default(),
        },
    };
    fit.settings()?;
    fit.running();
    fit.tensors();
    let entries = fit.extras();
    fit.verdict()?;
    checkpoint.verify()?;
    let Fit { mut fitted, .. } = fit;
    for (name, entry) in entries {
        let values = checkpoint.archive.values(&checkpoint.archive.entries()[entry])?;
        fitted.report.extras.tensors.insert(name, values);
    }
    Ok(fitted)
}

/// What is known so far.
pub(super) struct Fit<'a, R: Rule> {
    checkpoint: &'a Checkpoint,
    pub roster: &'a Roster<R>,
    pub request: &'a Request<'a>,
    /// The file's settings; none where it is of another rule.
    groups: Vec<R>,
    pub same_rule: bool,
    pub disagreements: Vec<Disagreement>,
    pub fitted: Fitted<R>,
}

impl<R: Rule> Fit<'_, R> {
    fn settings(&mut self) -> Result<(), Error> {
        let base = self.roster.groups().first().or(R::PRESETS.first().map(|(_, _, preset)| preset));
        match self.checkpoint.groups(base)? {
            Ok(groups) => self.groups = groups,
            Err(other) => {
                self.same_rule = false;
                self.note(other);
                return Ok(());
            }
        }
        if self.request.partial {
            return Ok(());
        }
        let (file, optimizer) = (self.groups.len(), self.roster.groups().len());
        if file != optimizer {
            self.disagreements.push(Disagreement::Groups { file, optimizer });
        }
        for group in 0..file.min(optimizer) {
            self.group(group);
        }
        Ok(())
    }

    fn group(&mut self, group: usize) {
        let (theirs, ours) = (&self.groups[group], &self.roster.groups()[group]);
        let differences = if self.request.retune { changed_structure(theirs, ours) } else { changes(theirs, ours) };
        self.disagreements.extend(tell(group, differences));
        self.disagreements.extend(self.formats(group, group));
        let ours = self.roster.schedule(group).ok().flatten();
        let theirs = match &self.checkpoint.format {
            Format::Native(native) => native.schedules[group].as_ref(),
            // A schedule is none of PyTorch's optimizers'.
            Format::PyTorch(_) => ours,
        };
        if self.request.retune {
            self.fitted.settings.push((group, self.groups[group].clone(), theirs.cloned()));
        } else if theirs != ours {
            let told =
                |schedule: Option<&Schedule>| schedule.map_or("none".into(), |schedule| json!(schedule).to_string());
            let (file, optimizer) = (told(theirs), told(ours));
            self.disagreements.push(Disagreement::Schedule { group, file, optimizer });
        }
    }

    /// The formats in which a group of the file differs from one of the optimizer. A `state_dict()` does not tell: its
    /// tensors do.
    fn formats(&self, theirs: usize, ours: usize) -> Vec<Disagreement> {
        let (Format::Native(native), Ok(optimizer)) = (&self.checkpoint.format, self.roster.formats(ours)) else {
            return Vec::new();
        };
        let slots: Vec<&str> = kept_slots(&self.roster.groups()[ours]).into_iter().map(|slot| R::SLOTS[slot]).collect();
        let plain = Formats::default();
        formats::changes(ours, native.formats.get(theirs).unwrap_or(&plain), optimizer, &slots)
    }

    /// The chain, and what the loop is in the middle of. A `state_dict()` knows nothing of either.
    fn running(&mut self) {
        let Format::Native(native) = &self.checkpoint.format else { return };
        let (theirs, ours) = (&native.running, self.roster.chain());
        if !self.request.partial {
            match self.request.retune {
                true => self.disagreements.extend(running::changed_structure(&theirs.chain, ours)),
                false => self.disagreements.extend(running::changes(&theirs.chain, ours)),
            }
            let chain = Chain { zero_grads: ours.zero_grads, ..theirs.chain.clone() };
            self.fitted.chain = self.request.retune.then_some(chain);
        }
        if !self.same_rule {
            return;
        }
        if self.request.partial {
            self.fitted.report.differences.extend(running::changes(&theirs.chain, ours));
        }
        self.fitted.recorded = theirs.recorded;
        let key = || running::SCALER.to_string();
        match (theirs.control, ours.scaler.is_some()) {
            (Some(control), true) => {
                self.count("the steps that were skipped", control.skipped);
                // What the file's interval had room for, ours may not have.
                self.fitted.control = Some(control.within(self.fitted.chain.as_ref().unwrap_or(ours)));
                self.fitted.report.loaded.push(key());
            }
            (Some(_), false) => self.fitted.report.ignored.push(key()),
            (None, true) => self.fitted.report.left.push(key()),
            (None, false) => {}
        }
    }

    fn count(&mut self, what: &str, file: u64) {
        let most = self.request.most;
        if file > most {
            self.disagreements.push(Disagreement::Count { what: what.into(), file, most });
        }
    }

    fn tensors(&mut self) {
        let tensors = match &self.checkpoint.format {
            Format::Native(native) => Cow::Borrowed(&native.tensors),
            Format::PyTorch(dict) => {
                let (tensors, disagreements) = dict.named(self.roster);
                self.disagreements.extend(disagreements);
                self.fitted.report.ignored.extend(dict.ignored.iter().cloned());
                Cow::Owned(tensors)
            }
        };
        for (tensor, member) in self.roster.members().iter().enumerate() {
            match tensors.get(&member.name) {
                Some(saved) => self.tensor(tensor, member, saved),
                None => self.missing(tensor, member),
            }
        }
        self.unexpected(&tensors);
        if self.request.partial {
            self.differences(&tensors);
        }
    }

    fn tensor(&mut self, tensor: usize, member: &Member, saved: &Saved) {
        let name = || member.name.clone();
        if let Some(file) = saved.len.filter(|&len| len != member.len) {
            self.disagreements.push(Disagreement::Length { name: name(), file, optimizer: member.len });
            return;
        }
        if !self.request.partial && saved.group != member.group {
            let (file, optimizer) = (saved.group, member.group);
            self.disagreements.push(Disagreement::Group { name: name(), file, optimizer });
        }
        if self.same_rule {
            let frozen = saved.frozen.filter(|_| !self.request.partial);
            self.count(&format!("the steps of {:?}", member.name), saved.step);
            self.fitted.counts.push(Count { tensor, step: saved.step, history: saved.history, frozen });
        }
        self.slots(tensor, member, saved);
        self.params(tensor, member, saved);
    }

    fn missing(&mut self, tensor: usize, member: &Member) {
        let name = member.name.clone();
        if !self.request.partial {
            self.disagreements.push(Disagreement::MissingTensor { name, len: member.len });
            return;
        }
        let kept = self.roster.slots(tensor).into_iter();
        self.fitted.report.left.extend(kept.map(|slot| format!("state.{name}.{slot}")));
        self.fitted.report.left.extend(self.request.params.then(|| format!("params.{name}")));
    }

    fn unexpected(&mut self, tensors: &BTreeMap<String, Saved>) {
        let ours: BTreeSet<&str> = self.roster.members().iter().map(|member| member.name.as_str()).collect();
        for (name, saved) in tensors.iter().filter(|(name, _)| !ours.contains(name.as_str())) {
            if self.request.partial {
                let slots = saved.slots.keys().map(|slot| format!("state.{name}.{slot}"));
                let params = saved.params.map(|_| format!("params.{name}"));
                self.fitted.report.ignored.extend(slots.chain(params));
            } else {
                // Looking for a likeness costs a walk over all names: enough for those that are listed.
                let near = if self.disagreements.len() < NEAREST { nearest(name, ours.iter().copied()) } else { None };
                self.disagreements.push(Disagreement::UnexpectedTensor { name: name.clone(), nearest: near });
            }
        }
    }

    /// The settings that tensors had in the file and have not here, each told once.
    fn differences(&mut self, tensors: &BTreeMap<String, Saved>) {
        let pair = |member: &Member| Some((tensors.get(&member.name)?.group, member.group));
        let pairs: BTreeSet<(usize, usize)> = self.roster.members().iter().filter_map(pair).collect();
        for (theirs, ours) in pairs {
            if let Some(settings) = self.groups.get(theirs) {
                let differences = tell(ours, changes(settings, &self.roster.groups()[ours]));
                self.fitted.report.differences.extend(differences);
                let formats = self.formats(theirs, ours);
                self.fitted.report.differences.extend(formats);
            }
        }
    }

    /// The caller's sections; those that are tensors by the numbers of their entries.
    fn extras(&mut self) -> Vec<(String, usize)> {
        let none = (BTreeMap::new(), BTreeMap::new());
        let (values, tensors) = match &self.checkpoint.format {
            Format::Native(native) => (&native.values, &native.extras),
            Format::PyTorch(_) => (&none.0, &none.1),
        };
        let found: BTreeSet<&String> = values.keys().chain(tensors.keys()).collect();
        for name in &found {
            match (self.request.extras.contains(&name.as_str()), self.request.partial) {
                (true, _) => self.fitted.report.loaded.push(format!("extra.{name}")),
                (false, true) => self.fitted.report.ignored.push(format!("extra.{name}")),
                (false, false) => self.disagreements.push(Disagreement::UnexpectedExtra { name: name.to_string() }),
            }
        }
        for name in self.request.extras.iter().filter(|name| !found.contains(&name.to_string())) {
            match self.request.partial {
                true => self.fitted.report.left.push(format!("extra.{name}")),
                false => self.disagreements.push(Disagreement::MissingExtra { name: name.to_string() }),
            }
        }
        let wanted = |name: &str| self.request.extras.contains(&name);
        let values = values.iter().filter(|(name, _)| wanted(name));
        self.fitted.report.extras.values = values.map(|(name, value)| (name.clone(), value.clone())).collect();
        let tensors = tensors.iter().filter(|(name, _)| wanted(name));
        tensors.map(|(name, entry)| (name.clone(), *entry)).collect()
    }

    /// A disagreement that is only told where a part is enough.
    fn note(&mut self, disagreement: Disagreement) {
        match self.request.partial {
            true => self.fitted.report.differences.push(disagreement),
            false => self.disagreements.push(disagreement),
        }
    }

    fn verdict(&mut self) -> Result<(), Error> {
        if self.disagreements.is_empty() {
            return Ok(());
        }
        let disagreements = std::mem::take(&mut self.disagreements);
        Err(Error::Mismatch { path: self.checkpoint.path().into(), disagreements })
    }
}

/// Disagreements beyond which no likeness of names is looked for.
const NEAREST: usize = 12;
