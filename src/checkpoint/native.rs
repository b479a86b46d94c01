//! The format of our own: what is written, and what is read of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::running::{self, Running};
use super::saved::{Saved, json, len_of_f32, only, required};
use super::settings;
use super::write::{Outline, Part, Source};
use super::{Extras, checksum};
use crate::chain::control::Control;
use crate::roster::{Member, Roster};
use crate::rule::Rule;
use crate::safetensors::{Archive, Unique};
use crate::schedule::Schedule;

/// What `format` is.
pub(super) const FORMAT: &str = "wgpu-optim-checkpoint";
/// What `version` is in a file that can be read.
const VERSION: &str = "1";
const KEYS: [&str; 12] = [
    checksum::KEY,
    "format",
    "version",
    "rule",
    "groups",
    "steps",
    "frozen",
    "extras",
    running::CHAIN,
    running::RECORDED,
    running::SCALER,
    running::HISTORIES,
];

/// A file of ours, found to be of one piece.
#[derive(Debug)]
pub(super) struct Native {
    pub rule: String,
    groups: Vec<Unique<Json>>,
    /// What each group follows.
    pub schedules: Vec<Option<Schedule>>,
    pub running: Running,
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
    schedule: Option<Schedule>,
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
        let (rule, mut tensors) = (required(archive, "rule")?.into(), tensors(archive, &groups)?);
        let running = Running::parse(archive, &mut tensors)?;
        for (number, group) in groups.iter().enumerate() {
            let checked = group.schedule.as_ref().map_or(Ok(()), Schedule::check);
            checked.map_err(|why| format!("group {number}: {why}"))?;
        }
        let (groups, schedules) = groups.into_iter().map(|group| (group.settings, group.schedule)).unzip();
        let mut native = Self { rule, groups, schedules, running, tensors, values, extras: BTreeMap::new() };
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

/// What of an optimizer its roster does not know.
pub(crate) struct Standing {
    /// Each tensor's step count: that of the device, where steps may be left out there.
    pub steps: Vec<u64>,
    pub control: Control,
}

/// A file with the state of an optimizer, with its parameters if asked for, and with what the caller adds. Shapes are
/// told where they are known.
///
/// # Errors
/// With what could not be read back.
pub(crate) fn outline<R: Rule>(
    roster: &Roster<R>,
    standing: &Standing,
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
    Ok(Outline { metadata: metadata(roster, standing, &extras.values)?, parts })
}

fn metadata<R: Rule>(
    roster: &Roster<R>,
    standing: &Standing,
    extras: &BTreeMap<String, Json>,
) -> Result<Map<String, Json>, String> {
    let members = || roster.members().iter().enumerate();
    let steps = by_name(roster.members(), &standing.steps);
    let frozen = members().filter(|&(tensor, _)| roster.is_frozen(tensor)).map(|(_, member)| member.name.as_str());
    let extras = Json::Object(extras.clone().into_iter().collect()).to_string();
    if let Err(error) = serde_json::from_str::<Json>(&extras) {
        return Err(format!("these extras: {error}"));
    }
    let pairs = [
        ("format", FORMAT.to_string()),
        ("version", VERSION.to_string()),
        ("rule", R::NAME.to_string()),
        ("groups", Json::from(groups(roster)?).to_string()),
        ("steps", steps),
        ("frozen", Json::from(frozen.collect::<Vec<_>>()).to_string()),
        ("extras", extras),
    ];
    let pairs = pairs.into_iter().chain(running::metadata(roster, &standing.control)?);
    Ok(pairs.map(|(key, text)| (key.to_string(), text.into())).collect())
}

fn groups<R: Rule>(roster: &Roster<R>) -> Result<Vec<Json>, String> {
    let mut names = vec![Vec::new(); roster.groups().len()];
    roster.members().iter().for_each(|member| names[member.group].push(member.name.as_str()));
    let group = |((number, settings), tensors): ((usize, &R), Vec<&str>)| {
        let mut group = json!({"settings": settings::to_json(settings), "tensors": tensors});
        if let Some(schedule) = roster.schedule(number).map_err(|error| error.to_string())? {
            group["schedule"] = json!(schedule);
        }
        Ok(group)
    };
    roster.groups().iter().enumerate().zip(names).map(group).collect()
}

/// A number for each tensor, as JSON.
pub(super) fn by_name(members: &[Member], numbers: &[u64]) -> String {
    let pairs = members.iter().zip(numbers);
    Json::from(pairs.map(|(member, &number)| (member.name.clone(), number.into())).collect::<Map<_, _>>()).to_string()
}
