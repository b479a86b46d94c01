//! Every composition of files is a valid shader, has the overrides that the host sets, and compiles.

use std::collections::BTreeSet;

use naga::valid::{Capabilities, ValidationFlags, Validator};
use wgpu_optim::format::stored::Stored;
use wgpu_optim::format::{Format, Plane, Rounding, Storage};
use wgpu_optim::kernel::{self, Walk, Work};
use wgpu_optim::plan::{Lanes, Places};
use wgpu_optim::rule::{Rule, Visitor, visit};
use wgpu_optim::{Chain, Clip, Ema};

const WALKS: [Walk; 2] = [Walk::Tensors { places: Places::Table }, Walk::Rows { counted: true }];

/// Each choice of files.
fn compositions<R: Rule>() -> Vec<Stored> {
    let mut all = Vec::new();
    for params in [Format::F32, Format::Bf16] {
        for grads in [Format::F32, Format::F16] {
            for storage in [Storage::F32, Storage::Bf16, Storage::Q8Signed] {
                for rounding in [Rounding::Nearest, Rounding::Stochastic] {
                    let planes = R::SLOTS.iter().map(|slot| Plane { slot, storage }).collect();
                    all.push(Stored { params, grads, planes, rounding, ..Stored::default() });
                }
            }
        }
    }
    all
}

struct Valid;

impl Visitor for Valid {
    fn rule<R: Rule>(&mut self) {
        let chain =
            Chain { clip: Some(Clip::global_norm(1.0)), ema: Some(Ema::KERAS), accumulate: true, ..Chain::default() };
        let works = [Work::Step, Work::Gated, Work::Watched, Work::Accumulate, Work::Measure, Work::Reset];
        let kernels = works.into_iter().flat_map(|work| [Lanes::Quads, Lanes::Words].map(|lanes| (work, lanes)));
        let kernels: Vec<_> = kernels.flat_map(|kernel| WALKS.map(|walk| (kernel, walk))).collect();
        for stored in compositions::<R>() {
            let blocks = stored.planes.iter().any(|plane| plane.storage.has_scales());
            for &((work, lanes), walk) in &kernels {
                // A list of rows goes over no blocks, and a reset is of rows.
                let alone = work == Work::Reset || matches!(walk, Walk::Rows { .. });
                if work == Work::Step && stored.has_chance() || alone && blocks {
                    continue;
                }
                let text = kernel::text_of::<R>(work, lanes, walk, &stored);
                let what = format!("{} {work:?} {lanes:?} {walk:?} {stored:?}", R::NAME);
                let module = naga::front::wgsl::parse_str(&text)
                    .unwrap_or_else(|error| panic!("{what}: {}", error.emit_to_string(&text)));
                let mut validator = Validator::new(ValidationFlags::all(), Capabilities::default());
                validator.validate(&module).unwrap_or_else(|error| panic!("{what}: {error:?}"));
                check_overrides::<R>((work, walk), &chain, &stored, &module, &what);
            }
        }
    }
}

fn check_overrides<R: Rule>(
    (work, walk): (Work, Walk),
    chain: &Chain,
    stored: &Stored,
    module: &naga::Module,
    what: &str,
) {
    let shader: BTreeSet<String> = module.overrides.iter().map(|(_, own)| own.name.clone().unwrap()).collect();
    let mut host = BTreeSet::new();
    for (_, settings) in R::cases() {
        let own = |plane: &Plane| {
            R::SLOTS.iter().position(|slot| *slot == plane.slot).is_some_and(|slot| settings.keeps(slot))
        };
        let mut planes: Vec<Plane> = stored.planes.iter().copied().filter(own).collect();
        planes.extend(chain.slots().into_iter().map(|slot| Plane { slot, storage: Storage::F32 }));
        let stored = Stored { planes, ..stored.clone() };
        host.extend(kernel::overrides_of(work, &settings, chain, walk, &stored).into_iter().map(|(name, _)| name));
    }
    assert_eq!(host, shader, "{what}");
}

#[test]
fn every_composition_is_valid_and_has_the_overrides_that_are_set() {
    visit(&mut Valid);
}

/// What formats do not touch is what it always was.
#[test]
fn a_kernel_of_32_bits_holds_nothing_of_formats() {
    struct Plain;
    impl Visitor for Plain {
        fn rule<R: Rule>(&mut self) {
            for lanes in [Lanes::Quads, Lanes::Words] {
                let text = kernel::text::<R>(Work::Step, lanes);
                assert!(
                    !text.contains("Barrier") && !text.contains("atomic") && !text.contains("narrow"),
                    "{}",
                    R::NAME
                );
            }
        }
    }
    visit(&mut Plain);
}
