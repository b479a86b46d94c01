//! How the numbers of a group lie in memory, as a file tells it: by the words of `optim.toml`, the state slot by slot.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::Disagreement;
use crate::chain::{ACCUMULATED, EMA};
use crate::format::{Format, Formats, KAHAN, MASTER, Q8Zero, Rounding, StateFormat, Storage};
use crate::safetensors::Unique;

/// The key in a group of the metadata.
pub(super) const FORMATS: &str = "formats";

/// [`Formats`] as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    params: Format,
    grads: Format,
    master: bool,
    state: Unique<StateFormat>,
    rounding: Rounding,
    seed: u64,
    q8_min: u64,
    q8_zero: Q8Zero,
}

impl Named {
    /// The formats, found to go together.
    ///
    /// # Errors
    /// With the first that do not.
    pub fn formats(self) -> Result<Formats, String> {
        let Self { params, grads, master, state: Unique(slots), rounding, seed, q8_min, q8_zero } = self;
        let state = StateFormat::F32;
        // Which slots there are, the rule knows.
        let formats = Formats { params, grads, master, state, rounding, seed, q8_min, q8_zero, ..Formats::default() };
        formats.check(&[]).map_err(|error| error.to_string())?;
        Ok(Formats { slots, ..formats })
    }
}

/// Whether formats of a group whose rule keeps these slots make no difference to none.
pub(super) fn are_idle(formats: &Formats, slots: &[&str]) -> bool {
    told(formats, slots) == told(&Formats::default(), slots)
}

/// The formats of a group whose rule keeps these slots.
pub(super) fn to_json(formats: &Formats, slots: &[&str]) -> Json {
    let state = slots.iter().map(|slot| (slot.to_string(), json!(of_slot(formats, slot))));
    json!({
        "params": formats.params,
        "grads": formats.grads,
        "master": formats.master,
        "state": state.collect::<serde_json::Map<_, _>>(),
        "rounding": formats.rounding,
        "seed": formats.seed,
        "q8_min": formats.q8_min,
        "q8_zero": formats.q8_zero,
    })
}

fn of_slot(formats: &Formats, slot: &str) -> StateFormat {
    formats.slots.get(slot).copied().unwrap_or(formats.state)
}

/// What of the formats makes a difference, as names and values: a seed does where something is rounded by chance.
fn told(formats: &Formats, slots: &[&str]) -> Vec<(String, String)> {
    let any = |format| slots.iter().any(|slot| of_slot(formats, slot) == format);
    let halves = formats.params != Format::F32 || any(StateFormat::Bf16);
    let tells = |key: &str| match key {
        "rounding" => halves,
        "seed" => halves && formats.rounding == Rounding::Stochastic,
        "q8_min" | "q8_zero" => any(StateFormat::Q8),
        _ => true,
    };
    let word = |value: &Json| value.as_str().map_or_else(|| value.to_string(), String::from);
    let mut pairs = Vec::new();
    for (key, value) in to_json(formats, slots).as_object().into_iter().flatten().filter(|(key, _)| tells(key)) {
        match value {
            Json::Object(state) => {
                pairs.extend(state.iter().map(|(slot, value)| (format!("{key}.{slot}"), word(value))))
            }
            value => pairs.push((key.clone(), word(value))),
        }
    }
    pairs
}

/// The formats in which a group of a file differs from one of an optimizer that keeps these slots. What only one of
/// them has hangs on another that differs.
pub(super) fn changes(group: usize, file: &Formats, optimizer: &Formats, slots: &[&str]) -> Vec<Disagreement> {
    let known = |slot: &&&str| file.slots.is_empty() || file.slots.contains_key(**slot);
    let theirs = told(file, &slots.iter().filter(known).copied().collect::<Vec<_>>());
    let ours = told(optimizer, slots).into_iter();
    let both = ours.filter_map(|(setting, optimizer)| {
        let (_, file) = theirs.iter().find(|(name, _)| *name == setting)?;
        Some((setting, file.clone(), optimizer))
    });
    let differ = both.filter(|(_, file, optimizer)| file != optimizer);
    differ.map(|(setting, file, optimizer)| Disagreement::Format { group, setting, file, optimizer }).collect()
}

/// Refuses formats that tell of other slots than those that the rule keeps.
pub(super) fn check_slots(formats: &Formats, slots: &[&str]) -> Result<(), String> {
    let found: Vec<&str> = formats.slots.keys().map(String::as_str).collect();
    let kept: BTreeSet<&str> = slots.iter().copied().collect();
    match found.iter().eq(&kept) {
        true => Ok(()),
        false => Err(format!("{FORMATS} tell of the state {found:?}, and the rule keeps {slots:?}")),
    }
}

/// How a slot of a tensor of so many elements lies by these formats, but for the sign of 8 bits.
pub(super) fn storage(formats: &Formats, slot: &str, len: u64) -> Storage {
    match slot {
        MASTER | EMA | ACCUMULATED => Storage::F32,
        KAHAN => formats.params.storage(),
        own => formats.storage(own, true, len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

    fn odd() -> Formats {
        let slots = [("exp_avg_sq".to_string(), StateFormat::Bf16)].into();
        Formats {
            params: Format::F16,
            grads: Format::Bf16,
            master: true,
            state: StateFormat::Q8,
            slots,
            rounding: Rounding::Stochastic,
            seed: u64::MAX,
            q8_min: 7,
            q8_zero: Q8Zero::Reference,
        }
    }

    fn read(formats: &Formats) -> Formats {
        let json = to_json(formats, &SLOTS);
        serde_json::from_value::<Named>(json).unwrap().formats().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_slot_by_slot() {
        let again = read(&odd());
        let slots = [("exp_avg", StateFormat::Q8), ("exp_avg_sq", StateFormat::Bf16)];
        let slots = slots.map(|(slot, format)| (slot.to_string(), format)).into();
        assert_eq!(again, Formats { state: StateFormat::F32, slots, ..odd() });
        assert_eq!(changes(0, &again, &odd(), &SLOTS), []);
    }

    #[test]
    fn what_makes_no_difference_does_not_disagree() {
        let idle = Formats { seed: 3, q8_min: 9, rounding: Rounding::Stochastic, ..Formats::default() };
        assert!(are_idle(&idle, &SLOTS) && !are_idle(&odd(), &SLOTS));
        assert_eq!(changes(0, &Formats::default(), &idle, &SLOTS), []);
    }

    #[test]
    fn each_format_that_differs_is_told_by_its_name() {
        let told = |other: Formats| match changes(1, &read(&odd()), &other, &SLOTS).as_slice() {
            [Disagreement::Format { group: 1, setting, file, optimizer }] => format!("{setting} {file} {optimizer}"),
            several => panic!("{several:?}"),
        };
        assert_eq!(told(Formats { params: Format::Bf16, ..odd() }), "params f16 bf16");
        assert_eq!(told(Formats { grads: Format::F32, ..odd() }), "grads bf16 f32");
        assert_eq!(told(Formats { master: false, ..odd() }), "master true false");
        assert_eq!(told(Formats { slots: Default::default(), ..odd() }), "state.exp_avg_sq bf16 q8");
        assert_eq!(told(Formats { rounding: Rounding::Nearest, ..odd() }), "rounding stochastic nearest");
        assert_eq!(told(Formats { seed: 1, ..odd() }), "seed 18446744073709551615 1");
        assert_eq!(told(Formats { q8_min: 8, ..odd() }), "q8_min 7 8");
        assert_eq!(told(Formats { q8_zero: Q8Zero::Guarded, ..odd() }), "q8_zero reference guarded");
    }
}
