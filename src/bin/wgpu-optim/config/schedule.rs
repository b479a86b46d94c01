//! `[schedule]`: its parts, its place beside the settings that it moves.

use toml::{Table, Value};
use wgpu_optim::schedule::{Kind, Schedule, Then};
use wgpu_optim::{Error, Rule, cpu};

use super::keys::shown;
use crate::report::nearest;

/// Takes the schedule out of a table of settings.
///
/// # Errors
/// With the part, and what is wrong with it.
pub fn take(settings: &mut Table) -> Result<Option<Schedule>, String> {
    let mut table = match settings.remove("schedule") {
        None => return Ok(None),
        Some(Value::Table(table)) => table,
        Some(other) => {
            return Err(format!("schedule is {}, expected a table, as in schedule.kind = \"cosine\"", shown(&other)));
        }
    };
    let parts = match table.remove("then") {
        None => Vec::new(),
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err("what follows in a schedule is written [[schedule.then]], in double brackets".into()),
    };
    let first = kind(table).map_err(|why| format!("[schedule] {why}"))?;
    let parts = parts.into_iter().enumerate();
    let then = parts.map(|(i, part)| follows(part).map_err(|why| format!("[[schedule.then]] {}: {why}", i + 1)));
    let schedule = Schedule { first, then: then.collect::<Result<_, String>>()? };
    schedule.check().map_err(|error| error.to_string())?;
    Ok(Some(schedule))
}

fn follows(part: Value) -> Result<Then, String> {
    let Value::Table(mut table) = part else { return Err(format!("found {}, expected a table", shown(&part))) };
    let at = table.remove("at").ok_or("the key \"at\" is missing, the step at which it takes over")?;
    let step = at.as_integer().and_then(|at| u64::try_from(at).ok());
    let at = step.ok_or_else(|| format!("at is {}, expected a step, a whole number", shown(&at)))?;
    Ok(Then { at, kind: kind(table)? })
}

fn kind(table: Table) -> Result<Kind, String> {
    match table.get("kind") {
        Some(Value::String(name)) if !Kind::NAMES.contains(&name.as_str()) => {
            let near = nearest(&in_our_words(name), Kind::NAMES.iter().copied()).unwrap_or_default();
            return Err(format!("there is no kind {name:?}; the nearest is {near:?} of {}", Kind::NAMES.join(", ")));
        }
        Some(Value::String(_)) => {}
        Some(other) => return Err(format!("kind is {}, expected a name in quotes", shown(other))),
        None => return Err("the key \"kind\" is missing, as in kind = \"cosine\"".into()),
    }
    if table.contains_key("at") {
        return Err("\"at\" does not stand here: the first part begins at step 0, a [[schedule.then]] later".into());
    }
    arguments(table)
}

/// `CosineAnnealingLR` as a kind would be named.
fn in_our_words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.strip_suffix("LR").unwrap_or(name).chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push('_');
        }
        words.extend(letter.to_lowercase());
    }
    words.replace('-', "_").replace("_annealing", "")
}

/// The arguments, which serde reads; it names an argument that is unknown, and those that there are, in backticks.
fn arguments(table: Table) -> Result<Kind, String> {
    let name = table.get("kind").map(shown).unwrap_or_default();
    Value::Table(table).try_into::<Kind>().map_err(|error| {
        let told = error.to_string();
        let told = told.trim_end();
        let mut words = told.split('`').skip(1).step_by(2);
        let near = words.next().filter(|_| told.starts_with("unknown field")).and_then(|key| nearest(key, words));
        match near {
            Some(near) => format!("of kind {name}: {told}; the nearest is {near:?}"),
            None => format!("of kind {name}: {told}"),
        }
    })
}

/// Refuses a schedule beside settings that it cannot move, or that are given for each step by a list.
///
/// # Errors
/// With the setting.
pub fn check<R: Rule>(schedule: &Schedule, steps: &[R], layers: &[&Table]) -> Result<(), String> {
    let cycled = R::CYCLED.filter(|_| schedule.cycles_momentum());
    for key in ["lr"].into_iter().chain(cycled) {
        let given = layers.iter().rev().find_map(|table| table.get(key));
        if given.is_some_and(Value::is_array) {
            return Err(format!(
                "{key} is a list, and there is a schedule: both say which {key} each step has; leave one of them out"
            ));
        }
    }
    let built = cpu::Optimizer::<R, f32>::new(steps[0].clone(), []);
    let tried = built.and_then(|mut optimizer| optimizer.set_schedule(0, Some(schedule.clone())));
    tried.map_err(|error| match error {
        Error::Structure { setting, from, to, .. } => format!(
            "the schedule cycles the momentum, and {setting} would go from {from} to {to}; set a momentum, or \
             cycle_momentum = false in the schedule"
        ),
        other => other.to_string(),
    })
}
