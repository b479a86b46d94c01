//! The format of our own: what is written, and what is read of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::formats::{self, FORMATS, Named};
use super::running::{self, Running};
use super::saved::{Saved, dtype, json, len_of_f32, only, required};
use super::settings;
use super::write::{Outline, Part, Source};
use super::{Extras, checksum};
use crate::chain::control::Control;
use crate::format::blocks::BLOCK;
use crate::format::{Formats, Plane};
use crate::roster::{Member, Roster};
use crate::rule::{Rule, kept_slots};
use crate::safetensors::{Archive, Dtype, Unique};
use crate::schedule::Schedule;

/// What `format` is.
pub(super) const FORMAT: &str = "wgpu-optim-checkpoint";
/// What `version` is where all numbers are in `f32`, and where groups have formats.
const VERSIONS: [&str; 2] = ["1", "2"];
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
    /// How the numbers of each group lie; none in a file of version 1, which does not tell.
    pub formats: Vec<Formats>,
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
    formats: Option<Named>,
}

impl Native {
    /// Reads the metadata, and sorts the entries by tensor.
    ///
    /// # Errors
    /// With the first thing that does not hold together.
    pub fn parse(archive: &Archive) -> Result<Self, String> {
        let version = required(archive, "version")?;
        if !VERSIONS.contains(&version) {
            let known = VERSIONS.join(" and ");
            return Err(format!("the checkpoint is of version {version}, this library reads versions {known}"));
        }
        only(archive, &KEYS)?;
        required(archive, checksum::KEY)?;
        let mut groups: Vec<Group> = json(archive, "groups")?;
        let formats = formats_of(version, &mut groups)?;
        let Unique(values) = json(archive, "extras")?;
        let (rule, mut tensors) = (required(archive, "rule")?.into(), tensors(archive, &groups)?);
        let running = Running::parse(archive, &mut tensors)?;
        for (number, group) in groups.iter().enumerate() {
            let checked = group.schedule.as_ref().map_or(Ok(()), Schedule::check);
            checked.map_err(|why| format!("group {number}: {why}"))?;
        }
        let (groups, schedules) = groups.into_iter().map(|group| (group.settings, group.schedule)).unzip();
        let mut native = Self { rule, groups, schedules, formats, running, tensors, values, extras: BTreeMap::new() };
        native.sort_all(archive)?;
        Ok(native)
    }

    /// Puts all entries where they belong, scales last: they are held against codes.
    fn sort_all(&mut self, archive: &Archive) -> Result<(), String> {
        let is_scale = |entry: &usize| archive.entries()[*entry].name.starts_with(SCALES);
        let (scales, rest): (Vec<usize>, Vec<usize>) = (0..archive.entries().len()).partition(is_scale);
        rest.into_iter().chain(scales).try_for_each(|entry| self.sort(archive, entry))?;
        let plain = Formats::default();
        let check = |saved: &Saved| saved.check(archive, self.formats.get(saved.group).unwrap_or(&plain));
        self.tensors.values().try_for_each(check)
    }

    /// Puts an entry where it belongs.
    fn sort(&mut self, archive: &Archive, entry: usize) -> Result<(), String> {
        let key = archive.entries()[entry].name.as_str();
        if let Some(name) = key.strip_prefix("extra.") {
            len_of_f32(archive, entry)?;
            self.extras.insert(name.into(), entry);
            return Ok(());
        }
        let slot_of = |prefix| key.strip_prefix(prefix).and_then(|rest: &str| rest.rsplit_once('.'));
        let forms = || format!("{key:?} is not of the form state.NAME.SLOT, params.NAME or extra.NAME");
        let (name, slot, scales) = match (key.strip_prefix("params."), slot_of("state."), slot_of(SCALES)) {
            (Some(name), ..) => (name, None, false),
            (_, Some((name, slot)), _) => (name, Some(slot), false),
            (.., scales) => scales.map(|(name, slot)| (name, Some(slot), true)).ok_or_else(forms)?,
        };
        let saved = self.tensors.get_mut(name).ok_or_else(|| format!("{key:?}: no group has {name:?}"))?;
        match slot.filter(|_| scales) {
            Some(slot) => saved.add_scales(archive, entry, slot),
            None => saved.add(archive, entry, slot),
        }
    }

    /// The entries that hold scales.
    pub fn scales(&self) -> impl Iterator<Item = usize> {
        self.tensors.values().flat_map(|saved| saved.slots.values().filter_map(|stored| stored.scales))
    }

