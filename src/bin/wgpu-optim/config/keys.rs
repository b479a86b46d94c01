//! A table whose keys are taken one by one, so that what is left over is unknown.

use toml::{Table, Value};
use wgpu_optim::rule::Word;

use crate::catalog::quoted;
use crate::report::nearest;

/// A table of a config under examination. Messages begin with its place, `[clip]`.
pub struct Keys {
    place: String,
    table: Table,
    known: Vec<&'static str>,
}

impl Keys {
    /// Takes the table that stands under a key, if there is one.
    ///
    /// # Errors
    /// Where something else stands there.
    pub fn take(settings: &mut Table, key: &str) -> Result<Option<Self>, String> {
        let place = format!("[{key}]");
        match settings.remove(key) {
            None => Ok(None),
            Some(Value::Table(table)) => Ok(Some(Self { place, table, known: Vec::new() })),
            Some(other) => Err(format!("{key} is {}, expected a table, {place}", shown(&other))),
        }
    }

    /// Whether a key stands there.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A message about this table.
    pub fn about(&self, why: &str) -> String {
        format!("{} {why}", self.place)
    }

    pub fn number(&mut self, key: &'static str) -> Result<Option<f64>, String> {
        self.get(key, "a number", |value| match value {
            Value::Float(x) => Some(*x),
            Value::Integer(x) => Some(*x as f64),
            _ => None,
        })
    }

    pub fn count(&mut self, key: &'static str) -> Result<Option<u32>, String> {
        let expected = "a whole number from 0 to 4294967295";
        self.get(key, expected, |value| value.as_integer().and_then(|x| u32::try_from(x).ok()))
    }

    /// A whole number of any size that the file can hold.
    pub fn whole(&mut self, key: &'static str) -> Result<Option<u64>, String> {
        let expected = "a whole number from 0 to 9223372036854775807";
        self.get(key, expected, |value| value.as_integer().and_then(|x| u64::try_from(x).ok()))
    }

    pub fn flag(&mut self, key: &'static str) -> Result<Option<bool>, String> {
        self.get(key, "true or false", Value::as_bool)
    }

    /// The table that stands under a key; `None` where a word does, or nothing.
    pub fn table(&mut self, key: &'static str, expected: &str) -> Result<Option<Table>, String> {
        match self.table.get(key) {
            None | Some(Value::String(_)) => Ok(None),
            Some(_) => self.get(key, expected, |value| value.as_table().cloned()),
        }
    }

    pub fn word<W: Word>(&mut self, key: &'static str) -> Result<Option<W>, String> {
        let words = quoted(W::WORDS.iter().map(|(word, _)| *word));
        self.get(key, &format!("one of {words}"), |value| {
            let found = W::WORDS.iter().find(|(word, _)| value.as_str() == Some(word));
            found.map(|(_, choice)| *choice)
        })
    }

    fn get<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        self.known.push(key);
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        let wrong = || self.about(&format!("{key} is {}, expected {expected}", shown(&value)));
        read(&value).ok_or_else(wrong).map(Some)
    }

    /// Refuses keys that were not asked for. Some frameworks have another word for what is meant.
    ///
    /// # Errors
    /// With the first that is left, and the nearest that there is.
    pub fn done(self, synonyms: &[(&str, &'static str)]) -> Result<(), String> {
        let Some(key) = self.table.keys().next() else { return Ok(()) };
        let synonym = synonyms.iter().find(|(theirs, _)| theirs == key).map(|(_, ours)| *ours);
        let near = synonym.or(nearest(key, self.known.iter().copied())).unwrap_or_default();
        Err(self.about(&format!("there is no key {key:?}; the nearest is {near:?} of {}", self.known.join(", "))))
    }
}

/// A value as a message shows it: what is in a table or a list could go on for pages.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".into(),
        Value::Array(_) => "a list".into(),
        other => other.to_string(),
    }
}
