//! The metadata of a state file.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow, bail};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value as Json;
use wgpu_optim::checkpoint::settings::{self, value_to_json};
use wgpu_optim::format::Format;
use wgpu_optim::safetensors::{Archive, Unique};
use wgpu_optim::{Chain, Rule, Schedule};

use super::progress::Progress;
use crate::config::chain::tables;
use crate::config::format::FormatKeys;
use crate::config::{Config, Group, first_match};
use crate::report::count;

/// What `format` is in a file of ours.
const FORMAT: &str = "wgpu-optim-state";
/// What `version` is in a file that can be read.
const VERSION: &str = "1";

/// What a state file tells of itself.
pub struct Metadata<R> {
    rule: String,
    pub steps: BTreeMap<String, u64>,
    groups: Vec<SavedSettings<R>>,
    /// The formats of the parameters that have state; those that are not told of are `f32`.
    params: BTreeMap<String, Format>,
    /// The chain, as tables; `None` in a file of before there was one.
    chain: Option<Json>,
    /// What is not the state of a tensor.
    pub progress: Option<Progress>,
    /// The parameters that had no gradient so far.
    pub without_state: BTreeSet<String>,
}

impl<R: Rule> Metadata<R> {
    /// The metadata, if the file is one of ours.
    ///
    /// # Errors
    /// Where it is one of ours and is not for this rule or not sound.
    pub fn read(archive: &Archive) -> Result<Option<Self>> {
        if archive.metadata("format") != Some(FORMAT) {
            return Ok(None);
        }
        Self::parse(archive).with_context(|| format!("{}: metadata", archive.path())).map(Some)
    }

    fn parse(archive: &Archive) -> Result<Self> {
        let get = |key: &str| archive.metadata(key).with_context(|| format!("{key:?} is missing"));
        let version = get("version")?;
        if version != VERSION {
            bail!("the file is of version {version}, this program reads version {VERSION}");
        }
        let rule = get("rule")?;
        if !R::PRESETS.iter().any(|(name, _, _)| *name == rule) {
            bail!("the state is of rule {rule:?}, the config asks for {:?}", R::NAME);
        }
        let Unique(steps) = serde_json::from_str(get("steps")?).context("steps")?;
        let groups: Vec<SavedGroup> = serde_json::from_str(get("groups")?).context("groups")?;
        let groups: Vec<SavedSettings<R>> = groups.into_iter().map(SavedGroup::into_settings).collect::<Result<_>>()?;
        if groups.last().is_none_or(|group| group.pattern.is_some()) {
            bail!("groups: the last must have no match");
        }
        let without_state = serde_json::from_str(get("without_state")?).context("without_state")?;
        let Unique(params) = serde_json::from_str(archive.metadata("params").unwrap_or("{}")).context("params")?;
        let chain = archive.metadata("chain").map(serde_json::from_str).transpose().context("chain")?;
        let progress = archive.metadata("progress").map(Progress::parse).transpose().context("progress")?;
        Ok(Self { rule: rule.into(), steps, groups, params, chain, progress, without_state })
    }

    /// The settings that a tensor was stepped with.
    pub fn settings_of(&self, name: &str) -> &R {
        &self.group_of(name).settings
    }

    /// The format of a tensor's parameters.
    pub fn params_of(&self, name: &str) -> Format {
        self.params.get(name).copied().unwrap_or_default()
    }

    fn group_of(&self, name: &str) -> &SavedSettings<R> {
        let group = first_match(self.groups.iter().map(|group| group.pattern.as_ref()), name);
        &self.groups[group.unwrap_or_default()]
    }

    /// Where a config has other numbers, told once for each number.
    pub fn differences<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
        config: &Config<R>,
        archive: &Archive,
    ) -> Vec<String> {
        let (theirs, ours) = (archive.path(), config.path.display());
        let mut counts: Vec<((String, String, String), u64)> = Vec::new();
        for name in names {
            for difference in differing(self.group_of(name), &config.groups[config.group_of(name)]) {
                match counts.iter_mut().find(|(known, _)| *known == difference) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((difference, 1)),
                }
            }
        }
        let tell = |what: &str, then: &str, now: &str| format!("{what} was {then} in {theirs} and is {now} in {ours}");
        let mut told = Vec::new();
        if self.rule != config.rule {
            told.push(format!("the rule was {} in {theirs} and is {} in {ours}", self.rule, config.rule));
        }
        let numbers = counts.into_iter();
        told.extend(
            numbers.map(|((what, then, now), n)| format!("{} ({})", tell(&what, &then, &now), count(n, "tensor"))),
        );
        let now = chain_json(&config.chain);
        for table in CHAIN {
            let shown = |chain: &Json| chain.get(table).map_or("not there".into(), Json::to_string);
            let (then, now) = (self.chain.as_ref().map_or("not there".into(), shown), shown(&now));
            if then != now {
                told.push(tell(&format!("[{table}]"), &then, &now));
            }
        }
        told
    }
}

