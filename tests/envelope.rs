//! The comparator can fail, and every scalar of every rule makes it.

use wgpu_optim::RmsProp;
use wgpu_optim::envelope::{Device, Probe, Snapshot, Trial};
use wgpu_optim::rule::{Rule, Scalars, Visitor, cast, visit};

const LENS: [usize; 3] = [255, 256, 1021];
const STEPS: usize = 4;

/// The worst of a case when the device is the twin, with one field of its scalars multiplied.
fn worst<R: Rule>(settings: &R, field: usize, factor: f32) -> f64 {
    let mut worst = 0f64;
    for (len, warm) in LENS.into_iter().flat_map(|len| [(len, false), (len, true)]) {
        let probe = Probe::new(settings, len, STEPS, warm);
        let mut before = probe.start.clone();
        for (t, grads) in probe.grads.iter().enumerate() {
            let step = probe.steps_before + t as u64 + 1;
            let rounded: R::Hyper<f32> = cast(&settings.fold(step));
            let fields = rounded.fields();
            let off =
                <R::Hyper<f32> as Scalars<f32>>::from_fields(
                    |i| {
                        if i == field { fields[i] * factor } else { fields[i] }
                    },
                );
            let device = before.stepped(settings, &off, grads);
            let trial = Trial::new(settings, step, &before, grads);
            worst = worst.max(trial.against_oracle(Device(&device)).envelope);
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

const RULE: RmsProp = RmsProp { momentum: 0.9, ..RmsProp::PYTORCH };

/// Whether a step of the twin holds after `change` was done to it.
fn holds_after(change: impl FnOnce(&Snapshot<f32>, &mut Snapshot<f32>)) -> bool {
    let probe = Probe::new(&RULE, 100, 1, true);
    let step = probe.steps_before + 1;
    let mut device = probe.start.stepped(&RULE, &cast(&RULE.fold(step)), &probe.grads[0]);
    change(&probe.start, &mut device);
    let trial = Trial::new(&RULE, step, &probe.start, &probe.grads[0]);
    let (oracle, twin) = (trial.against_oracle(Device(&device)), trial.against_twin(Device(&device)));
    assert_eq!(oracle.holds(), twin.holds(), "{oracle:?} {twin:?}");
    oracle.holds()
}

#[test]
fn the_twin_itself_holds() {
    assert!(holds_after(|_, _| ()));
}

#[test]
fn one_wrong_element_in_a_hundred_is_noticed() {
    assert!(!holds_after(|_, device| device.params[57] += 1e-5));
    assert!(!holds_after(|_, device| device.slots[0][57] *= 1.0001));
}

#[test]
fn one_nan_is_noticed_in_parameters_and_in_state() {
    assert!(!holds_after(|_, device| device.params[99] = f32::NAN));
    assert!(!holds_after(|_, device| device.slots[2][3] = f32::NAN));
    assert!(!holds_after(|_, device| device.params[0] = f32::INFINITY));
}

#[test]
fn a_step_that_moved_nothing_is_noticed() {
    assert!(!holds_after(|before, device| device.params.clone_from(&before.params)));
}

#[test]
fn a_slot_that_is_missing_or_stale_is_noticed() {
    assert!(!holds_after(|before, device| device.slots[2].clone_from(&before.slots[2])));
    assert!(!holds_after(|_, device| device.slots[2].clear()));
    assert!(!holds_after(|_, device| device.params.truncate(50)));
}
