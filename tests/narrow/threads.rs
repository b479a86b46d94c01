//! The step on all cores and lanes is the twin's, bit for bit, in every format and at every number of threads.

use wgpu_optim::cpu::Optimizer;
use wgpu_optim::rule::{Rule, Visitor, visit};
use wgpu_optim::{Adam, Chain, Clamp, Ema, RmsProp, Scaler};

use super::run::{LENS, Run, all, mixed};
use wgpu_optim::format::Formats;

const STEPS: usize = 3;

#[test]
fn every_format_is_the_twins_bit_for_bit_at_every_number_of_threads() {
    struct Each;
    impl Visitor for Each {
        fn rule<R: Rule>(&mut self) {
            let (_, _, settings) = &R::PRESETS[0];
            for (format, formats) in all().into_iter().chain([("mixed", mixed::<R>())]) {
                same_bits(format, settings, &Chain::default(), &formats);
            }
        }
    }
    visit(&mut Each);
}

#[test]
fn slots_that_some_settings_add_are_the_twins() {
    for (format, formats) in all() {
        same_bits(format, &Adam { amsgrad: true, nesterov: true, ..Adam::PYTORCH }, &Chain::default(), &formats);
        let centered = RmsProp { centered: true, clamp_centered: true, momentum: 0.9, ..RmsProp::KERAS };
        same_bits(format, &centered, &Chain::default(), &formats);
    }
}

/// The scaler finds nothing that is not finite, and no clip by norm is there: norms are summed up in another order.
#[test]
fn what_is_around_the_update_is_the_twins() {
    let chain = Chain {
        scaler: Some(Scaler { init_scale: 4.0, ..Scaler::PYTORCH }),
        ema: Some(Ema { decay: 0.9, ..Ema::KERAS }),
        clamp: Some(Clamp { min: -0.9, max: 0.9 }),
        ..Chain::default()
    };
    for (format, formats) in all() {
        same_bits(format, &Adam::PYTORCH, &chain, &formats);
    }
}

fn same_bits<R: Rule>(format: &str, settings: &R, chain: &Chain, formats: &Formats) {
    let start = Run::new(settings, chain, formats, &LENS);
    let mut twin = start.clone();
    (0..STEPS).for_each(|step| twin.step(step, Optimizer::step_slices));
    assert!(start.bits() != twin.bits(), "{} in {format} moved nothing", R::NAME);
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut run = Run::new(settings, chain, formats, &LENS);
        pool.install(|| (0..STEPS).for_each(|step| run.step(step, Optimizer::step_slices_parallel)));
        assert!(run.bits() == twin.bits(), "{} in {format} differs with {threads} threads", R::NAME);
    }
}
