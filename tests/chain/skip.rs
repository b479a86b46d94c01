//! A gradient that is not finite: the whole step is left out, and nothing of it stays.

use wgpu_optim::{Adam, Chain, Clip, Ema, RmsProp, Rule};

use crate::bench::{Bench, SPECS, grads, scaler, small};
use crate::support::{self, Gpu};

/// Every kind of what is not finite, by its bits.
const NOT_FINITE: [u32; 6] = [0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0xffc0_0001, 0x7f80_0001, 0xffff_ffff];

fn chain(clip: Option<Clip>) -> Chain {
    let ema = Some(Ema { decay: 0.9, overwrite_every: 2 });
    Chain { clip, scaler: Some(scaler()), ema, ..Chain::default() }
}

fn two_groups<R: Rule>(settings: R) -> Vec<R> {
    vec![settings.clone(), settings]
}

fn leaves_no_trace<R: Rule>(gpu: &Gpu, chain: &Chain, settings: R) {
    let groups = two_groups(settings);
    let clean = |step| grads(&SPECS, step, 1024.0);
    // A run that never sees what the other is about to see. A scale that is a power of two leaves no rounding.
    let mut unharmed = Bench::new(gpu, chain, &groups, &SPECS);
    (0..5).for_each(|step| unharmed.step(&clean(step)));
    let mut bench = Bench::new(gpu, chain, &groups, &SPECS);
    bench.step(&clean(0));
    bench.step(&clean(1));
    let before = bench.world();
    let mut scale = 1024.0;
    let places = SPECS.iter().enumerate().flat_map(|(i, &(_, _, len))| [(i, 0), (i, len / 2), (i, len - 1)]);
    for (n, (tensor, element)) in places.enumerate() {
        let mut bad = grads(&SPECS, 7, scale);
        bad[tensor][element] = f32::from_bits(NOT_FINITE[n % NOT_FINITE.len()]);
        bench.step(&bad);
        let after = bench.world();
        scale *= 0.5;
        let what = format!("{:x} at {element} of t{tensor}", NOT_FINITE[n % NOT_FINITE.len()]);
        assert!(after.params == before.params, "{what} moved parameters");
        assert!(after.slots == before.slots, "{what} moved state");
        assert_eq!(bench.scaler(), (scale, 0, n as u32 + 1), "{what}");
    }
    for step in 2..5 {
        bench.step(&grads(&SPECS, step, scale));
    }
    let (bench, unharmed) = (bench.world(), unharmed.world());
    assert!(bench.params == unharmed.params && bench.slots == unharmed.slots, "{chain:?}: a skipped step left a trace");
    assert_ne!(bench.params, before.params);
}

#[test]
fn a_skipped_step_leaves_no_trace() {
    let Some(gpu) = small() else { return };
    for clip in [None, Some(Clip::global_norm(0.5)), Some(Clip::tensor_norm(0.5)), Some(Clip::value(0.1))] {
        leaves_no_trace(&gpu, &chain(clip), Adam { lr: 0.01, amsgrad: true, nesterov: true, ..Adam::KERAS });
    }
    leaves_no_trace(&gpu, &chain(None), RmsProp { momentum: 0.9, centered: true, ..RmsProp::PYTORCH });
}

#[test]
fn one_infinity_among_many_launches_is_found() {
    let Some(gpu) = small() else { return };
    let specs = [(0, 0, 100_003), (0, 1, 90_001), (0, 0, 257)];
    let mut bench = Bench::new(&gpu, &chain(None), &[Adam::PYTORCH], &specs);
    let before = bench.world();
    let (mut scale, mut skipped) = (1024.0, 0);
    for (i, (_, _, len)) in specs.into_iter().enumerate() {
        // Around each workgroup's first and last lane, and wherever a window may end.
        for element in [0, 3, 255, 256, 1023, 1024, 65_535, 65_536, len - 3, len - 1].into_iter().filter(|&e| e < len) {
            let mut bad = specs.map(|(_, _, len)| vec![1.0; len]);
            bad[i][element] = f32::NEG_INFINITY;
            bench.step(&bad);
            (scale, skipped) = (scale * 0.5, skipped + 1);
            assert_eq!(bench.scaler(), (scale, 0, skipped), "element {element} of t{i}");
        }
    }
    let after = bench.world();
    assert!(after.params == before.params && after.slots == before.slots);
}

#[test]
fn what_is_not_finite_in_a_frozen_tensor_does_not_count() {
    let Some(gpu) = small() else { return };
    let groups = two_groups(Adam::PYTORCH);
    let mut bench = Bench::new(&gpu, &chain(Some(Clip::global_norm(0.5))), &groups, &SPECS);
    let mut bad = grads(&SPECS, 0, 1024.0);
    bad[4].fill(f32::NAN);
    bench.optimizer.freeze(["t4"]).unwrap();
    let before = bench.world();
    bench.step(&bad);
    assert_eq!(bench.scaler(), (1024.0, 1, 0));
    let after = bench.world();
    assert_eq!(after.slots[4], before.slots[4]);
    assert_ne!(after.params, before.params);
    let finite = |slots: &[Vec<u32>]| slots.iter().flatten().all(|&word| f32::from_bits(word).is_finite());
    assert!(after.slots.iter().all(|slots| finite(slots)), "the frozen NaN got into another tensor");
    // Thawed, it counts.
    bench.optimizer.thaw(["t4"]).unwrap();
    bench.step(&bad);
    assert_eq!(bench.scaler(), (512.0, 0, 1));
    assert_eq!(bench.world().slots, after.slots);
}

/// Without a scaler nothing is skipped, as in PyTorch: nothing is left of gradients whose norm is not finite.
#[test]
fn without_a_scaler_an_infinite_norm_empties_the_step() {
    let Some(gpu) = support::gpu() else { return };
    let chain = Chain { clip: Some(Clip::global_norm(1.0)), ..Chain::default() };
    let specs = [(0, 0, 9), (0, 0, 70)];
    let mut bench = Bench::new(&gpu, &chain, &[crate::shown::Shown::GRADIENT], &specs);
    let mut bad = specs.map(|(_, _, len)| vec![2.0; len]);
    bad[0][8] = f32::INFINITY;
    bench.step(&bad);
    assert!(bench.slot(1, "received").iter().all(|&g| g == 0.0));
    assert!(bench.slot(0, "received")[..8].iter().all(|&g| g == 0.0));
}
