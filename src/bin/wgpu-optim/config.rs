//! `optim.toml`: a rule, a preset, the settings that differ from it, and groups of tensors with settings of their
//! own.

use std::path::{Path, PathBuf};

use anyhow::Result;
use regex::Regex;
use toml::Table;
use wgpu_optim::Rule;
use wgpu_optim::rule::Value;

use crate::catalog::{quoted, rules_with};
use crate::report::{count, nearest};
use crate::usage::usage;

/// Settings that may be lists, with one value for each step.
const LISTS: [&str; 3] = ["lr", "beta1", "momentum"];
/// Tables of later versions.
const LATER: [&str; 5] = ["clip", "scaler", "ema", "schedule", "format"];
/// What frameworks call some settings, where that is too far from our name to be found by likeness.
const SYNONYMS: [(&str, &str); 4] =
    [("learning_rate", "lr"), ("betas", "beta1"), ("rho", "alpha"), ("discounting_factor", "alpha")];

/// A config as it stands in its file: its keys are not checked before the rule is known.
pub struct ConfigFile {
    path: PathBuf,
    pub rule: String,
    pub preset: String,
    settings: Table,
    groups: Vec<(Regex, Table)>,
}

/// A config for one rule.
pub struct Config<R> {
    pub path: PathBuf,
    pub rule: String,
    pub preset: String,
    /// In the order of the file, and last the one for all tensors that no group matches.
    pub groups: Vec<Group<R>>,
}

/// Settings of some tensors.
pub struct Group<R> {
    /// The names that it takes, unless an earlier group has; `None` takes all.
    pub pattern: Option<Regex>,
    /// The settings of each step; at least one.
    pub steps: Vec<R>,
}

impl<R: Rule> Config<R> {
    /// The group of a tensor.
    pub fn group_of(&self, name: &str) -> usize {
        first_match(self.groups.iter().map(|group| group.pattern.as_ref()), name).unwrap_or_default()
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
        let text = std::fs::read_to_string(path).map_err(|error| usage!("{shown}: {error}"))?;
        let mut settings: Table =
            text.parse().map_err(|error: toml::de::Error| usage!("{shown}: {}", error.to_string().trim_end()))?;
        let rule = take_word(&mut settings, "rule")
            .and_then(|rule| rule.ok_or("the key \"rule\" is missing, as in rule = \"adam\"".into()))
            .map_err(|why| usage!("{shown}: {why}"))?;
        let preset = take_word(&mut settings, "preset").map_err(|why| usage!("{shown}: {why}"))?;
        let groups = take_groups(&mut settings).map_err(|why| usage!("{shown}: {why}"))?;
        Ok(Self { path: path.into(), rule, preset: preset.unwrap_or("pytorch".into()), settings, groups })
    }

    /// The config for a rule and a run of this many steps; 0 where that is not known.
    ///
    /// # Errors
    /// Of usage.
    pub fn resolve<R: Rule>(&self, preset: &R, steps: usize) -> Result<Config<R>> {
        let refuse = |why: String| usage!("{}: {why}", self.path.display());
        let rest = Layers { rule: &self.rule, steps, layers: vec![("", &self.settings)] };
        let rest = Group { pattern: None, steps: rest.resolve(preset).map_err(refuse)? };
        let mut groups = Vec::with_capacity(self.groups.len() + 1);
        for (number, (pattern, settings)) in self.groups.iter().enumerate() {
            let place = format!("[[group]] {}: ", number + 1);
            let layers = vec![("", &self.settings), (place.as_str(), settings)];
            let layers = Layers { rule: &self.rule, steps, layers };
            let steps = layers.resolve(preset).map_err(refuse)?;
            groups.push(Group { pattern: Some(pattern.clone()), steps });
        }
        groups.push(rest);
        Ok(Config { path: self.path.clone(), rule: self.rule.clone(), preset: self.preset.clone(), groups })
    }
}

fn take_word(table: &mut Table, key: &str) -> Result<Option<String>, String> {
    match table.remove(key) {
        None => Ok(None),
        Some(toml::Value::String(word)) => Ok(Some(word)),
        Some(other) => Err(format!("{key} is {other}, expected a name in quotes")),
    }
}

fn take_groups(table: &mut Table) -> Result<Vec<(Regex, Table)>, String> {
    let groups = match table.remove("group") {
        None => Vec::new(),
        Some(toml::Value::Array(groups)) => groups,
        Some(_) => return Err("a group is written [[group]], in double brackets".into()),
    };
    groups.into_iter().enumerate().map(|(i, group)| take_group(i + 1, group)).collect()
}

