//! What is around a step, refused: schedules and chains that an optimizer cannot take, with nothing changed.

use wgpu_optim::kernel::Kernels;
use wgpu_optim::schedule::OneCycle;
use wgpu_optim::{Adam, Chain, Clip, Ema, Error, Group, Optimizer, Scaler};

use crate::stand::own;
use crate::support::gpu;

#[test]
fn a_schedule_with_a_bad_argument_is_refused_and_the_old_one_goes_on() {
    let Some(gpu) = gpu() else { return };
    let mut optimizer = Optimizer::new(&gpu.device, Adam::PYTORCH, [own(&gpu.device, "w", 9)]).unwrap();
    optimizer.set_schedule(0, Some(OneCycle::new(0.1, 10).into())).unwrap();
    let refused = optimizer.set_schedule(0, Some(OneCycle { pct_start: 1.5, ..OneCycle::new(0.1, 10) }.into()));
    assert!(matches!(refused, Err(Error::Schedule { argument: "pct_start", .. })), "{refused:?}");
    assert_eq!(optimizer.schedule(0).unwrap(), Some(&OneCycle::new(0.1, 10).into()));
    optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
}

#[test]
fn a_chain_that_would_need_other_state_is_refused_and_the_old_one_goes_on() {
    let Some(gpu) = gpu() else { return };
    let kernels = Kernels::new(&gpu.device).unwrap();
    let chain = Chain { clip: Some(Clip::global_norm(1.0)), ..Chain::default() };
    let group = [Group::new(Adam::PYTORCH, [own(&gpu.device, "w", 9)])];
    let mut optimizer = Optimizer::with_chain(&gpu.device, &kernels, chain.clone(), group).unwrap();
    let others = [
        ("ema", Chain { ema: Some(Ema::KERAS), ..chain.clone() }),
        ("scaler", Chain { scaler: Some(Scaler::PYTORCH), ..chain.clone() }),
        ("accumulate", Chain { accumulate: true, ..chain.clone() }),
        ("clip", Chain::default()),
    ];
    for (named, other) in others {
        match optimizer.retune_chain(other) {
            Err(Error::Chain { part, .. }) => assert_eq!(part, named),
            other => panic!("{other:?}"),
        }
    }
    let bad = optimizer.retune_chain(Chain { clip: Some(Clip::global_norm(0.0)), ..Chain::default() });
    assert_eq!(bad.unwrap_err().to_string(), "chain: clip.max is 0, expected clip.max > 0 that f32 can hold");
    assert_eq!(optimizer.chain(), &chain);
    optimizer.retune_chain(Chain { clip: Some(Clip::global_norm(0.5)), ..Chain::default() }).unwrap();
    optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
}
