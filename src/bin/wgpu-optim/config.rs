//! `optim.toml`: a rule, a preset, the settings that differ from it, groups of tensors with settings of their own, and
//! what is around each update.

pub mod chain;
pub mod format;
mod keys;
mod layers;
mod schedule;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;
use regex::Regex;
use toml::Table;
use wgpu_optim::format::{Format, Plane};
use wgpu_optim::rule::kept_slots;
use wgpu_optim::{Chain, Rule, Schedule};

use crate::usage::usage;
use format::FormatKeys;
use layers::Layers;

/// The most bytes of a config.
const MAX_TEXT: u64 = 1 << 24;

/// A config as it stands in its file: its keys are not checked before the rule is known.
pub struct ConfigFile {
    path: PathBuf,
    pub rule: String,
    pub preset: String,
    chain: Chain,
    rest: Settings,
    groups: Vec<(Regex, Settings)>,
}

/// Settings of some tensors as they stand in the file.
struct Settings {
    table: Table,
    format: FormatKeys,
    schedule: Option<Schedule>,
}

/// A config for one rule.
pub struct Config<R> {
    pub path: PathBuf,
    pub rule: String,
    pub preset: String,
    /// What is around each update.
    pub chain: Chain,
    /// In the order of the file, and last the one for all tensors that no group matches.
    pub groups: Vec<Group<R>>,
}

/// Settings of some tensors.
pub struct Group<R> {
    /// The names that it takes, unless an earlier group has; `None` takes all.
    pub pattern: Option<Regex>,
    /// The settings of each step; at least one.
    pub steps: Vec<R>,
    /// How they lie in memory, as far as their files do not say.
    pub format: FormatKeys,
    /// What moves the lr, and perhaps the momentum, from step to step.
    pub schedule: Option<Schedule>,
}

impl<R: Rule> Config<R> {
    /// The group of a tensor.
    pub fn group_of(&self, name: &str) -> usize {
        first_match(self.groups.iter().map(|group| group.pattern.as_ref()), name).unwrap_or_default()
    }

    /// How the state of a tensor of a group lies, where its parameters are of this format: slot by slot, in the order
    /// in which files hold them.
    pub fn planes_of(&self, group: usize, params: Format, len: u64) -> Vec<Plane> {
        let group = &self.groups[group];
        let own = kept_slots(&group.steps[0]).into_iter().map(|slot| (R::SLOTS[slot], R::is_signed(slot)));
        group.format.formats(params, Format::F32).planes(own, self.chain.slots(), len)
    }

    /// What a group is called in messages.
    pub fn group_name(&self, group: usize) -> String {
        match &self.groups[group].pattern {
            Some(pattern) => format!("group {} (match = {:?})", group + 1, pattern.as_str()),
            None if self.groups.len() == 1 => "all tensors".into(),
            None => "all other tensors".into(),
        }
    }
}

/// The first of these patterns that a name matches; `None` matches every name.
pub fn first_match<'a>(mut patterns: impl Iterator<Item = Option<&'a Regex>>, name: &str) -> Option<usize> {
    patterns.position(|pattern| pattern.is_none_or(|pattern| pattern.is_match(name)))
}