fn take_group(number: usize, group: toml::Value) -> Result<(Regex, Table), String> {
    let place = |why: String| format!("[[group]] {number}: {why}");
    let toml::Value::Table(mut settings) = group else {
        return Err(place(format!("found {group}, expected a table")));
    };
    let pattern = take_word(&mut settings, "match")
        .and_then(|pattern| pattern.ok_or("the key \"match\" is missing, a regex on names".into()))
        .map_err(place)?;
    let pattern = Regex::new(&pattern).map_err(|error| place(format!("match is no regex: {error}")))?;
    Ok((pattern, settings))
}

/// Tables of settings, each of which changes what those before it have set.
struct Layers<'a> {
    rule: &'a str,
    steps: usize,
    layers: Vec<(&'a str, &'a Table)>,
}

impl Layers<'_> {
    fn resolve<R: Rule>(&self, preset: &R) -> Result<Vec<R>, String> {
        let mut steps = vec![preset.clone(); self.steps.max(1)];
        for (place, table) in &self.layers {
            for (key, value) in *table {
                self.put(&mut steps, key, value).map_err(|why| format!("{place}{why}"))?;
            }
        }
        let place = self.layers.last().map_or("", |(place, _)| place);
        check_steps(&steps).map_err(|why| format!("{place}{why}"))?;
        Ok(steps)
    }

    /// Sets one key in every step.
    fn put<R: Rule>(&self, steps: &mut [R], key: &str, value: &toml::Value) -> Result<(), String> {
        if !steps[0].settings().iter().any(|(name, _)| *name == key) {
            return Err(self.unknown(&steps[0], key));
        }
        let values = match value {
            toml::Value::Array(list) => self.list(key, list)?,
            single => vec![scalar(key, single)?],
        };
        for (settings, value) in steps.iter_mut().zip(values.iter().cycle()) {
            settings.set(key, value.clone()).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn list(&self, key: &str, list: &[toml::Value]) -> Result<Vec<Value>, String> {
        if !LISTS.contains(&key) {
            return Err(format!("{key} cannot be a list; only {} can", quoted(LISTS.into_iter())));
        }
        if list.is_empty() || (self.steps > 0 && list.len() != self.steps) {
            let (found, files) = (count(list.len() as u64, "value"), count(self.steps as u64, "file"));
            return Err(format!("{key} is a list of {found}, and --grads gives {files}: one value for each"));
        }
        list.iter().map(|value| scalar(key, value)).collect()
    }

    fn unknown<R: Rule>(&self, settings: &R, key: &str) -> String {
        if LATER.contains(&key) {
            return format!("{key:?} comes in a later version of wgpu-optim; leave it out");
        }
        if matches!(key, "rule" | "preset" | "group" | "match") {
            return format!(
                "{key:?} does not stand here: rule and preset are for the whole file, match for a [[group]]"
            );
        }
        let own: Vec<&str> = settings.settings().into_iter().map(|(name, _)| name).collect();
        let synonym = SYNONYMS.iter().find(|(theirs, ours)| *theirs == key && own.contains(ours));
        let near = synonym.map(|(_, ours)| *ours).or(nearest(key, own.iter().copied())).unwrap_or_default();
        let others = rules_with(key);
        let what = if others.is_empty() {
            format!("there is no key {key:?}")
        } else {
            format!("{key:?} belongs to {}, not to {}", others.join(" and "), self.rule)
        };
        format!("{what}; the nearest is {near:?} of {}", own.join(", "))
    }
}

fn scalar(key: &str, value: &toml::Value) -> Result<Value, String> {
    match value {
        toml::Value::Float(x) if x.is_nan() => Err(format!("{key} is nan, expected a number")),
        toml::Value::Float(x) => Ok(Value::Number(*x)),
        toml::Value::Integer(x) => Ok(Value::Number(*x as f64)),
        toml::Value::Boolean(x) => Ok(Value::Flag(*x)),
        toml::Value::String(x) => Ok(Value::Word(x.clone())),
        other => Err(format!("{key} is {other}, expected a number, true, false or a word in quotes")),
    }
}

/// Refuses steps that the rule does, and lists that would change which state is kept on the way.
fn check_steps<R: Rule>(steps: &[R]) -> Result<(), String> {
    let structure = steps[0].structure();
    for (step, settings) in steps.iter().enumerate() {
        settings.check().map_err(|error| match steps.len() {
            1 => error.to_string(),
            _ => format!("step {}: {error}", step + 1),
        })?;
        let mut changed = structure.iter().zip(settings.structure()).filter(|(from, to)| *from != to);
        if let Some(((name, from), (_, to))) = changed.next() {
            return Err(format!(
                "{name} is {from} in step 1 and {to} in step {}: it decides which state is kept, so it cannot \
                 change within a run",
                step + 1
            ));
        }
    }
    Ok(())
}
