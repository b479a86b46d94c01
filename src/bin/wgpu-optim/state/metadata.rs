//! The metadata of a state file.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow, bail};
use regex::Regex;
use serde::Deserialize;
use wgpu_optim::Rule;
use wgpu_optim::checkpoint::settings;
use wgpu_optim::rule::Value;
use wgpu_optim::safetensors::{Archive, Unique};

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
    groups: Vec<(Option<Regex>, R)>,
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
        let groups: Vec<_> = groups.into_iter().map(SavedGroup::into_settings).collect::<Result<_>>()?;
        if groups.last().is_none_or(|(pattern, _)| pattern.is_some()) {
            bail!("groups: the last must have no match");
        }
        let without_state = serde_json::from_str(get("without_state")?).context("without_state")?;
        Ok(Self { rule: rule.into(), steps, groups, without_state })
    }

    /// The settings that a tensor was stepped with.
    pub fn settings_of(&self, name: &str) -> &R {
        let group = first_match(self.groups.iter().map(|(pattern, _)| pattern.as_ref()), name);
        &self.groups[group.unwrap_or_default()].1
    }

    /// Where a config has other numbers, told once for each number.
    pub fn differences<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
        config: &Config<R>,
        archive: &Archive,
    ) -> Vec<String> {
        let (theirs, ours) = (archive.path(), config.path.display());
        let mut counts: Vec<((&str, Value, Value), u64)> = Vec::new();
        for name in names {
            let now = config.groups[config.group_of(name)].steps[0].settings();
            for ((setting, then), (_, now)) in self.settings_of(name).settings().into_iter().zip(now) {
                let difference = (setting, then, now);
                match counts.iter_mut().find(|(known, _)| *known == difference) {
                    Some((_, count)) => *count += 1,
                    None if difference.1 == difference.2 => {}
                    None => counts.push((difference, 1)),
                }
            }
        }
        let tell = |((setting, then, now), n)| {
            format!("{setting} was {then} in {theirs} and is {now} in {ours} ({})", count(n, "tensor"))
        };
        let rule = (self.rule != config.rule)
            .then(|| format!("the rule was {} in {theirs} and is {} in {ours}", self.rule, config.rule));
        rule.into_iter().chain(counts.into_iter().map(tell)).collect()
    }
}

/// The metadata of a file to be written.
pub fn to_json<R: Rule>(
    config: &Config<R>,
    steps: &BTreeMap<String, u64>,
    without_state: &BTreeSet<&str>,
) -> Result<serde_json::Map<String, serde_json::Value>> {
    let groups: Vec<serde_json::Value> = config.groups.iter().map(group_json).collect();
    let pairs = [
        ("format", FORMAT.to_string()),
        ("version", VERSION.to_string()),
        ("rule", config.rule.clone()),
        ("preset", config.preset.clone()),
        ("steps", serde_json::to_string(steps)?),
        ("groups", serde_json::to_string(&groups)?),
        ("without_state", serde_json::to_string(without_state)?),
    ];
    Ok(pairs.into_iter().map(|(key, value)| (key.to_string(), value.into())).collect())
}

/// A group with the settings of its last step.
fn group_json<R: Rule>(group: &Group<R>) -> serde_json::Value {
    let settings = group.steps.last().map(settings::to_json).unwrap_or_default();
    serde_json::json!({"match": group.pattern.as_ref().map(Regex::as_str), "settings": settings})
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedGroup {
    #[serde(rename = "match")]
    pattern: Option<String>,
    settings: Unique<serde_json::Value>,
}

impl SavedGroup {
    fn into_settings<R: Rule>(self) -> Result<(Option<Regex>, R)> {
        let pattern = self.pattern.as_deref().map(Regex::new).transpose().context("groups")?;
        let Some((_, _, preset)) = R::PRESETS.first() else { bail!("{} has no presets", R::NAME) };
        let settings = settings::from_json(preset, &self.settings.0).map_err(|why| anyhow!("groups: {why}"))?;
        Ok((pattern, settings))
    }
}
