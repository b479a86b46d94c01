//! The format of our own: what is written, and what is read of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::saved::{Saved, json, len_of_f32, only, required};
use super::settings;
use super::write::{Outline, Part, Source};
use super::{Extras, checksum};
use crate::roster::Roster;
use crate::rule::Rule;
use crate::safetensors::{Archive, Unique};

/// What `format` is.
pub(super) const FORMAT: &str = "wgpu-optim-checkpoint";
/// What `version` is in a file that can be read.
const VERSION: &str = "1";
const KEYS: [&str; 8] = [checksum::KEY, "format", "version", "rule", "groups", "steps", "frozen", "extras"];

/// A file of ours, found to be of one piece.
#[derive(Debug)]
pub(super) struct Native {
    pub rule: String,
    groups: Vec<Unique<Json>>,
    pub tensors: BTreeMap<String, Saved>,
    /// Sections of the caller's: values, and the numbers of their entries.
    pub values: BTreeMap<String, Json>,
    pub extras: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    settings: Unique<Json>,
    tensors: Vec<String>,
}

impl Native {
    /// Reads the metadata, and sorts the entries by tensor.
    ///
    /// # Errors
    /// With the first thing that does not hold together.
    pub fn parse(archive: &Archive) -> Result<Self, String> {
        let version = required(archive, "version")?;
        if version != VERSION {
            return Err(format!("the checkpoint is of version {version}, this library reads version {VERSION}"));
        }
        only(archive, &KEYS)?;
        required(archive, checksum::KEY)?;
        let groups: Vec<Group> = json(archive, "groups")?;
        let Unique(values) = json(archive, "extras")?;
        let (rule, tensors, extras) = (required(archive, "rule")?.into(), tensors(archive, &groups)?, BTreeMap::new());
        let groups = groups.into_iter().map(|group| group.settings).collect();
        let mut native = Self { rule, groups, tensors, values, extras };
        (0..archive.entries().len()).try_for_each(|entry| native.sort(archive, entry))?;
        Ok(native)
    }

    /// Puts an entry where it belongs.
    fn sort(&mut self, archive: &Archive, entry: usize) -> Result<(), String> {
        let key = archive.entries()[entry].name.as_str();
        if let Some(name) = key.strip_prefix("extra.") {
            len_of_f32(archive, entry)?;
            self.extras.insert(name.into(), entry);
            return Ok(());
        }
        let state = || key.strip_prefix("state.").and_then(|rest| rest.rsplit_once('.'));
        let (name, slot) = match key.strip_prefix("params.") {
            Some(name) => (name, None),
            None => {
                let forms = || format!("{key:?} is not of the form state.NAME.SLOT, params.NAME or extra.NAME");
                state().map(|(name, slot)| (name, Some(slot))).ok_or_else(forms)?
            }
        };
        let saved = self.tensors.get_mut(name);
        saved.ok_or_else(|| format!("{key:?}: no group has {name:?}"))?.add(archive, entry, slot)
    }

    /// The settings of each group.
    pub fn settings<R: Rule>(&self, base: Option<&R>) -> Result<Vec<R>, String> {
        let base = base.ok_or_else(|| format!("{} has no preset to read settings by", R::NAME))?;
        let read = |(number, Unique(values)): (usize, &Unique<Json>)| {
            settings::from_json(base, values).map_err(|why| format!("group {number}: {why}"))
        };
        self.groups.iter().enumerate().map(read).collect()
    }
}

/// The tensors that the metadata name, each in one group and with one step count.
fn tensors(archive: &Archive, groups: &[Group]) -> Result<BTreeMap<String, Saved>, String> {
    let Unique(mut steps) = json::<Unique<u64>>(archive, "steps")?;
    let mut frozen: BTreeSet<String> = json(archive, "frozen")?;
    let mut tensors = BTreeMap::new();
    for (number, group) in groups.iter().enumerate() {
        for name in &group.tensors {
            let step = steps.remove(name).ok_or_else(|| match tensors.contains_key(name) {
                true => format!("{name:?} is in two groups"),
                false => format!("the metadata have no step count of {name:?}"),
            })?;
            tensors.insert(name.clone(), Saved::new(number, step, Some(frozen.remove(name))));
        }
    }
    match steps.into_keys().chain(frozen).next() {
        Some(name) => Err(format!("no group has {name:?}, which is counted or frozen")),
        None => Ok(tensors),
    }
}

/// A file with the state of an optimizer, with its parameters if asked for, and with what the caller adds. Shapes are
/// told where they are known.
///
/// # Errors
/// With what could not be read back.
pub(crate) fn outline<R: Rule>(
    roster: &Roster<R>,
    params: bool,
    extras: &Extras,
    shape: impl Fn(usize) -> Option<Vec<u64>>,
) -> Result<Outline, String> {
    let mut parts = Vec::new();
    for (tensor, member) in roster.members().iter().enumerate() {
        let part = |key, source| Part { key, shape: shape(tensor).unwrap_or_else(|| vec![member.len]), source };
        for (plane, name) in roster.slots(tensor).into_iter().enumerate() {
            if name.contains('.') {
                return Err(format!("the slot {name:?}: a point ends the name of a tensor"));
            }
            parts.push(part(format!("state.{}.{name}", member.name), Source::Slot(tensor, plane)));
        }
        if params {
            parts.push(part(format!("params.{}", member.name), Source::Params(tensor)));
        }
    }
    for (name, values) in &extras.tensors {
        let (key, shape) = (format!("extra.{name}"), vec![values.len() as u64]);
        parts.push(Part { key, shape, source: Source::Values(values.clone()) });
    }
    Ok(Outline { metadata: metadata(roster, &extras.values)?, parts })
}

fn metadata<R: Rule>(roster: &Roster<R>, extras: &BTreeMap<String, Json>) -> Result<Map<String, Json>, String> {
    let members = || roster.members().iter().enumerate();
    let mut names = vec![Vec::new(); roster.groups().len()];
    members().for_each(|(_, member)| names[member.group].push(member.name.as_str()));
    let group = |(settings, tensors)| json!({"settings": settings::to_json(settings), "tensors": tensors});
    let groups: Vec<Json> = roster.groups().iter().zip(names).map(group).collect();
    let step = |(tensor, member): (usize, &crate::roster::Member)| (member.name.clone(), roster.step_of(tensor).into());
    let steps: Map<String, Json> = members().map(step).collect();
    let frozen = members().filter(|&(tensor, _)| roster.is_frozen(tensor)).map(|(_, member)| member.name.as_str());
    let extras = Json::Object(extras.clone().into_iter().collect()).to_string();
    if let Err(error) = serde_json::from_str::<Json>(&extras) {
        return Err(format!("these extras: {error}"));
    }
    let pairs = [
        ("format", FORMAT.to_string()),
        ("version", VERSION.to_string()),
        ("rule", R::NAME.to_string()),
        ("groups", Json::from(groups).to_string()),
        ("steps", Json::from(steps).to_string()),
        ("frozen", Json::from(frozen.collect::<Vec<_>>()).to_string()),
        ("extras", extras),
    ];
    Ok(pairs.into_iter().map(|(key, text)| (key.to_string(), text.into())).collect())
}
