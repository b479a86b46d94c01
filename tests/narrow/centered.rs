//! What is subtracted from each other must not be rounded: why centered RMSprop wants its clamp, and what is refused.

use wgpu_optim::format::codes::Codes;
use wgpu_optim::format::{Formats, Q8Zero, StateFormat, Storage};
use wgpu_optim::rule::cast;
use wgpu_optim::{Adam, Chain, Error, RmsProp, Rule, cpu, memory_plan_with, plan};

const LEN: usize = 512;
const STEPS: usize = 600;

/// Gradients that vary by a hundredth of their mean, which falls by half on the way: far from what `f32` rounds to 0. What is
/// rounded may stay behind, the mean square while the mean grows and the mean while it falls.
fn grad(step: usize, element: usize) -> f32 {
    let varied = (step * 7919 + element * 104_729) % 1009;
    let mean = if step < STEPS / 2 { 0.6 } else { 0.3 };
    // Of another size in each element: those that are the scale of their block lose nothing.
    let size = 0.3 + 0.7 * (element * 37 % 256) as f32 / 256.0;
    size * mean * (1.0 + 0.02 * (varied as f32 / 504.0 - 1.0))
}

/// How many parameters are no numbers after some steps by hand, whose slots are each stored so.
fn lost(settings: &RmsProp, storages: [Storage; 3]) -> usize {
    let h = cast(&settings.fold(1));
    let (mut params, mut state) = (vec![0.5f32; LEN], [vec![0.0f32; LEN], vec![0.0; LEN], vec![0.0; LEN]]);
    for step in 0..STEPS {
        for (element, p) in params.iter_mut().enumerate() {
            let slots = [0, 1, 2].map(|slot: usize| state[slot][element]);
            let (stepped, slots) = settings.update(&h, *p, grad(step, element), slots);
            *p = stepped;
            (0..3).for_each(|slot| state[slot][element] = slots[slot]);
        }
        for (values, storage) in state.iter_mut().zip(storages) {
            *values = Codes::of(storage, Q8Zero::Guarded, values).values(storage);
        }
    }
    params.iter().filter(|p| p.is_nan()).count()
}

const FULL: Storage = Storage::F32;
const NARROW: [[Storage; 2]; 2] = [[Storage::Bf16, Storage::Bf16], [Storage::Q8Unsigned, Storage::Q8Signed]];

#[test]
fn rounding_either_of_what_is_subtracted_makes_parameters_nan_and_a_clamp_does_not() {
    for preset in [RmsProp::PYTORCH, RmsProp { lr: 1e-3, ..RmsProp::KERAS }] {
        let settings = RmsProp { centered: true, momentum: 0.9, lr: 1e-4, ..preset };
        let clamped = RmsProp { clamp_centered: true, ..settings.clone() };
        assert_eq!(lost(&settings, [FULL; 3]), 0, "f32");
        for [square, mean] in NARROW {
            for storages in [[square, FULL, FULL], [FULL, mean, FULL], [square, mean, FULL]] {
                assert!(lost(&settings, storages) > 0, "{storages:?}");
                assert_eq!(lost(&clamped, storages), 0, "{storages:?}, clamped");
            }
            assert_eq!(lost(&settings, [FULL, FULL, mean]), 0, "momentum_buffer in {mean:?}");
        }
    }
}

fn formats(slots: &[(&str, StateFormat)]) -> Formats {
    let slots = slots.iter().map(|(slot, format)| (slot.to_string(), *format)).collect();
    Formats { slots, q8_min: 1, ..Formats::default() }
}

fn added<R: Rule>(settings: R, formats: Formats) -> Result<(), Error> {
    let mut optimizer = cpu::Optimizer::<R, f32>::with_chain(Chain::default())?;
    let added = optimizer.add_group_with(settings.clone(), formats.clone(), [("w", LEN)]).map(drop);
    assert_eq!(optimizer.names().count(), usize::from(added.is_ok()), "what is refused adds nothing");
    let groups = [(settings, formats, vec![("w", LEN as u64)])];
    let planned = memory_plan_with(&groups, &Chain::default(), 0, &plan::Limits::DEFAULT).map(drop);
    assert_eq!(planned, added, "the plan refuses what building refuses");
    added
}

#[test]
fn rounded_moments_that_are_subtracted_are_refused_unless_they_are_clamped() {
    let centered = RmsProp { centered: true, momentum: 0.9, ..RmsProp::PYTORCH };
    let clamped = RmsProp { clamp_centered: true, ..centered.clone() };
    for (slot, format, word) in [
        ("square_avg", StateFormat::Q8, "q8"),
        ("square_avg", StateFormat::Bf16, "bf16"),
        ("grad_avg", StateFormat::Q8, "q8"),
        ("grad_avg", StateFormat::Bf16, "bf16"),
    ] {
        let refused = added(centered.clone(), formats(&[(slot, format)])).unwrap_err();
        assert!(matches!(refused, Error::Rounded { .. }));
        let told = format!(
            "rmsprop: {slot} cannot be kept in {word}: where gradients vary little, rounding makes v - a^2 negative and \
             its root NaN; set clamp_centered = true, or keep square_avg and grad_avg in f32"
        );
        assert_eq!(refused.to_string(), told);
        added(clamped.clone(), formats(&[(slot, format)])).unwrap();
    }
    // By the word for all slots, and also where no tensor is long enough yet.
    let all = Formats { state: StateFormat::Q8, q8_min: u64::MAX, ..Formats::default() };
    assert!(matches!(added(centered.clone(), all.clone()), Err(Error::Rounded { slot: "square_avg", .. })));
    // What is not subtracted may be rounded, and what is kept in f32 is not.
    added(centered.clone(), formats(&[("momentum_buffer", StateFormat::Q8)])).unwrap();
    let kept = formats(&[("square_avg", StateFormat::F32), ("grad_avg", StateFormat::F32)]);
    added(centered, Formats { state: StateFormat::Q8, ..kept }).unwrap();
    added(RmsProp::PYTORCH, all.clone()).unwrap();
    added(Adam { amsgrad: true, ..Adam::PYTORCH }, all).unwrap();
}
