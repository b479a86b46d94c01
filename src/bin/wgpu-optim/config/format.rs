//! `[format]`: how parameters, gradients and state lie in memory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use toml::{Table, Value};
use wgpu_optim::format::{Format, Formats, Q8Zero, Rounding, StateFormat};
use wgpu_optim::{Error, Rule};

use super::keys::{Keys, shown};
use crate::report::nearest;

/// What frameworks call these keys.
const SYNONYMS: [(&str, &str); 9] = [
    ("dtype", "params"),
    ("param_dtype", "params"),
    ("grad_dtype", "grads"),
    ("master_weights", "master"),
    ("optim_bits", "state"),
    ("stochastic_rounding", "rounding"),
    ("bf16_stochastic_round", "rounding"),
    ("min_8bit_size", "q8_min"),
    ("slots", "state"),
];

/// The keys of a table `[format]`; `None` where nothing is said. State files hold them under the same names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FormatKeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<Format>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grads: Option<Format>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<bool>,
    /// Of all slots but those in `slots`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<StateFormat>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, StateFormat>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q8_min: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q8_zero: Option<Q8Zero>,
}

impl FormatKeys {
    /// Takes the table out of the settings that it stands among; nothing is said where there is none.
    ///
    /// # Errors
    /// With the key, and what is wrong with it.
    pub fn take(settings: &mut Table) -> Result<Self, String> {
        let Some(mut keys) = Keys::take(settings, "format")? else { return Ok(Self::default()) };
        let table = keys.table("state", "a word, or a table of slots as in state = { exp_avg = \"q8\" }")?;
        let (state, slots) = match table {
            Some(table) => (None, slots(table).map_err(|why| keys.about(&why))?),
            None => (keys.word("state")?, BTreeMap::new()),
        };
        let given = Self {
            params: keys.word("params")?,
            grads: keys.word("grads")?,
            master: keys.flag("master")?,
            state,
            slots,
            rounding: keys.word("rounding")?,
            seed: keys.whole("seed")?,
            q8_min: keys.whole("q8_min")?,
            q8_zero: keys.word("q8_zero")?,
        };
        keys.done(&SYNONYMS)?;
        Ok(given)
    }

    /// These keys, and where they say nothing, those of the file's own table. A word for the state is for all slots, a
    /// table for those that it names.
    pub fn over(&self, file: &Self) -> Self {
        let mut slots = if self.state.is_some() { BTreeMap::new() } else { file.slots.clone() };
        slots.extend(self.slots.clone());
        Self {
            params: self.params.or(file.params),
            grads: self.grads.or(file.grads),
            master: self.master.or(file.master),
            state: self.state.or(file.state),
            slots,
            rounding: self.rounding.or(file.rounding),
            seed: self.seed.or(file.seed),
            q8_min: self.q8_min.or(file.q8_min),
            q8_zero: self.q8_zero.or(file.q8_zero),
        }
    }

    /// The formats of tensors that lie like this in their files. Parameters in `f32` are their own master, and lose
    /// nothing.
    pub fn formats(&self, params: Format, grads: Format) -> Formats {
        let default = Formats::default();
        let rounding = self.rounding.unwrap_or(default.rounding);
        let idle = params == Format::F32 && rounding == Rounding::Kahan;
        Formats {
            params,
            grads: self.grads.unwrap_or(grads),
            master: self.master.unwrap_or(default.master) && params != Format::F32,
            state: self.state.unwrap_or(default.state),
            slots: self.slots.clone(),
            rounding: if idle { Rounding::Nearest } else { rounding },
            seed: self.seed.unwrap_or(default.seed),
            q8_min: self.q8_min.unwrap_or(default.q8_min),
            q8_zero: self.q8_zero.unwrap_or(default.q8_zero),
        }
    }

    /// The keys of which no slot tells, and in which these differ from those of another table, with both values.
    pub fn differing(&self, now: &Self) -> Vec<(String, String, String)> {
        let told = |keys: &Self| {
            let Formats { rounding, seed, q8_zero, .. } = keys.formats(Format::Bf16, Format::F32);
            let json = serde_json::json!({"rounding": rounding, "seed": seed, "q8_zero": q8_zero, "grads": keys.grads});
            json.as_object().cloned().unwrap_or_default()
        };
        let shown = |value: &Json| if value.is_null() { "not there".into() } else { value.to_string() };
        let both = told(self).into_iter().zip(told(now)).filter(|(then, now)| then != now);
        both.map(|((key, then), (_, now))| (format!("[format] {key}"), shown(&then), shown(&now))).collect()
    }

    /// Refuses what goes together for no tensor, or not with a rule's settings.
    ///
    /// # Errors
    /// With the key, and what is wrong with it.
    pub fn check<R: Rule>(&self, settings: &R) -> Result<(), String> {
        let known = R::SLOTS;
        if let Some(slot) = self.slots.keys().find(|slot| !known.contains(&slot.as_str())) {
            let near = nearest(slot, known.iter().copied()).unwrap_or_default();
            let known = known.join(", ");
            return Err(format!("[format] state: there is no slot {slot:?}; the nearest is {near:?} of {known}"));
        }
        // Where files decide, a file of 16 bits takes all that these keys could mean.
        let params = self.params.unwrap_or(Format::Bf16);
        let formats = Formats {
            master: self.master.unwrap_or_default(),
            rounding: self.rounding.unwrap_or_default(),
            ..self.formats(params, Format::F32)
        };
        formats.check_with(settings).map_err(|error| match error {
            Error::Setting { setting, found, expected, .. } => {
                format!("[format] {setting} is {found}, expected {expected}")
            }
            Error::Rounded { slot, format, why, .. } => {
                format!("[format] state: {slot} cannot be kept in {format}: {why}")
            }
            other => other.to_string(),
        })
    }
}

fn slots(table: Table) -> Result<BTreeMap<String, StateFormat>, String> {
    let one = |(slot, value): (String, Value)| match Value::try_into::<StateFormat>(value.clone()) {
        Ok(format) => Ok((slot, format)),
        Err(_) => Err(format!("state: {slot} is {}, expected one of \"f32\", \"bf16\", \"q8\"", shown(&value))),
    };
    table.into_iter().map(one).collect()
}
