//! Settings as JSON, by name.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use crate::rule::{Rule, Value};

/// Every setting with its value, in the rule's order.
pub fn to_json<R: Rule>(settings: &R) -> Map<String, Json> {
    settings.settings().into_iter().map(|(name, value)| (name.to_string(), value_to_json(value))).collect()
}

/// A setting's value. A number that JSON cannot hold (NaN) becomes null; no settings that a rule takes have one.
pub fn value_to_json(value: Value) -> Json {
    match value {
        Value::Number(x) => x.into(),
        Value::Flag(x) => x.into(),
        Value::Word(x) => x.into(),
    }
}

/// Settings from [`to_json`]'s object, which must give every one of them. What `base` holds does not matter.
///
/// # Errors
/// With the first setting that is missing, unknown or outside its range.
pub fn from_json<R: Rule>(base: &R, values: &BTreeMap<String, Json>) -> Result<R, String> {
    let mut settings = base.clone();
    if let Some((missing, _)) = base.settings().into_iter().find(|(name, _)| !values.contains_key(*name)) {
        return Err(format!("the setting {missing:?} is missing"));
    }
    for (name, value) in values {
        settings.set(name, value_from_json(name, value)?).map_err(|error| error.to_string())?;
    }
    settings.check().map_err(|error| error.to_string())?;
    Ok(settings)
}

/// A setting's value from JSON.
///
/// # Errors
/// For what is no number, truth value or word.
pub(super) fn value_from_json(name: &str, value: &Json) -> Result<Value, String> {
    match value {
        Json::Bool(x) => Ok(Value::Flag(*x)),
        Json::String(x) => Ok(Value::Word(x.clone())),
        Json::Number(x) => Ok(Value::Number(x.as_f64().unwrap_or(f64::NAN))),
        other => Err(format!("{name} is {other}, expected a number, a truth value or a word")),
    }
}
