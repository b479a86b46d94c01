//! A tensor's arrays: which of a file's they are filled from, as they are or cast where that was asked for.

use std::collections::BTreeSet;

use super::Disagreement;
use super::cast::Array;
use super::fit::Fit;
use super::fitted::{From, Move, Numbers, Plane};
use super::saved::{Saved, Stored};
use crate::format::{self, KAHAN, MASTER, Storage};
use crate::roster::Member;
use crate::rule::Rule;

/// What parameters are called where something may be cast.
const PARAMS: &str = "params";

impl<R: Rule> Fit<'_, R> {
    /// Slots of another rule are no state of this one, whatever their names.
    pub(super) fn slots(&mut self, tensor: usize, member: &Member, saved: &Saved) {
        let kept = self.roster.planes(tensor);
        let mut strange: BTreeSet<&String> = saved.slots.keys().collect();
        let mut complete = true;
        for (plane, &kept) in kept.iter().enumerate() {
            if self.same_rule {
                strange.retain(|strange| *strange != kept.slot || !saved.slots.contains_key(kept.slot));
            }
            complete &= self.slot((tensor, plane), member, saved, kept);
        }
        let strict = self.same_rule && !self.request.partial;
        if strict && !(complete && strange.is_empty()) {
            let optimizer = kept.iter().map(|plane| plane.slot).collect();
            let (name, file) = (member.name.clone(), saved.slots.keys().cloned().collect());
            self.disagreements.push(Disagreement::Slots { name, file, optimizer });
        }
        self.fitted.report.ignored.extend(strange.into_iter().map(|slot| format!("state.{}.{slot}", member.name)));
    }

    /// One slot; `false` if the file has nothing of it.
    fn slot(&mut self, of: (usize, usize), member: &Member, saved: &Saved, kept: format::Plane) -> bool {
        let format::Plane { slot, storage } = kept;
        let key = format!("state.{}.{slot}", member.name);
        let stored = saved.slots.get(slot).copied().filter(|_| self.same_rule);
        match stored.or_else(|| self.beside(slot, saved)) {
            Some(stored) if !self.fits(&stored, (member, slot), storage) => return true,
            Some(stored) => {
                let numbers = numbers(&stored, is_signed::<R>(slot));
                self.fill(of, self.array(member, storage), Some(stored), numbers);
            }
            None if (saved.fresh && self.same_rule) || self.starts_afresh(slot, saved) => {
                let initial = self.roster.initial(of.0, slot) as f32;
                self.fill(of, self.array(member, storage), None, Numbers::Initial(initial));
            }
            None => {
                self.fitted.report.left.push(key);
                return false;
            }
        }
        self.fitted.report.loaded.push(key);
        true
    }

    /// Parameters that were `f32` are a master as they are.
    fn beside(&self, slot: &str, saved: &Saved) -> Option<Stored> {
        let cast = self.request.cast.contains(&PARAMS) && self.starts_afresh(slot, saved);
        saved.params.filter(|params| cast && slot == MASTER && params.format == Storage::F32.word())
    }

    /// What is kept beside parameters means nothing once they are others.
    fn starts_afresh(&self, slot: &str, saved: &Saved) -> bool {
        let others = self.request.partial && self.request.params && saved.params.is_some();
        others && (slot == MASTER || slot == KAHAN)
    }

    /// Whether an array is as the optimizer has it, or may be cast; told if not.
    fn fits(&mut self, stored: &Stored, (member, what): (&Member, &str), storage: Storage) -> bool {
        let (file, optimizer) = (stored.format, storage.word());
        let fits = file == optimizer || (self.request.partial && self.request.cast.contains(&what));
        if !fits {
            let (name, what) = (member.name.clone(), what.into());
            self.disagreements.push(Disagreement::Stored { name, what, file, optimizer });
        }
        fits
    }

    fn array(&self, member: &Member, storage: Storage) -> Array {
        let zero = self.roster.formats(member.group).map_or_else(|_| Default::default(), |formats| formats.q8_zero);
        Array { storage, zero, scales: false, len: member.len }
    }

    /// Fills a slot, and the scales of its blocks, with what is stored in this format, or with numbers.
    fn fill(&mut self, (tensor, plane): (usize, usize), array: Array, stored: Option<Stored>, numbers: Numbers) {
        let as_it_is = stored.filter(|stored| stored.format == array.storage.word());
        let from = as_it_is.map_or(From::Made(numbers, array), |stored| From::Entry(stored.entry));
        self.fitted.moves.push(Move { tensor, plane: Plane::Slot(plane), from });
        if array.storage.has_scales() {
            let made = From::Made(numbers, Array { scales: true, ..array });
            let from = as_it_is.and_then(|stored| stored.scales).map_or(made, From::Entry);
            self.fitted.moves.push(Move { tensor, plane: Plane::Scales(plane), from });
        }
    }

    pub(super) fn params(&mut self, tensor: usize, member: &Member, saved: &Saved) {
        let key = format!("params.{}", member.name);
        match (saved.params, self.request.params) {
            (Some(stored), true) => {
                let format = self.roster.formats(member.group).map_or_else(|_| Default::default(), |own| own.params);
                if self.fits(&stored, (member, PARAMS), format.storage()) {
                    let from = match stored.format == format.storage().word() {
                        true => From::Entry(stored.entry),
                        false => From::Made(numbers(&stored, true), self.array(member, format.storage())),
                    };
                    self.fitted.moves.push(Move { tensor, plane: Plane::Params, from });
                    self.fitted.report.loaded.push(key);
                }
            }
            (Some(_), false) => self.fitted.report.ignored.push(key),
            (None, true) if self.request.partial => self.fitted.report.left.push(key),
            (None, true) => self.disagreements.push(Disagreement::MissingParams { name: member.name.clone() }),
            (None, false) => {}
        }
    }
}

fn numbers(stored: &Stored, signed: bool) -> Numbers {
    Numbers::Stored { entry: stored.entry, scales: stored.scales, storage: stored.storage(signed) }
}

/// Whether a slot can hold numbers below 0.
fn is_signed<R: Rule>(slot: &str) -> bool {
    R::SLOTS.iter().position(|known| *known == slot).is_none_or(R::is_signed)
}
