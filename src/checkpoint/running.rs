//! What a loop is in the middle of, beside the state of its tensors: the chain, the scaler's memory, where schedules
//! are.
//!
//! A file that is older than these says nothing of them: nothing was in use.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::Disagreement;
use super::native::by_name;
use super::saved::{Saved, json};
use crate::chain::Chain;
use crate::chain::control::Control;
use crate::roster::Roster;
use crate::rule::Rule;
use crate::safetensors::{Archive, Unique};

pub(super) const CHAIN: &str = "chain";
pub(super) const RECORDED: &str = "recorded";
pub(super) const SCALER: &str = "scaler";
pub(super) const HISTORIES: &str = "histories";

/// What a file says of it.
#[derive(Debug)]
pub(super) struct Running {
    pub chain: Chain,
    pub recorded: Option<u64>,
    /// Where there is a scaler.
    pub control: Option<Control>,
}

/// [`Control`] as JSON. An `f32` is the same number as an `f64`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    scale: f64,
    growth_tracker: u32,
    skipped: u64,
}

impl Running {
    /// Reads it, and what tells the tensors' histories apart.
    ///
    /// # Errors
    /// With the first thing that does not hold together.
    pub fn parse(archive: &Archive, tensors: &mut BTreeMap<String, Saved>) -> Result<Self, String> {
        let recorded = has(archive, RECORDED).then(|| json(archive, RECORDED)).transpose()?;
        let chain = if has(archive, CHAIN) { chain(archive)? } else { Chain::default() };
        let scaled = chain.scaler.is_some();
        for key in [SCALER, HISTORIES] {
            if has(archive, key) != scaled {
                let (has, scaler) = if scaled { ("no", "a") } else { ("a", "no") };
                return Err(format!("the metadata have {has} {key:?}, and the chain has {scaler} scaler"));
            }
        }
        if !scaled {
            return Ok(Self { chain, recorded, control: None });
        }
        let Unique(mut histories) = json::<Unique<u64>>(archive, HISTORIES)?;
        for (name, saved) in tensors {
            let missing = || format!("{HISTORIES:?} of the metadata has no {name:?}");
            saved.history = histories.remove(name).ok_or_else(missing)?;
        }
        match histories.into_keys().next() {
            Some(name) => Err(format!("no group has {name:?}, which is in {HISTORIES:?}")),
            None => {
                let control = control(archive, &chain)?;
                Ok(Self { chain, recorded, control: Some(control) })
            }
        }
    }
}

fn has(archive: &Archive, key: &str) -> bool {
    archive.metadata(key).is_some()
}

/// The chain, every setting of it given.
fn chain(archive: &Archive) -> Result<Chain, String> {
    let chain: Chain = json(archive, CHAIN)?;
    chain.check().map_err(|error| error.to_string())?;
    let (given, whole) = (settings(&json(archive, CHAIN)?), settings(&json!(chain)));
    match whole.keys().find(|setting| !given.contains_key(*setting)) {
        Some(missing) => Err(format!("{CHAIN:?} of the metadata has no {missing:?}")),
        None => Ok(chain),
    }
}

fn control(archive: &Archive, chain: &Chain) -> Result<Control, String> {
    let Memory { scale, growth_tracker, skipped } = json(archive, SCALER)?;
    let exact = scale as f32;
    if !exact.is_finite() || exact <= 0.0 || f64::from(exact) != scale {
        return Err(format!("{SCALER:?} of the metadata: the scale is {scale}, expected a finite f32 > 0"));
    }
    let control = Control { scale: exact, growth_tracker, skipped };
    control.check(chain).map_err(|error| format!("{SCALER:?} of the metadata: {error}"))?;
    Ok(control)
}

/// The pairs of the metadata.
///
/// # Errors
/// With what could not be read back.
pub(super) fn metadata<R: Rule>(roster: &Roster<R>, control: &Control) -> Result<Vec<(&'static str, String)>, String> {
    let mut pairs = vec![(CHAIN, json!(roster.chain()).to_string()), (RECORDED, roster.recorded().to_string())];
    if roster.chain().scaler.is_some() {
        let &Control { scale, growth_tracker, skipped } = control;
        if !(scale.is_finite() && scale > 0.0) {
            return Err(format!("the scale {scale}: it is to be finite and > 0"));
        }
        pairs.push((SCALER, json!(Memory { scale: scale.into(), growth_tracker, skipped }).to_string()));
        pairs.push((HISTORIES, by_name(roster.members(), &roster.histories())));
    }
    Ok(pairs)
}

/// The settings in which two chains differ. Whether gradients are zeroed is left out: no step computes anything else by
/// it.
pub(super) fn changes(file: &Chain, optimizer: &Chain) -> Vec<Disagreement> {
    let of = |chain: &Chain| settings(&json!(Chain { zero_grads: false, ..chain.clone() }));
    let (theirs, ours) = (of(file), of(optimizer));
    let names: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    let told = |value: Option<&Json>| {
        value.map_or("off".to_string(), |value| match value {
            Json::Object(_) => "on".into(),
            other => other.to_string(),
        })
    };
    let mut changes = Vec::new();
    for name in names.into_iter().filter(|name| theirs.get(*name) != ours.get(*name)) {
        // Of a part that only one of them has, the part says all.
        let part = name.split_once('.').map(|(part, _)| part.to_string());
        if part.is_some_and(|part| theirs.contains_key(&part) != ours.contains_key(&part)) {
            continue;
        }
        let (file, optimizer) = (told(theirs.get(name)), told(ours.get(name)));
        changes.push(Disagreement::Chain { setting: name.clone(), file, optimizer });
    }
    changes
}

/// The parts that need other state, or other bookkeeping, in one of two chains.
pub(super) fn changed_structure(file: &Chain, optimizer: &Chain) -> impl Iterator<Item = Disagreement> {
    file.changed_structure(optimizer).map(|(part, file, optimizer)| Disagreement::Chain {
        setting: part.into(),
        file: file.into(),
        optimizer: optimizer.into(),
    })
}

/// The parts, each an empty table, and their settings as `part.setting`.
fn settings(chain: &Json) -> BTreeMap<String, Json> {
    let mut settings = BTreeMap::new();
    for (name, value) in chain.as_object().into_iter().flatten() {
        match value {
            Json::Object(part) => {
                settings.extend(part.iter().map(|(setting, value)| (format!("{name}.{setting}"), value.clone())));
                settings.insert(name.clone(), Map::new().into());
            }
            value => drop(settings.insert(name.clone(), value.clone())),
        }
    }
    settings
}
