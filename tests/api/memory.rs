//! What the memory plan tells is what is then taken.

use std::collections::HashMap;

use wgpu_optim::format::{Format, Formats, Rounding, StateFormat};
use wgpu_optim::plan::Limits;
use wgpu_optim::{
    Adam, Arena, BufferRange, Chain, Clip, Ema, Error, Group, Kernels, MemoryPlan, Optimizer, RmsProp, Rule, Scaler,
    Watch, memory_plan, memory_plan_together, memory_plan_with, wgpu,
};

use crate::stand::noop;
use crate::support::{Gpu, gpu_with};

/// Builds what was planned on a device of these limits, and holds the plan to it.
fn hold<R: Rule>(groups: &[(R, Vec<(&str, u64)>)], chain: &Chain, limits: wgpu::Limits) -> MemoryPlan {
    let gpu = noop(limits);
    let plan = memory_plan(groups, chain, 0, &Limits::from(&gpu.device.limits())).unwrap();
    let named: Vec<(&str, u64)> = groups.iter().flat_map(|(_, tensors)| tensors.clone()).collect();
    let arena = Arena::new(&gpu.device, named.iter().copied()).unwrap();
    let pages: Vec<(u64, u64)> = arena.pages().iter().map(|(params, grads)| (params.size(), grads.size())).collect();
    assert_eq!(pages, plan.arena.iter().map(|&page| (page, page)).collect::<Vec<_>>());
    let optimizer = build(&gpu, groups, chain, &arena);
    assert_eq!(optimizer.dispatches(), plan.dispatches.len());
    hold_state(&optimizer, &plan);
    plan
}

fn build<R: Rule>(gpu: &Gpu, groups: &[(R, Vec<(&str, u64)>)], chain: &Chain, arena: &Arena) -> Optimizer<R> {
    let mut lent = arena.tensors().into_iter();
    let own = groups.iter().map(|(settings, tensors)| Group::new(settings.clone(), lent.by_ref().take(tensors.len())));
    let own: Vec<_> = own.collect();
    Optimizer::with_chain(&gpu.device, &Kernels::new(&gpu.device).unwrap(), chain.clone(), own).unwrap()
}

fn hold_state<R: Rule>(optimizer: &Optimizer<R>, plan: &MemoryPlan) {
    let mut pages: HashMap<wgpu::Buffer, u64> = HashMap::new();
    for tensor in &plan.tensors {
        let slots = optimizer.slots(&tensor.name).unwrap();
        assert_eq!(tensor.slots.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), slots);
        for &(slot, size) in &tensor.slots {
            let ranges = optimizer.state_ranges(&tensor.name, slot).unwrap();
            assert_eq!(ranges.len(), tensor.windows, "{slot} of {:?}", tensor.name);
            assert_eq!(ranges.iter().map(|range| range.size()).sum::<u64>(), size);
            pages.extend(ranges.iter().map(|range| (range.buffer().clone(), range.buffer().size())));
        }
    }
    let mut taken: Vec<u64> = pages.into_values().collect();
    let mut planned = plan.state.clone();
    taken.sort_unstable();
    planned.sort_unstable();
    assert_eq!(taken, planned, "bytes of the pages of state");
}

/// Formats of groups: pairs that come twice, widths that differ, blocks, chance, what formats keep besides.
fn formats() -> Vec<Formats> {
    let bf16 = Formats { params: Format::Bf16, grads: Format::Bf16, ..Formats::default() };
    let f16 = Formats { params: Format::F16, grads: Format::F32, ..Formats::default() };
    vec![
        Formats { state: StateFormat::Q8, ..bf16.clone() },
        Formats { state: StateFormat::Bf16, master: true, rounding: Rounding::Stochastic, ..bf16 },
        Formats { rounding: Rounding::Kahan, slots: [("exp_avg".into(), StateFormat::Q8)].into(), ..f16.clone() },
        Formats::default(),
        Formats { master: true, q8_min: 0, state: StateFormat::Q8, ..f16 },
    ]
}

