//! Where nothing is asked of the chain, there is none: the step is what it was without it.

use wgpu_optim::kernel::{self, Work};
use wgpu_optim::plan::{Lanes, Places};
use wgpu_optim::rule::{Rule, Visitor, visit};
use wgpu_optim::{Adam, Chain, Clamp, Clip, Ema, Group, Kernels, Optimizer, Scaler};

use crate::bench::{Bench, SPECS, grads};
use crate::support;

const FILES: [&str; 7] = [
    "walk.wgsl",
    "open.wgsl",
    "quads/lanes.wgsl",
    "quads/params32.wgsl",
    "quads/grads32.wgsl",
    "quads/state32.wgsl",
    "step.wgsl",
];

struct Texts;

impl Visitor for Texts {
    fn rule<R: Rule>(&mut self) {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
        let mut files: Vec<String> =
            FILES.iter().map(|file| std::fs::read_to_string(root.join(file)).unwrap()).collect();
        files.push(R::WGSL.into());
        assert_eq!(kernel::text::<R>(Work::Step, Lanes::Quads), files.join("\n"), "{}", R::NAME);
        for (case, settings) in R::cases() {
            let set = kernel::overrides(Work::Step, &settings, &Chain::default(), Places::Table);
            let own = |name: &str| {
                let switch = settings.switches().iter().any(|(switch, _)| *switch == name);
                let plane = R::SLOTS.iter().any(|slot| name == format!("PLANE_{}", slot.to_uppercase()));
                switch || plane || name == "WORKGROUP" || ["HAS_PLACES", "HAS_START", "PLACE_VECTORS"].contains(&name)
            };
            assert!(set.iter().all(|(name, _)| own(name)), "{} {case}: {set:?}", R::NAME);
        }
    }
}

#[test]
fn the_plain_kernel_holds_nothing_of_the_chain() {
    visit(&mut Texts);
}

#[test]
fn an_empty_chain_is_no_chain() {
    let Some(gpu) = support::gpu() else { return };
    let groups = [Adam::PYTORCH, Adam { lr: 0.1, ..Adam::KERAS }];
    let mut empty = Bench::new(&gpu, &Chain::default(), &groups, &SPECS);
    assert!(empty.optimizer.scale().is_none());
    let kernels = Kernels::new(&gpu.device).unwrap();
    let mut plain = Bench::new(&gpu, &Chain::default(), &groups, &SPECS);
    let tensors = plain.optimizer.tensors().to_vec();
    let own = |group| tensors.iter().zip(SPECS).filter(move |(_, spec)| spec.0 == group).map(|(t, _)| t.clone());
    let own: Vec<_> = groups.iter().enumerate().map(|(i, settings)| Group::new(settings.clone(), own(i))).collect();
    plain.optimizer = Optimizer::with_kernels(&gpu.device, &kernels, own).unwrap();
    assert_eq!(empty.optimizer.dispatches(), plain.optimizer.dispatches());
    for step in 0..4 {
        empty.step(&grads(&SPECS, step, 1.0));
        plain.step(&grads(&SPECS, step, 1.0));
    }
    assert!(empty.world() == plain.world());
    for slot in ["ema", "accumulated_grad"] {
        assert!(empty.optimizer.state_ranges("t0", slot).is_err(), "{slot} is kept");
    }
}

/// A chain whose parts all let pass what comes through makes the bits of none, in as many dispatches of the step.
#[test]
fn a_chain_that_changes_nothing_makes_the_bits_of_none() {
    let Some(gpu) = support::gpu() else { return };
    let groups = [Adam::PYTORCH, Adam { lr: 0.1, ..Adam::KERAS }];
    let mut plain = Bench::new(&gpu, &Chain::default(), &groups, &SPECS);
    (0..4).for_each(|step| plain.step(&grads(&SPECS, step, 1.0)));
    let chains = [
        Chain { clip: Some(Clip::value(1e30)), ..Chain::default() },
        Chain { clip: Some(Clip::global_norm(1e30)), ..Chain::default() },
        Chain { clamp: Some(Clamp { min: -1e30, max: 1e30 }), ..Chain::default() },
        Chain { ema: Some(Ema::KERAS), ..Chain::default() },
        Chain { ema: Some(Ema::KERAS), clip: Some(Clip::tensor_norm(1e30)), ..Chain::default() },
    ];
    for chain in chains {
        let mut bench = Bench::new(&gpu, &chain, &groups, &SPECS);
        (0..4).for_each(|step| bench.step(&grads(&SPECS, step, 1.0)));
        assert!(bench.world().params == plain.world().params, "{chain:?}");
        assert!(bench.optimizer.scale().is_none(), "{chain:?}");
    }
}

/// A scale that is a power of two leaves no rounding: whatever it is, steps have the same bits.
#[test]
fn a_scale_leaves_no_trace_in_a_step() {
    let Some(gpu) = support::gpu() else { return };
    let groups = [Adam::PYTORCH, Adam { lr: 0.1, ..Adam::KERAS }];
    let worlds = [1.0, 1024.0, 65536.0].map(|scale| {
        let scaler = Some(Scaler { init_scale: scale, ..Scaler::PYTORCH });
        let chain = Chain { scaler, clip: Some(Clip::global_norm(0.5)), ..Chain::default() };
        let mut bench = Bench::new(&gpu, &chain, &groups, &SPECS);
        (0..4).for_each(|step| bench.step(&grads(&SPECS, step, scale as f32)));
        let world = bench.world();
        (world.params, world.slots)
    });
    assert!(worlds[0] == worlds[1] && worlds[1] == worlds[2]);
}

/// An average of long memory forgets as slowly as it says, also where the device decides.
#[test]
fn a_long_average_takes_its_exact_share() {
    let Some(gpu) = support::gpu() else { return };
    let ema = Some(Ema { decay: 0.99999, overwrite_every: 0 });
    for chain in [
        Chain { ema: ema.clone(), ..Chain::default() },
        Chain { ema: ema.clone(), clip: Some(Clip::global_norm(1.0)), ..Chain::default() },
        Chain { ema, scaler: Some(Scaler { init_scale: 1.0, ..Scaler::PYTORCH }), ..Chain::default() },
    ] {
        let mut bench = Bench::new(&gpu, &chain, &[Adam { lr: 0.0, ..Adam::PYTORCH }], &[(0, 0, 40)]);
        bench.optimizer.set_all_steps(10);
        // From an average of 0, so that what is taken is all there is.
        bench.step(&[vec![1.0; 40]]);
        for (average, p) in bench.slot(0, "ema").iter().zip(bench.start(0)) {
            let expected = 1e-5 * f64::from(p);
            let off = (f64::from(*average) - expected).abs();
            assert!(off <= 3e-7 * expected.abs(), "{chain:?}: {average:e} for {expected:e}");
        }
    }
}
