//! What the memory plan tells is what is then taken.

use std::collections::HashMap;

use wgpu_optim::format::{Format, Formats, Rounding, StateFormat};
use wgpu_optim::plan::Limits;
use wgpu_optim::rule::kept_slots;
use wgpu_optim::{
    Adam, Arena, BufferRange, Error, Group, MemoryPlan, Optimizer, RmsProp, Rule, memory_plan, memory_plan_with, wgpu,
};

use crate::stand::noop;

/// Builds what was planned on a device of these limits, and holds the plan to it.
fn hold<R: Rule>(groups: &[(R, Vec<(&str, u64)>)], limits: wgpu::Limits) -> MemoryPlan {
    let gpu = noop(limits);
    let plan = memory_plan(groups, &Limits::from(&gpu.device.limits())).unwrap();
    let named: Vec<(&str, u64)> = groups.iter().flat_map(|(_, tensors)| tensors.clone()).collect();
    let arena = Arena::new(&gpu.device, named.iter().copied()).unwrap();
    let pages: Vec<(u64, u64)> = arena.pages().iter().map(|(params, grads)| (params.size(), grads.size())).collect();
    assert_eq!(pages, plan.arena.iter().map(|&page| (page, page)).collect::<Vec<_>>());
    let mut lent = arena.tensors().into_iter();
    let own = groups.iter().map(|(settings, tensors)| Group::new(settings.clone(), lent.by_ref().take(tensors.len())));
    let own: Vec<_> = own.collect();
    let optimizer = Optimizer::with_groups(&gpu.device, own).unwrap();
    assert_eq!(optimizer.dispatches(), plan.dispatches.len());
    hold_state(&optimizer, groups, &plan);
    plan
}

fn hold_state<R: Rule>(optimizer: &Optimizer<R>, groups: &[(R, Vec<(&str, u64)>)], plan: &MemoryPlan) {
    let mut pages: HashMap<wgpu::Buffer, u64> = HashMap::new();
    let settings = groups.iter().flat_map(|(settings, tensors)| tensors.iter().map(move |_| settings));
    for (tensor, settings) in plan.tensors.iter().zip(settings) {
        let slots: Vec<&str> = kept_slots(settings).into_iter().map(|slot| R::SLOTS[slot]).collect();
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
        let plan = memory_plan_with(&planned, &Limits::from(&gpu.device.limits())).unwrap();
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

fn small() -> wgpu::Limits {
    wgpu::Limits {
        max_storage_buffer_binding_size: 1 << 20,
        max_buffer_size: 4 << 20,
        max_compute_workgroups_per_dimension: 7,
        ..wgpu::Limits::default()
    }
}

#[test]
fn pages_windows_and_dispatches_are_those_of_the_plan() {
    for limits in [wgpu::Limits::default(), small()] {
        let adam = [
            (Adam::PYTORCH, vec![("a", 100_003), ("b", 1), ("c", 500_000)]),
            (Adam { amsgrad: true, ..Adam::PYTORCH }, vec![("d", 7), ("e", 70_000)]),
            (Adam { lr: 0.1, ..Adam::PYTORCH }, vec![("f", 999)]),
        ];
        let plan = hold(&adam, limits.clone());
        assert!(plan.total() > 2 * 4 * 671_010);
        let rmsprop = [(RmsProp { momentum: 0.9, centered: true, ..RmsProp::KERAS }, vec![("a", 100_003), ("b", 3)])];
        hold(&rmsprop, limits);
    }
}

#[test]
fn a_model_that_no_machine_holds_is_planned() {
    let tensors: Vec<String> = (0..100).map(|i| format!("{i}")).collect();
    let named = tensors.iter().map(|name| (name.as_str(), 64 << 20)).collect();
    let plan = memory_plan(&[(Adam::PYTORCH, named)], &Limits::DEFAULT).unwrap();
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
        memory_plan(&[(settings, tensors.to_vec())], &Limits::DEFAULT).unwrap_err()
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