#[test]
fn what_is_planned_in_every_format_is_what_is_taken() {
    for limits in [wgpu::Limits::default(), small()] {
        let gpu = noop(limits);
        let lens = [4097, 3, 100_003, 500_000];
        let names: Vec<Vec<String>> =
            (0..5).map(|group| lens.iter().map(|len| format!("{len} of {group}")).collect()).collect();
        let tensors = |group: usize| names[group].iter().map(String::as_str).zip(lens).collect::<Vec<(&str, u64)>>();
        let planned: Vec<_> =
            formats().into_iter().enumerate().map(|(i, formats)| (Adam::PYTORCH, formats, tensors(i))).collect();
        let plan = memory_plan_with(&planned, &Chain::default(), 0, &Limits::from(&gpu.device.limits())).unwrap();
        // One arena for each pair, in the order of the plan.
        let (mut pages, mut lent) = (Vec::new(), HashMap::new());
        for own in [&[0, 1][..], &[2, 4], &[3]] {
            let named = own.iter().flat_map(|&group| tensors(group));
            let arena = Arena::with_formats(&gpu.device, &planned[own[0]].1, named).unwrap();
            pages.extend(arena.pages().iter().map(|(params, grads)| (params.size(), grads.size())));
            lent.extend(arena.tensors().into_iter().map(|tensor| (tensor.name().to_string(), tensor)));
        }
        assert_eq!(plan.arena.iter().copied().zip(plan.grads.iter().copied()).collect::<Vec<_>>(), pages);
        let group = |(settings, formats, tensors): &(Adam, Formats, Vec<(&str, u64)>)| {
            let own = tensors.iter().map(|(name, _)| lent[*name].clone());
            Group::new(settings.clone(), own).with_formats(formats.clone())
        };
        let optimizer = Optimizer::with_groups(&gpu.device, planned.iter().map(group)).unwrap();
        assert_eq!(optimizer.dispatches(), plan.dispatches.len());
        let mut taken: HashMap<wgpu::Buffer, u64> = HashMap::new();
        for tensor in &plan.tensors {
            let lent = &lent[&tensor.name];
            assert_eq!((lent.params().size(), lent.grads().size()), (tensor.size, tensor.grads), "{:?}", tensor.name);
            let slots: Vec<&str> = tensor.slots.iter().map(|(slot, _)| *slot).collect();
            assert_eq!(optimizer.slots(&tensor.name).unwrap(), slots);
            for &(slot, size) in &tensor.slots {
                let mut ranges = optimizer.state_ranges(&tensor.name, slot).unwrap();
                assert_eq!(ranges.len(), tensor.windows, "{slot} of {:?}", tensor.name);
                ranges.extend(optimizer.scale_ranges(&tensor.name, slot).unwrap());
                assert_eq!(ranges.iter().map(BufferRange::size).sum::<u64>(), size, "{slot} of {:?}", tensor.name);
                taken.extend(ranges.iter().map(|range| (range.buffer().clone(), range.buffer().size())));
            }
        }
        let (mut taken, mut state): (Vec<u64>, _) = (taken.into_values().collect(), plan.state.clone());
        taken.sort_unstable();
        state.sort_unstable();
        assert_eq!(taken, state, "bytes of the pages of state");
    }
}

/// Bytes that the driver has given to buffers of this label, and how many buffers there are. wgpu tells it of Vulkan and DX12.
fn given(gpu: &Gpu, label: &str) -> Option<(u64, u64)> {
    let report = gpu.device.generate_allocator_report()?;
    let own = report.allocations.iter().filter(|allocation| allocation.name == label);
    Some(own.fold((0, 0), |(bytes, buffers), allocation| (bytes + allocation.size, buffers + 1)))
}

/// Calls of `clip_together`.
type Pairs<'a> = &'a [(usize, usize)];