/// The tables of a chain.
const CHAIN: [&str; 4] = ["clip", "scaler", "ema", "clamp"];

/// The settings in which a group differs from what it was, and the schedule, with both of them.
fn differing<R: Rule>(then: &SavedSettings<R>, now: &Group<R>) -> Vec<(String, String, String)> {
    let settings = then.settings.settings().into_iter().zip(now.steps[0].settings());
    let mut differing: Vec<_> = settings
        .filter(|((_, then), (_, now))| then != now)
        .map(|((setting, then), (_, now))| (setting.to_string(), then.to_string(), now.to_string()))
        .collect();
    differing.extend(then.format.differing(&now.format));
    if then.schedule != now.schedule {
        let shown = |schedule: &Option<Schedule>| match schedule {
            Some(schedule) => serde_json::to_string(schedule).unwrap_or_default(),
            None => "not there".into(),
        };
        differing.push(("the schedule".into(), shown(&then.schedule), shown(&now.schedule)));
    }
    differing
}

/// The metadata of a file to be written.
pub fn to_json<R: Rule>(
    config: &Config<R>,
    steps: &BTreeMap<String, u64>,
    without_state: &BTreeSet<&str>,
    params: &BTreeMap<&str, Format>,
    progress: &Progress,
) -> Result<serde_json::Map<String, Json>> {
    let groups: Vec<Json> = config.groups.iter().map(group_json).collect::<Result<_>>()?;
    let pairs = [
        ("format", FORMAT.to_string()),
        ("version", VERSION.to_string()),
        ("rule", config.rule.clone()),
        ("preset", config.preset.clone()),
        ("steps", serde_json::to_string(steps)?),
        ("groups", serde_json::to_string(&groups)?),
        ("params", serde_json::to_string(params)?),
        ("chain", serde_json::to_string(&chain_json(&config.chain))?),
        ("progress", serde_json::to_string(progress)?),
        ("without_state", serde_json::to_string(without_state)?),
    ];
    Ok(pairs.into_iter().map(|(key, value)| (key.to_string(), value.into())).collect())
}

/// A group with the settings of its last step, as they are before a schedule moves them.
fn group_json<R: Rule>(group: &Group<R>) -> Result<Json> {
    let settings = group.steps.last().map(settings::to_json).unwrap_or_default();
    let mut json = serde_json::json!({"match": group.pattern.as_ref().map(Regex::as_str), "settings": settings});
    if group.format != FormatKeys::default() {
        json["format"] = serde_json::to_value(&group.format)?;
    }
    if let Some(schedule) = &group.schedule {
        json["schedule"] = serde_json::to_value(schedule)?;
    }
    Ok(json)
}

/// The chain as an object of its tables.
pub fn chain_json(chain: &Chain) -> Json {
    let object = |keys: Vec<(&str, wgpu_optim::rule::Value)>| -> Json {
        keys.into_iter().map(|(key, value)| (key.to_string(), value_to_json(value))).collect()
    };
    tables(chain).into_iter().map(|(table, keys)| (table.to_string(), object(keys))).collect()
}

/// Settings of a group, as they were.
struct SavedSettings<R> {
    pattern: Option<Regex>,
    settings: R,
    format: FormatKeys,
    schedule: Option<Schedule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedGroup {
    #[serde(rename = "match")]
    pattern: Option<String>,
    settings: Unique<Json>,
    #[serde(default)]
    format: FormatKeys,
    schedule: Option<Schedule>,
}

impl SavedGroup {
    fn into_settings<R: Rule>(self) -> Result<SavedSettings<R>> {
        let pattern = self.pattern.as_deref().map(Regex::new).transpose().context("groups")?;
        let Some((_, _, preset)) = R::PRESETS.first() else { bail!("{} has no presets", R::NAME) };
        let settings = settings::from_json(preset, &self.settings.0).map_err(|why| anyhow!("groups: {why}"))?;
        Ok(SavedSettings { pattern, settings, format: self.format, schedule: self.schedule })
    }
}
