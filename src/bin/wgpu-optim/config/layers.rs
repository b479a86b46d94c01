//! Settings from a table, over those of the table before it, over those of the preset.

use toml::Table;
use wgpu_optim::Rule;
use wgpu_optim::rule::Value;

use crate::catalog::{quoted, rules_with};
use crate::report::{count, nearest};

/// Settings that may be lists, with one value for each step.
const LISTS: [&str; 3] = ["lr", "beta1", "momentum"];
/// Tables that are for the whole file.
const TABLES: [&str; 4] = ["clip", "scaler", "ema", "clamp"];
/// What frameworks call some settings, where that is too far from our name to be found by likeness.
const SYNONYMS: [(&str, &str); 9] = [
    ("learning_rate", "lr"),
    ("betas", "beta1"),
    ("betas", "alpha"),
    ("b1", "beta1"),
    ("b2", "beta2"),
    ("alpha", "beta2"),
    ("beta2", "alpha"),
    ("rho", "alpha"),
    ("discounting_factor", "alpha"),
];

/// Tables of settings, each of which changes what those before it have set.
pub struct Layers<'a> {
    pub rule: &'a str,
    pub steps: usize,
    pub layers: Vec<(&'a str, &'a Table)>,
}

impl Layers<'_> {
    /// The settings of each step.
    ///
    /// # Errors
    /// With the key, and what is wrong with it.
    pub fn resolve<R: Rule>(&self, preset: &R) -> Result<Vec<R>, String> {
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
        if matches!(key, "rule" | "preset" | "group" | "match") {
            return format!(
                "{key:?} does not stand here: rule and preset are for the whole file, match for a [[group]]"
            );
        }
        if TABLES.contains(&key) {
            return format!("{key:?} does not stand here: the tables {} are for the whole file", TABLES.join(", "));
        }
        if matches!(key, "groups" | "param_groups") {
            return format!("there is no key {key:?}; a group is written [[group]], in double brackets");
        }
        let own: Vec<&str> = settings.settings().into_iter().map(|(name, _)| name).collect();
        let synonym = SYNONYMS.iter().find(|(theirs, ours)| *theirs == key && own.contains(ours));
        let tables = if self.layers.len() == 1 { &TABLES[..] } else { &[] };
        let all: Vec<&str> = own.into_iter().chain(tables.iter().copied()).chain(["format", "schedule"]).collect();
        let near = synonym.map(|(_, ours)| *ours).or(nearest(key, all.iter().copied())).unwrap_or_default();
        let others = rules_with(key);
        let what = if others.is_empty() {
            format!("there is no key {key:?}")
        } else {
            format!("{key:?} belongs to {}, not to {}", others.join(" and "), self.rule)
        };
        format!("{what}; the nearest is {near:?} of {}", all.join(", "))
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