/// Holds each buffer around a step to what the driver says of its label: the bytes planned, and what it rounds each up by.
fn hold_around<R: Rule>(gpu: &Gpu, groups: &[(R, Vec<(&str, u64)>)], pairs: Pairs<'_>, chain: &Chain, watch: Watch) {
    let planned: Vec<_> =
        groups.iter().map(|(rule, tensors)| (rule.clone(), Formats::default(), tensors.clone())).collect();
    let plan = memory_plan_together(&planned, pairs, chain, watch, &Limits::from(&gpu.device.limits())).unwrap();
    let named: Vec<(&str, u64)> = groups.iter().flat_map(|(_, tensors)| tensors.clone()).collect();
    let arena = Arena::new(&gpu.device, named).unwrap();
    let mut optimizer = build(gpu, groups, chain, &arena);
    pairs.iter().for_each(|&(group, with)| optimizer.clip_together(group, with).unwrap());
    if watch.depth > 0 {
        optimizer.watch(&gpu.device, watch).unwrap();
    }
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    optimizer.record(&gpu.device, &mut encoder).unwrap();
    let fresh = if plan.decision.is_empty() { "scalars" } else { "orders" };
    let tables: u64 = plan.watched.iter().filter(|(name, _)| *name == "tables of updates").map(|(_, size)| size).sum();
    let around = plan.decision.iter().chain(&plan.watched).filter(|(name, _)| *name != "tables of updates");
    for (name, planned) in around.copied().chain([(fresh, plan.scalars)]) {
        let Some((bytes, buffers)) = given(gpu, &format!("wgpu-optim {name}")) else {
            return eprintln!("SKIPPED: this backend tells nothing of its memory");
        };
        let rounded = planned + buffers * ROUNDED;
        assert!((planned..rounded).contains(&bytes) && buffers > 0, "{name}: {bytes} bytes for {planned}; {chain:?}");
    }
    let [(tabled, some), (run, more)] = ["tables", "runs"].map(|of| given(gpu, &format!("wgpu-optim {of}")).unwrap());
    // Of each buffer of tables the last is not padded.
    let planned = plan.tables + tables;
    let range = planned - (some + more) * 256..planned + (some + more) * ROUNDED;
    assert!(range.contains(&(tabled + run)), "{} bytes of tables for {planned}; {chain:?}", tabled + run);
    drop(encoder);
}

/// More than a driver rounds a buffer up by.
const ROUNDED: u64 = 256;

fn small() -> wgpu::Limits {
    wgpu::Limits {
        max_storage_buffer_binding_size: 1 << 20,
        max_buffer_size: 4 << 20,
        max_compute_workgroups_per_dimension: 7,
        ..wgpu::Limits::default()
    }
}

fn chains() -> [Chain; 4] {
    let ema = Some(Ema::KERAS);
    [
        Chain { ema: ema.clone(), accumulate: true, ..Chain::default() },
        Chain { clip: Some(Clip::tensor_norm(1.0)), ema, ..Chain::default() },
        Chain { clip: Some(Clip::group_norm(1.0)), scaler: Some(Scaler::PYTORCH), ..Chain::default() },
        Chain { scaler: Some(Scaler::PYTORCH), clip: Some(Clip::value(1.0)), accumulate: true, ..Chain::default() },
    ]
}

/// Every buffer around a step, by the driver's own account.
#[test]
fn what_is_around_a_step_takes_the_bytes_of_the_plan() {
    let watches = [Watch::from(0), Watch::from(3), Watch { depth: 5, updates: true }];
    for (chain, watch) in chains().into_iter().flat_map(|chain| watches.map(|watch| (chain.clone(), watch))) {
        // A device of its own: nothing else has these labels there.
        let Some(gpu) = gpu_with(|_| small()) else { return };
        let many: Vec<String> = (0..70).map(|i| format!("t{i}")).collect();
        let many: Vec<(&str, u64)> = many.iter().zip(1..).map(|(name, len)| (name.as_str(), 100 * len + 3)).collect();
        let groups = [
            (Adam::PYTORCH, vec![("a", 100_003), ("c", 500_000)]),
            (Adam { amsgrad: true, ..Adam::PYTORCH }, vec![("d", 7), ("e", 70_000)]),
            (Adam { lr: 0.1, ..Adam::PYTORCH }, many),
        ];
        let decides = chain.scaler.is_some() || chain.clip.is_some();
        if decides || watch.updates || watch.depth == 0 {
            hold_around(&gpu, &groups, &[], &chain, watch);
        }
    }
}

