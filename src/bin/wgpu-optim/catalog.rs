//! The rules that the library has, by the names that a config gives them. Nothing here knows one rule from
//! another.

use anyhow::Result;
use wgpu_optim::Rule;
use wgpu_optim::rule::{Visitor, visit};

use crate::report::nearest;

/// What is done with a rule once it is known.
pub trait Job {
    type Output;
    fn run<R: Rule>(self, preset: R) -> Result<Self::Output>;
}

/// Runs `job` with the settings of a preset; `None` where there is no such rule or preset.
pub fn with_preset<J: Job>(rule: &str, preset: &str, job: J) -> Option<Result<J::Output>> {
    let mut search = Search { rule, preset, job: Some(job), output: None };
    visit(&mut search);
    search.output
}

/// What to say where there is none.
pub fn unknown(rule: &str, preset: &str) -> String {
    let all = all();
    let rules = || all.iter().map(|known| known.rule);
    match all.iter().find(|known| known.rule == rule) {
        Some(known) => {
            format!("{rule} has no preset {preset:?}; it has {}", quoted(known.presets.iter().copied()))
        }
        None => {
            let nearest = nearest(rule, rules()).unwrap_or_default();
            format!("there is no rule {rule:?}; the nearest is {nearest:?} of {}", quoted(rules()))
        }
    }
}

/// The rules that have a setting of this name.
pub fn rules_with(setting: &str) -> Vec<&'static str> {
    all().into_iter().filter(|known| known.settings.contains(&setting)).map(|known| known.rule).collect()
}

struct Search<'a, J: Job> {
    rule: &'a str,
    preset: &'a str,
    job: Option<J>,
    output: Option<Result<J::Output>>,
}

impl<J: Job> Visitor for Search<'_, J> {
    fn rule<R: Rule>(&mut self) {
        let mut presets = R::PRESETS.iter();
        let found = presets.find(|(rule, preset, _)| *rule == self.rule && *preset == self.preset);
        if let Some((_, _, settings)) = found
            && let Some(job) = self.job.take()
        {
            self.output = Some(job.run(settings.clone()));
        }
    }
}

/// A name that a config can give as its rule.
struct Known {
    rule: &'static str,
    presets: Vec<&'static str>,
    settings: Vec<&'static str>,
}

fn all() -> Vec<Known> {
    struct All(Vec<Known>);
    impl Visitor for All {
        fn rule<R: Rule>(&mut self) {
            for (rule, preset, settings) in R::PRESETS {
                match self.0.iter_mut().find(|known| known.rule == *rule) {
                    Some(known) => known.presets.push(preset),
                    None => self.0.push(Known {
                        rule,
                        presets: vec![preset],
                        settings: settings.settings().iter().map(|(name, _)| *name).collect(),
                    }),
                }
            }
        }
    }
    let mut all = All(Vec::new());
    visit(&mut all);
    all.0
}

/// `"a", "b"`.
pub fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}
