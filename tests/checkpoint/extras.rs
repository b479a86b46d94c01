//! Sections of the caller's own.

use std::collections::BTreeMap;

use serde_json::json;
use wgpu_optim::Schedule;
use wgpu_optim::checkpoint::{Checkpoint, Disagreement, Error, Extras, Load};
use wgpu_optim::schedule::{Cosine, Linear};

use crate::run::{Run, folder, saved, small};

fn some() -> Extras {
    let values = BTreeMap::from([
        (
            "schedule".to_string(),
            json!([{"kind": "one_cycle", "step": 18_446_744_073_709_551_615u64, "max_lr": 0.1 + 0.2}]),
        ),
        ("scaler".to_string(), json!({"scale": 65536.0, "growth_tracker": 1999})),
        ("nothing".to_string(), json!(null)),
    ]);
    let odd = vec![f32::NAN, -0.0, f32::MIN_POSITIVE / 2.0, 3.5];
    let tensors = BTreeMap::from([("ema.w.x".to_string(), odd), ("empty".to_string(), vec![])]);
    Extras { values, tensors: tensors.into_iter().chain([("scaler".to_string(), vec![1.0])]).collect() }
}

const NAMES: [&str; 5] = ["schedule", "scaler", "nothing", "ema.w.x", "empty"];

#[test]
fn sections_come_back_as_they_were() {
    let (_folder, path) = folder();
    let run = small();
    run.save(&path, false, some()).unwrap();
    let load = Load { extras: &NAMES, ..Default::default() };
    let back = small().load_with(&Checkpoint::open(&path).unwrap(), load, false).unwrap().extras;
    assert_eq!(back.values, some().values);
    let bits = |extras: &Extras| -> Vec<(String, Vec<u32>)> {
        extras.tensors.iter().map(|(name, values)| (name.clone(), crate::run::bits(values))).collect()
    };
    assert_eq!(bits(&back), bits(&some()));
}

/// Whoever asks which run a file is of has no optimizer yet.
#[test]
fn a_file_tells_its_sections_and_its_steps_before_it_is_loaded() {
    let (_folder, path) = folder();
    let mut run = small();
    run.set_step("b", u64::MAX);
    run.save(&path, false, some()).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let found = checkpoint.extras().unwrap();
    assert_eq!(found.values, some().values);
    let bits = |extras: &Extras| extras.tensors.values().map(|values| crate::run::bits(values)).collect::<Vec<_>>();
    assert_eq!(
        (found.tensors.keys().collect::<Vec<_>>(), bits(&found)),
        (some().tensors.keys().collect(), bits(&some()))
    );
    let steps = ["b", "nobody"].map(|name| checkpoint.step_of(name));
    assert_eq!(steps, [Some(u64::MAX), None]);
}

#[test]
fn a_section_that_nobody_asked_for_is_refused_by_name_and_so_is_one_that_is_missing() {
    let (_folder, path) = folder();
    small().save(&path, false, some()).unwrap();
    let mut run = small();
    run.step(1);
    let before = run.world();
    let load = Load { extras: &["schedule", "nothing", "ema.w.x", "empty", "counters"], ..Default::default() };
    let error = run.load_with(&Checkpoint::open(&path).unwrap(), load, false).unwrap_err();
    let Error::Mismatch { disagreements, .. } = error else { panic!("{error}") };
    let scaler = Disagreement::UnexpectedExtra { name: "scaler".into() };
    assert_eq!(disagreements, [scaler, Disagreement::MissingExtra { name: "counters".into() }]);
    assert_eq!(run.world(), before);
}

#[test]
fn a_value_too_deep_to_be_read_back_is_not_written() {
    let (_folder, path) = folder();
    let mut deep = json!(1);
    for _ in 0..200 {
        deep = json!([deep]);
    }
    let extras = Extras { values: BTreeMap::from([("deep".into(), deep)]), ..Default::default() };
    let error = small().save(&path, false, extras).unwrap_err();
    assert!(matches!(error, Error::Unstorable { .. }), "{error}");
    assert!(error.to_string().contains("cannot hold these extras: recursion limit exceeded"), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_checkpoint_without_sections_has_none() {
    let (_folder, path) = folder();
    small().save(&path, false, Extras::default()).unwrap();
    let report = small().load_with(&Checkpoint::open(&path).unwrap(), Load::default(), false).unwrap();
    assert_eq!(report.extras, Extras::default());
    // The file of the other tests has two.
    let checkpoint = Checkpoint::from_bytes("run", saved().1).unwrap();
    assert!(small().load_with(&checkpoint, Load::default(), false).is_err());
}

/// As a training loop keeps it: the schedule of each group.
#[test]
fn a_schedule_is_a_section() {
    let (_folder, path) = folder();
    let warmup = Schedule::from(Linear { start_factor: 1.0 / 3.0, end_factor: 1.0, total_iters: 5 });
    let schedules =
        vec![warmup.then(5, Cosine { t_max: 55, eta_min: 0.1 + 0.2 }), Cosine { t_max: 7, eta_min: 1e-7 }.into()];
    let mut extras = Extras::default();
    extras.values.insert("schedules".into(), serde_json::to_value(&schedules).unwrap());
    small().save(&path, false, extras).unwrap();
    let load = Load { extras: &["schedules"], ..Default::default() };
    let report = small().load_with(&Checkpoint::open(&path).unwrap(), load, false).unwrap();
    let back: Vec<Schedule> = serde_json::from_value(report.extras.values["schedules"].clone()).unwrap();
    assert_eq!(back, schedules);
}