/// So many groups that a norm for each would be more than the driver rounds up by.
#[test]
fn groups_that_are_clipped_together_take_one_norm_in_the_plan_too() {
    let named: Vec<String> = (0..100).map(|i| format!("t{i}")).collect();
    let groups: Vec<_> = named.iter().map(|name| (Adam::PYTORCH, vec![(name.as_str(), 64)])).collect();
    let chain = Chain { clip: Some(Clip::group_norm(1.0)), ..Chain::default() };
    let all: Vec<(usize, usize)> = (1..100).map(|group| (group, 0)).collect();
    // In the last case two stay by themselves, the second of which has the highest number.
    for (pairs, scopes) in [(&[][..], 100), (&all[..], 1), (&all[..97], 100)] {
        let Some(gpu) = gpu_with(|_| small()) else { return };
        hold_around(&gpu, &groups, pairs, &chain, Watch::from(0));
        let planned: Vec<_> =
            groups.iter().map(|(rule, own)| (rule.clone(), Formats::default(), own.clone())).collect();
        let plan = memory_plan_together(&planned, pairs, &chain, 0, &Limits::from(&gpu.device.limits())).unwrap();
        let of = |name: &str| plan.decision.iter().find(|(own, _)| *own == name).unwrap().1;
        assert_eq!((of("sums"), of("scopes")), (16 * scopes, 8 * scopes));
    }
    let groups = [(Adam::PYTORCH, Formats::default(), vec![("a", 1)])];
    let refused = memory_plan_together(&groups, &[(0, 1)], &chain, 0, &Limits::DEFAULT).unwrap_err();
    assert_eq!(refused, Error::UnknownGroup { group: 1, groups: 1 });
}

#[test]
fn pages_windows_and_dispatches_are_those_of_the_plan() {
    for limits in [wgpu::Limits::default(), small()] {
        let adam = [
            (Adam::PYTORCH, vec![("a", 100_003), ("b", 1), ("c", 500_000)]),
            (Adam { amsgrad: true, ..Adam::PYTORCH }, vec![("d", 7), ("e", 70_000)]),
            (Adam { lr: 0.1, ..Adam::PYTORCH }, vec![("f", 999)]),
        ];
        let plan = hold(&adam, &Chain::default(), limits.clone());
        assert!(plan.total() > 2 * 4 * 671_010);
        let rmsprop = [(RmsProp { momentum: 0.9, centered: true, ..RmsProp::KERAS }, vec![("a", 100_003), ("b", 3)])];
        hold(&rmsprop, &Chain::default(), limits.clone());
        for chain in chains() {
            hold(&adam, &chain, limits.clone());
            hold(&rmsprop, &chain, limits.clone());
        }
    }
}

#[test]
fn a_model_that_no_machine_holds_is_planned() {
    let tensors: Vec<String> = (0..100).map(|i| format!("{i}")).collect();
    let named = tensors.iter().map(|name| (name.as_str(), 64 << 20)).collect();
    let plan = memory_plan(&[(Adam::PYTORCH, named)], &Chain::default(), 0, &Limits::DEFAULT).unwrap();
    let elements = 100 * (64 << 20) as u64;
    assert_eq!(plan.arena.iter().sum::<u64>(), 4 * elements);
    let state = plan.state.iter().sum::<u64>();
    assert!((8 * elements..8 * elements + elements / 10).contains(&state), "{state}");
    assert!(plan.arena.iter().chain(&plan.state).all(|&page| page <= 256 << 20));
    assert!(plan.windows.iter().all(|window| window.size() <= 128 << 20));
}

#[test]
fn a_plan_refuses_what_building_would_refuse() {
    let plan = |settings: Adam, tensors: &[(&str, u64)]| {
        memory_plan(&[(settings, tensors.to_vec())], &Chain::default(), 0, &Limits::DEFAULT).unwrap_err()
    };
    let empty = plan(Adam::PYTORCH, &[("a", 0)]);
    assert_eq!(empty, Error::Empty { what: "tensor", name: "a".into() });
    let twice = plan(Adam::PYTORCH, &[("a", 1), ("a", 2)]);
    assert_eq!(twice, Error::DuplicateName { name: "a".into() });
    let large = plan(Adam::PYTORCH, &[("a", (64 << 20) + 1)]);
    assert!(matches!(large, Error::TooLarge { found: 67_108_865, limit: 67_108_864, .. }), "{large}");
    let setting = plan(Adam::OPTAX, &[("a", 1)]);
    assert!(matches!(setting, Error::Setting { setting: "lr", .. }), "{setting}");
}