    /// The settings of each group.
    pub fn settings<R: Rule>(&self, base: Option<&R>) -> Result<Vec<R>, String> {
        let base = base.ok_or_else(|| format!("{} has no preset to read settings by", R::NAME))?;
        let read = |(number, Unique(values)): (usize, &Unique<Json>)| {
            let settings = settings::from_json(base, values);
            let checked = settings.and_then(|settings| match self.formats.get(number) {
                Some(of) => formats::check_slots(of, &slot_names(&settings)).map(|()| settings),
                None => Ok(settings),
            });
            checked.map_err(|why| format!("group {number}: {why}"))
        };
        self.groups.iter().enumerate().map(read).collect()
    }
}

/// What the keys of scales start with.
const SCALES: &str = "scales.";

/// The formats of each group, or nothing where the version knows of none.
fn formats_of(version: &str, groups: &mut [Group]) -> Result<Vec<Formats>, String> {
    let known = version != VERSIONS[0];
    let of = |(number, group): (usize, &mut Group)| match (group.formats.take(), known) {
        (None, false) => Ok(None),
        (Some(named), true) => named.formats().map(Some).map_err(|why| format!("group {number}: {why}")),
        (Some(_), false) => Err(format!("group {number} has {FORMATS}, which version {version} does not know")),
        (None, true) => Err(format!("group {number} has no {FORMATS}, which version {version} has")),
    };
    Ok(groups.iter_mut().enumerate().map(of).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// The slots that a rule keeps, by name.
fn slot_names<R: Rule>(settings: &R) -> Vec<&'static str> {
    kept_slots(settings).into_iter().map(|slot| R::SLOTS[slot]).collect()
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
        let shape = shape(tensor).unwrap_or_else(|| vec![member.len]);
        for (plane, Plane { slot, storage }) in roster.planes(tensor).into_iter().enumerate() {
            if slot.contains('.') {
                return Err(format!("the slot {slot:?}: a point ends the name of a tensor"));
            }
            let (key, source) = (format!("state.{}.{slot}", member.name), Source::Slot(tensor, plane));
            parts.push(Part { key, dtype: dtype(storage), shape: shape.clone(), source });
            if storage.has_scales() {
                let (key, shape) = (format!("{SCALES}{}.{slot}", member.name), vec![member.len.div_ceil(BLOCK)]);
                parts.push(Part { key, dtype: Dtype::F32, shape, source: Source::Scales(tensor, plane) });
            }
        }
        if params {
            let storage = roster.formats(member.group).map_err(|error| error.to_string())?.params.storage();
            let (key, source) = (format!("params.{}", member.name), Source::Params(tensor));
            parts.push(Part { key, dtype: dtype(storage), shape, source });
        }
    }
    for (name, values) in &extras.tensors {
        let (key, shape) = (format!("extra.{name}"), vec![values.len() as u64]);
        parts.push(Part { key, dtype: Dtype::F32, shape, source: Source::Values(values.clone()) });
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
    let idle = |(number, settings)| {
        roster.formats(number).is_ok_and(|formats| formats::are_idle(formats, &slot_names::<R>(settings)))
    };
    let formatted = !roster.groups().iter().enumerate().all(idle);
    let pairs = [
        ("format", FORMAT.to_string()),
        ("version", VERSIONS[usize::from(formatted)].to_string()),
        ("rule", R::NAME.to_string()),
        ("groups", Json::from(groups(roster, formatted)?).to_string()),
        ("steps", steps),
        ("frozen", Json::from(frozen.collect::<Vec<_>>()).to_string()),
        ("extras", extras),
    ];
    let pairs = pairs.into_iter().chain(running::metadata(roster, &standing.control)?);
    Ok(pairs.map(|(key, text)| (key.to_string(), text.into())).collect())
}

fn groups<R: Rule>(roster: &Roster<R>, formatted: bool) -> Result<Vec<Json>, String> {
    let mut names = vec![Vec::new(); roster.groups().len()];
    roster.members().iter().for_each(|member| names[member.group].push(member.name.as_str()));
    let group = |((number, settings), tensors): ((usize, &R), Vec<&str>)| {
        let mut group = json!({"settings": settings::to_json(settings), "tensors": tensors});
        if let Some(schedule) = roster.schedule(number).map_err(|error| error.to_string())? {
            group["schedule"] = json!(schedule);
        }
        if formatted {
            let formats = roster.formats(number).map_err(|error| error.to_string())?;
            group[FORMATS] = formats::to_json(formats, &slot_names(settings));
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