impl ConfigFile {
    /// Reads a config.
    ///
    /// # Errors
    /// Of usage: the file is the person's own writing.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = read_text(path).map_err(|why| usage!("{shown}: {why}"))?;
        let mut settings: Table =
            text.parse().map_err(|error: toml::de::Error| usage!("{shown}: {}", error.to_string().trim_end()))?;
        let refuse = |why: String| usage!("{shown}: {why}");
        let rule = take_word(&mut settings, "rule", "name")
            .and_then(|rule| rule.ok_or("the key \"rule\" is missing, as in rule = \"adam\"".into()))
            .map_err(refuse)?;
        let preset = take_word(&mut settings, "preset", "name").map_err(refuse)?.unwrap_or("pytorch".into());
        let groups = take_groups(&mut settings).map_err(refuse)?;
        let chain = chain::take(&mut settings, &preset).map_err(refuse)?;
        let rest = Settings::take(settings).map_err(refuse)?;
        Ok(Self { path: path.into(), rule, preset, chain, rest, groups })
    }

    /// The config for a rule and a run of this many steps; 0 where that is not known.
    ///
    /// # Errors
    /// Of usage.
    pub fn resolve<R: Rule>(&self, preset: &R, steps: usize) -> Result<Config<R>> {
        let refuse = |why: String| usage!("{}: {why}", self.path.display());
        let mut groups = Vec::with_capacity(self.groups.len() + 1);
        let rest = self.group(preset, steps, None).map_err(refuse)?;
        for number in 0..self.groups.len() {
            groups.push(self.group(preset, steps, Some(number)).map_err(refuse)?);
        }
        groups.push(rest);
        let Self { path, rule, preset, chain, .. } = self;
        Ok(Config { path: path.clone(), rule: rule.clone(), preset: preset.clone(), chain: chain.clone(), groups })
    }

    /// A group of the file, or that of all other tensors. A schedule of its own takes the place of the file's.
    fn group<R: Rule>(&self, preset: &R, steps: usize, number: Option<usize>) -> Result<Group<R>, String> {
        let own = number.map(|number| (format!("[[group]] {}: ", number + 1), &self.groups[number]));
        let mut layers = vec![("", &self.rest.table)];
        layers.extend(own.iter().map(|(place, (_, settings))| (place.as_str(), &settings.table)));
        let steps = Layers { rule: &self.rule, steps, layers: layers.clone() }.resolve(preset)?;
        let schedule = own.as_ref().and_then(|(_, (_, settings))| settings.schedule.as_ref());
        let schedule = schedule.or(self.rest.schedule.as_ref()).cloned();
        if let Some(schedule) = &schedule {
            let (place, _) = layers[layers.len() - 1];
            let tables: Vec<&Table> = layers.iter().map(|(_, table)| *table).collect();
            schedule::check(schedule, &steps, &tables).map_err(|why| format!("{place}{why}"))?;
        }
        let format = match &own {
            Some((_, (_, settings))) => settings.format.over(&self.rest.format),
            None => self.rest.format.clone(),
        };
        let place = own.as_ref().map_or("", |(place, _)| place);
        format.check(&steps[0]).map_err(|why| format!("{place}{why}"))?;
        Ok(Group { pattern: own.map(|(_, (pattern, _))| pattern.clone()), steps, format, schedule })
    }
}

impl Settings {
    fn take(mut table: Table) -> Result<Self, String> {
        let schedule = schedule::take(&mut table)?;
        let format = FormatKeys::take(&mut table)?;
        Ok(Self { table, format, schedule })
    }
}

/// The text of a file, which may be a pipe, but one that comes to an end.
fn read_text(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_TEXT + 1).read_to_string(&mut text));
    match read {
        Ok(read) if read as u64 > MAX_TEXT => Err(format!("longer than {MAX_TEXT} bytes, so it is no config")),
        Ok(_) => Ok(text),
        Err(error) => Err(error.to_string()),
    }
}

/// Takes the text, a `kind` of thing, that stands under a key.
fn take_word(table: &mut Table, key: &str, kind: &str) -> Result<Option<String>, String> {
    match table.remove(key) {
        None => Ok(None),
        Some(toml::Value::String(word)) => Ok(Some(word)),
        Some(other) => Err(format!("{key} is {other}, expected a {kind} in quotes")),
    }
}

fn take_groups(table: &mut Table) -> Result<Vec<(Regex, Settings)>, String> {
    let groups = match table.remove("group") {
        None => Vec::new(),
        Some(toml::Value::Array(groups)) => groups,
        Some(_) => return Err("a group is written [[group]], in double brackets".into()),
    };
    groups.into_iter().enumerate().map(|(i, group)| take_group(i + 1, group)).collect()
}

fn take_group(number: usize, group: toml::Value) -> Result<(Regex, Settings), String> {
    let place = |why: String| format!("[[group]] {number}: {why}");
    let toml::Value::Table(mut settings) = group else {
        return Err(place(format!("found {group}, expected a table")));
    };
    let pattern = take_word(&mut settings, "match", "regex")
        .and_then(|pattern| pattern.ok_or("the key \"match\" is missing, a regex on names".into()))
        .map_err(place)?;
    let pattern = Regex::new(&pattern).map_err(|error| place(format!("match is no regex: {error}")))?;
    Ok((pattern, Settings::take(settings).map_err(place)?))
}
