//! The comparator can fail, and every scalar of every rule makes it.

use wgpu_optim::envelope::{Device, Probe, Reference, Snapshot, compare};
use wgpu_optim::rule::{Rule, Scalars, Visitor, cast, visit};
use wgpu_optim::{Adam, RmsProp};

const LENS: [usize; 3] = [255, 256, 1021];
const STEPS: usize = 4;

/// The worst of a case when the device is the twin, with one field of its scalars multiplied.
fn worst<R: Rule>(settings: &R, field: usize, factor: f32) -> f64 {
    let mut worst = 0f64;
    for (len, warm) in LENS.into_iter().flat_map(|len| [(len, false), (len, true)]) {
        let probe = Probe::new(settings, len, STEPS, warm);
        let mut before = probe.start.clone();
        for (t, grads) in probe.grads.iter().enumerate() {
            let exact = settings.fold(probe.steps_before + t as u64 + 1);
            let rounded: R::Hyper<f32> = cast(&exact);
            let fields = rounded.fields();
            let off = <R::Hyper<f32> as Scalars<f32>>::from_fields(|i| {
                if i == field { fields[i] * factor } else { fields[i] }
            });
            let device = before.stepped(settings, &off, grads);
            let oracle = before.stepped(settings, &exact, grads);
            worst = worst.max(compare(settings, &before, Device(&device), Reference(&oracle)).envelope);
            before = device;
        }
    }
    worst
}

struct Twin;

impl Visitor for Twin {
    fn rule<R: Rule>(&mut self) {
        for (case, settings) in R::cases() {
            settings.check().unwrap();
            let worst = worst(&settings, 0, 1.0);
            println!("{} {case}: {worst:.3} of the envelope", R::NAME);
            assert!(worst < 0.8, "{} {case}: the twin is {worst:.3} of the envelope off the oracle", R::NAME);
        }
    }
}

#[test]
fn the_twin_is_well_inside_the_envelope() {
    visit(&mut Twin);
}

struct EveryScalar;

impl Visitor for EveryScalar {
    fn rule<R: Rule>(&mut self) {
        for (field, name) in <R::Hyper<f32> as Scalars<f32>>::FIELDS.iter().enumerate() {
            let refusals = |factor| {
                let of = |(case, settings): &(&'static str, R)| (worst(settings, field, factor), *case);
                let worst = R::cases().iter().map(of).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
                println!("{}.{name} x {factor}: {:.1} of the envelope, in {:?}", R::NAME, worst.0, worst.1);
                worst.0
            };
            assert!(refusals(1.0 + 1e-4) > 1.0, "{}.{name} grown by 1e-4 is not noticed", R::NAME);
            assert!(refusals(1.0 - 1e-4) > 1.0, "{}.{name} shrunk by 1e-4 is not noticed", R::NAME);
        }
    }
}

#[test]
fn every_scalar_of_every_rule_is_noticed_when_it_is_off_by_a_ten_thousandth() {
    visit(&mut EveryScalar);
}

/// One step of the twin, and what it started from.
fn stepped() -> (Snapshot<f32>, Snapshot<f32>, Snapshot<f64>) {
    let rule = Adam::PYTORCH;
    let probe = Probe::new(&rule, 100, 1, true);
    let exact = rule.fold(probe.steps_before + 1);
    let twin = probe.start.stepped(&rule, &cast(&exact), &probe.grads[0]);
    let oracle = probe.start.stepped(&rule, &exact, &probe.grads[0]);
    (probe.start, twin, oracle)
}

#[test]
fn one_wrong_element_in_a_hundred_is_noticed() {
    let (before, mut device, oracle) = stepped();
    assert!(compare(&Adam::PYTORCH, &before, Device(&device), Reference(&oracle)).holds());
    device.params[57] = before.params[57] + (device.params[57] - before.params[57]) * 1.01 + 1e-5;
    assert!(!compare(&Adam::PYTORCH, &before, Device(&device), Reference(&oracle)).holds());
}

#[test]
fn one_nan_is_noticed_in_parameters_and_in_state() {
    let (before, device, oracle) = stepped();
    let mut wrong = device.clone();
    wrong.params[99] = f32::NAN;
    let worst = compare(&Adam::PYTORCH, &before, Device(&wrong), Reference(&oracle));
    assert_eq!(worst.envelope, f64::INFINITY);
    let mut wrong = device.clone();
    wrong.slots[1][3] = f32::NAN;
    assert!(!compare(&Adam::PYTORCH, &before, Device(&wrong), Reference(&oracle)).holds());
}

#[test]
fn a_step_that_moved_nothing_is_noticed() {
    let (before, mut device, oracle) = stepped();
    device.params.clone_from(&before.params);
    assert!(!compare(&Adam::PYTORCH, &before, Device(&device), Reference(&oracle)).holds());
}

#[test]
fn a_slot_that_is_missing_or_stale_is_noticed() {
    let rule = RmsProp { momentum: 0.9, ..RmsProp::PYTORCH };
    let probe = Probe::new(&rule, 64, 1, true);
    let exact = rule.fold(4);
    let twin = probe.start.stepped(&rule, &cast(&exact), &probe.grads[0]);
    let oracle = probe.start.stepped(&rule, &exact, &probe.grads[0]);
    let mut stale = twin.clone();
    stale.slots[2].clone_from(&probe.start.slots[2]);
    assert!(!compare(&rule, &probe.start, Device(&stale), Reference(&oracle)).holds());
    let mut missing = twin;
    missing.slots[2].clear();
    assert!(!compare(&rule, &probe.start, Device(&missing), Reference(&oracle)).holds());
}
