//! Listed rows in every format of 16 bits, held to the codes of the CPU's step.

use wgpu_optim::format::{Format, Formats, KAHAN, MASTER, Rounding, StateFormat};
use wgpu_optim::{Adam, Chain, Clamp, Clip, Ema, Error, RmsProp, Rows, Rule, Scaler, cpu};

use crate::codes::{Narrow, Numbers, Slot, Spec, nearest, row};
use crate::stand::{buffer, list, shuffled, small};
use crate::support::{self, Gpu};

/// Neighbours in one word, odd rows, quads, rows past a workgroup's lanes, and quads off their place.
const SPECS: [Spec; 8] = [
    (7, 1, None),
    (90, 3, None),
    (33, 5, None),
    (40, 48, Some(0)),
    (100, 4, Some(0)),
    (9, 48, Some(1)),
    (3, 1200, Some(3)),
    (33, 8, None),
];

/// Every format of 16 bits in each place that it can have.
pub fn halves<R: Rule>() -> Vec<Formats> {
    let of = |params, grads| Formats { params, grads, seed: 7 << 33 | 5, ..Formats::default() };
    let (f32, f16, bf16) = (Format::F32, Format::F16, Format::Bf16);
    let state = |formats: Formats| Formats { state: StateFormat::Bf16, ..formats };
    let by = |rounding, formats: Formats| Formats { rounding, ..formats };
    let master = |formats: Formats| Formats { master: true, ..formats };
    let (chance, kahan) = (Rounding::Stochastic, Rounding::Kahan);
    let second = R::SLOTS.iter().skip(1).map(|slot| (slot.to_string(), StateFormat::F32)).collect();
    vec![
        of(bf16, bf16),
        of(f16, f32),
        of(f32, f16),
        state(of(f32, bf16)),
        by(chance, of(f16, f16)),
        by(chance, state(of(f32, f32))),
        by(chance, state(of(bf16, bf16))),
        by(kahan, of(f16, f16)),
        by(kahan, state(of(bf16, bf16))),
        master(of(bf16, f32)),
        master(by(chance, state(of(f16, f16)))),
        Formats { slots: second, ..by(kahan, state(of(bf16, f16))) },
    ]
}

/// Every third row or so, in an order that looks random; of the last tensor all.
fn lists(specs: &[Spec], step: u64) -> Vec<Vec<u32>> {
    let some = |(i, spec): (usize, &Spec)| {
        let of = |row: &u32| i + 1 == specs.len() || (u64::from(*row) + step + i as u64).is_multiple_of(3);
        shuffled(spec.0).into_iter().filter(of).collect()
    };
    specs.iter().enumerate().map(some).collect()
}

fn steps<R: Rule>(stand: &mut Narrow<R>, specs: &[Spec], count: u64) {
    for step in 1..=count {
        let lists = lists(specs, step);
        // The first is stepped whole in between.
        let named: Vec<(usize, &[u32])> = lists.iter().map(Vec::as_slice).enumerate().collect();
        stand.verified_step(&named[(step % 2) as usize..]);
    }
}

fn every_format<R: Rule>(gpu: &Gpu, rule: &R, chain: &Chain) {
    in_formats(gpu, rule, chain, halves::<R>());
}

fn in_formats<R: Rule>(gpu: &Gpu, rule: &R, chain: &Chain, formats: impl IntoIterator<Item = Formats>) {
    for formats in formats {
        let mut stand = Narrow::new(gpu, rule.clone(), &formats, chain, &SPECS);
        steps(&mut stand, &SPECS, 4);
        assert_eq!(stand.optimizer.step_of("t0").unwrap(), 4);
    }
}

#[test]
fn listed_rows_hold_the_cpus_codes_and_others_every_bit() {
    let Some(gpu) = support::gpu() else { return };
    every_format(&gpu, &Adam { lr: 0.05, weight_decay: 0.1, amsgrad: true, ..Adam::PYTORCH }, &Chain::default());
    let whole = RmsProp { momentum: 0.9, centered: true, clamp_centered: true, ..RmsProp::PYTORCH };
    in_formats(&gpu, &whole, &Chain::default(), halves::<RmsProp>().into_iter().skip(2).step_by(3));
}

#[test]
fn a_chain_is_around_listed_rows_of_every_format() {
    let Some(gpu) = support::gpu() else { return };
    let (ema, scaler) = (Some(Ema { decay: 0.9, overwrite_every: 3 }), Scaler { init_scale: 4.0, ..Scaler::PYTORCH });
    let (clip, clamp) = (Some(Clip::global_norm(0.5)), Some(Clamp { min: -0.4, max: 0.4 }));
    let chain = Chain { clip, clamp, ema, scaler: Some(scaler), zero_grads: true, ..Chain::default() };
    every_format(&gpu, &Adam { lr: 0.01, ..Adam::PYTORCH }, &chain);
}

#[test]
fn the_count_on_the_device_ends_a_list_of_16_bits() {
    let Some(gpu) = support::gpu() else { return };
    let formats = halves::<Adam>().swap_remove(6);
    let mut stand = Narrow::new(&gpu, Adam::PYTORCH, &formats, &Chain::default(), &[(90, 3, None), (90, 4, Some(0))]);
    // Numbers that are no rows are passed over.
    let rows = [&shuffled(90)[..40], &[90, u32::MAX], &shuffled(90)[40..80]].concat();
    for count in [0, 1, 41, 82, 83, u32::MAX] {
        let counts = buffer(&gpu, &[9, 9, count, 9]);
        let there = &rows[..rows.len().min(count as usize)];
        let on_device = [0, 1].map(|tensor| (tensor, list(&gpu, &rows).counted(&counts, 8)));
        stand.verified_by(&[(0, there), (1, there)], &on_device);
    }
}

/// Chance goes by the element of the tensor, also in its second window and after a step whole.
#[test]
fn rows_of_16_bits_are_stepped_in_every_window() {
    let Some(gpu) = small() else { return };
    let specs = [(40_001, 5, None), (3001, 48, Some(0)), (60_000, 4, Some(0)), (30_000, 7, Some(1))];
    for formats in [6, 8].map(|number| halves::<Adam>().swap_remove(number)) {
        let mut stand = Narrow::new(&gpu, Adam::PYTORCH, &formats, &Chain::default(), &specs);
        for tensor in ["t0", "t2", "t3"] {
            assert!(stand.optimizer.state_ranges(tensor, "exp_avg").unwrap().len() > 1, "{tensor} has one window");
        }
        stand.verified_step(&[]);
        steps(&mut stand, &specs, 1);
    }
}

#[test]
fn sums_of_listed_rows_of_16_bits_are_added_to_and_taken() {
    let Some(gpu) = support::gpu() else { return };
    for formats in [0, 2, 3, 6, 10].map(|number| halves::<Adam>().swap_remove(number)) {
        let chain = Chain { accumulate: true, clip: Some(Clip::tensor_norm(0.05)), ..Chain::default() };
        let mut stand = Narrow::new(&gpu, Adam::PYTORCH, &formats, &chain, &SPECS);
        for step in 0..3 {
            let lists = lists(&SPECS, step);
            stand.draw();
            let before = stand.held();
            let names = stand.names();
            let mut encoder = stand.encoder();
            let rows = names.iter().map(String::as_str).zip(lists.iter().map(|rows| list(&gpu, rows)));
            stand.optimizer.accumulate_rows(&gpu.device, &mut encoder, 0.5, rows).unwrap();
            stand.submit(encoder);
            stand.twin_is(&before);
            let grads: Vec<Numbers> = before.iter().map(|held| Numbers::new(formats.grads, &held.grads)).collect();
            let grads: Vec<_> = grads.iter().map(Numbers::slice).collect();
            let widths: Vec<usize> = (0..names.len()).map(|tensor| stand.shape(tensor)[1]).collect();
            let rows = names.iter().zip(&widths).zip(&lists);
            let rows = rows.map(|((name, &width), list)| (name.as_str(), cpu::Rows { width, list }));
            stand.twin.accumulate_rows_slices(&grads, 0.5, rows).unwrap();
            // A product and a sum, of numbers that are exact in both.
            for (name, held) in names.iter().zip(stand.held()) {
                assert!(held.slots == stand.twin_slots(name), "sums of {name}");
            }
            let named: Vec<(usize, &[u32])> = lists.iter().map(Vec::as_slice).enumerate().collect();
            stand.verified_step(&named);
        }
    }
}

#[test]
fn a_row_of_16_bits_that_is_listed_twice_harms_no_other() {
    let Some(gpu) = support::gpu() else { return };
    let formats = halves::<Adam>().swap_remove(8);
    let mut stand = Narrow::new(&gpu, Adam::PYTORCH, &formats, &Chain::default(), &[(90, 3, None), (90, 4, Some(0))]);
    stand.draw();
    let before = stand.held();
    stand.step_rows(&[(0, list(&gpu, &[3; 200])), (1, list(&gpu, &[5; 200]))]);
    for ((tensor, mut held), mut before) in stand.held().into_iter().enumerate().zip(before) {
        let own = row(3 + 2 * tensor, 3 + tensor, 2);
        assert_ne!(held.params[own.clone()], before.params[own.clone()]);
        for held in [&mut held, &mut before] {
            held.params[own.clone()].fill(0);
            held.slots.values_mut().for_each(|slot| slot.codes.elements[own.clone()].fill(0));
        }
        assert!(held == before, "t{tensor}");
    }
}

#[test]
fn two_steps_of_rows_in_one_encoder_are_two_submits() {
    let Some(gpu) = support::gpu() else { return };
    for formats in halves::<Adam>().into_iter().skip(1).step_by(3) {
        let run = |apart: bool| {
            let mut stand = Narrow::new(&gpu, Adam::PYTORCH, &formats, &Chain::default(), &SPECS[..4]);
            stand.draw();
            let mut encoder = stand.encoder();
            for rows in [[1, 5, 6], [6, 0, 1]] {
                let rows = [("t0", list(&gpu, &rows)), ("t1", list(&gpu, &rows)), ("t3", list(&gpu, &rows))];
                stand.optimizer.record_rows(&gpu.device, &mut encoder, rows).unwrap();
                if apart {
                    let full = std::mem::replace(&mut encoder, stand.encoder());
                    stand.submit(full);
                }
            }
            stand.submit(encoder);
            stand.held()
        };
        assert!(run(true) == run(false), "{formats:?}");
    }
}

/// What a slot of reset rows starts from: the average at the parameters as they lie.
fn start<R: Rule>(rule: &R, name: &str, slot: &Slot, params: &[f32]) -> Vec<u8> {
    let own = R::SLOTS.iter().position(|own| *own == name).map_or(0.0, |own| rule.initial(own) as f32);
    match name {
        "ema" => bytemuck::cast_slice(params).to_vec(),
        _ => nearest(slot.storage, &vec![own; params.len()]).elements,
    }
}

fn reset<R: Rule>(gpu: &Gpu, rule: &R, formats: &Formats, chain: &Chain) {
    let mut stand = Narrow::new(gpu, rule.clone(), formats, chain, &SPECS);
    steps(&mut stand, &SPECS, 2);
    let (lists, before, names) = (lists(&SPECS, 5), stand.held(), stand.names());
    let around = stand.around(&stand.params);
    let mut encoder = stand.encoder();
    let rows: Vec<(&str, Rows)> =
        names[1..].iter().map(String::as_str).zip(lists[1..].iter().map(|rows| list(gpu, rows))).collect();
    stand.optimizer.reset_rows(&gpu.device, &mut encoder, rows).unwrap();
    stand.submit(encoder);
    let mut expected = before.clone();
    for (tensor, held) in expected.iter_mut().enumerate().skip(1) {
        let (width, params) = (stand.shape(tensor)[1], Numbers::new(formats.params, &held.params).slice().to_vec());
        for (name, slot) in &mut held.slots {
            let size = slot.storage.size() as usize;
            let all = start(rule, name, slot, &params);
            for own in lists[tensor].iter().map(|own| row(*own as usize, width, size)) {
                slot.codes.elements[own.clone()].copy_from_slice(&all[own]);
            }
        }
    }
    assert!(stand.held() == expected, "{formats:?}");
    assert!(stand.around(&stand.params) == around, "a neighbour was written");
    stand.twin_is(&before);
    let params: Vec<Numbers> = before.iter().map(|held| Numbers::new(formats.params, &held.params)).collect();
    let params: Vec<_> = params.iter().map(Numbers::slice).collect();
    let widths: Vec<usize> = (0..names.len()).map(|tensor| stand.shape(tensor)[1]).collect();
    let rows = names.iter().zip(&widths).zip(&lists).skip(1);
    let rows = rows.map(|((name, &width), list)| (name.as_str(), cpu::Rows { width, list }));
    stand.twin.reset_rows_slices(&params, rows).unwrap();
    for (name, held) in names.iter().zip(&expected) {
        assert!(held.slots == stand.twin_slots(name), "{name} on the CPU, in {formats:?}");
    }
    steps(&mut stand, &SPECS, 2);
}

#[test]
fn state_of_listed_rows_of_16_bits_starts_again() {
    let Some(gpu) = support::gpu() else { return };
    let ema = Chain { ema: Some(Ema { decay: 0.9, ..Ema::KERAS }), ..Chain::default() };
    let rmsprop = RmsProp { initial_scale: 0.3, momentum: 0.9, ..RmsProp::PYTORCH };
    for (number, formats) in halves::<Adam>().iter().enumerate() {
        let chain = if number % 2 == 0 { ema.clone() } else { Chain::default() };
        reset(&gpu, &Adam { amsgrad: true, ..Adam::PYTORCH }, formats, &chain);
    }
    for formats in [5, 8, 10].map(|number| halves::<RmsProp>().swap_remove(number)) {
        reset(&gpu, &rmsprop, &formats, &ema);
    }
}

/// What was written to a row is taken once it is reset, where a master or what was lost is kept.
#[test]
fn reset_rows_take_parameters_that_were_written() {
    let Some(gpu) = support::gpu() else { return };
    for (number, slot) in [(9, MASTER), (8, KAHAN)] {
        let formats = halves::<Adam>().swap_remove(number);
        let mut stand = Narrow::new(&gpu, Adam::PYTORCH, &formats, &Chain::default(), &[(8, 4, Some(0))]);
        stand.verified_step(&[]);
        let range = stand.optimizer.tensors()[0].params().clone();
        let mut params = stand.download(&range);
        params[row(2, 4, 2)].copy_from_slice(&nearest(formats.params.storage(), &[3.0; 4]).elements);
        stand.upload(&range, &params);
        let mut encoder = stand.encoder();
        stand.optimizer.reset_rows(&gpu.device, &mut encoder, [("t0", list(&gpu, &[2]))]).unwrap();
        stand.submit(encoder);
        stand.verified_step(&[(0, &[2, 3])]);
        let held = stand.held().swap_remove(0);
        let after = Numbers::new(formats.params, &held.params).slice().to_vec();
        let kept = held.slots[slot].codes.values(held.slots[slot].storage);
        let of = |i: usize| if slot == MASTER { kept[i] } else { after[i] + kept[i] };
        assert!(
            (8..12).all(|i| (of(i) - 3.0).abs() < 2e-3 && of(i) != 3.0),
            "{:?}",
            (8..12).map(of).collect::<Vec<_>>()
        );
    }
}

#[test]
fn rows_that_share_a_scale_are_not_listed() {
    let Some(gpu) = support::gpu() else { return };
    let formats = Formats { state: StateFormat::Q8, q8_min: 256, params: Format::Bf16, ..Formats::default() };
    let chain = Chain { accumulate: true, ..Chain::default() };
    // The second is too short for 8 bits.
    let mut stand = Narrow::new(&gpu, Adam::PYTORCH, &formats, &chain, &[(40, 48, Some(0)), (9, 3, None)]);
    let before = stand.held();
    let told = "exp_avg of \"t0\" is kept in q8, where 256 elements share a scale, so that a step of some rows would \
                round others again; have the formats of its group keep it in bf16";
    let mut encoder = stand.encoder();
    let rows = || [("t1", list(&gpu, &[1])), ("t0", list(&gpu, &[1]))];
    let refused = [
        stand.optimizer.record_rows(&gpu.device, &mut encoder, rows()),
        stand.optimizer.accumulate_rows(&gpu.device, &mut encoder, 1.0, rows()),
        stand.optimizer.reset_rows(&gpu.device, &mut encoder, rows()),
    ];
    for refused in refused.map(Result::unwrap_err) {
        assert_eq!(refused, Error::SharedScale { slot: "exp_avg", name: "t0".into() });
        assert_eq!(refused.to_string(), told);
    }
    stand.submit(encoder);
    assert!(stand.held() == before && stand.optimizer.step_of("t0").unwrap() == 0);
    let rows = |list| ("t0", cpu::Rows { width: 48, list });
    let mut params: Vec<Numbers> = before.iter().map(|held| Numbers::new(formats.params, &held.params)).collect();
    let mut lent: Vec<_> = params.iter_mut().map(Numbers::slice_mut).collect();
    assert_eq!(stand.twin.step_rows_slices(&mut lent, &[], [rows(&[1])]).unwrap_err().to_string(), told);
    // Beside rows of another tensor it is stepped whole.
    stand.draw();
    let mut encoder = stand.encoder();
    stand.optimizer.accumulate_rows(&gpu.device, &mut encoder, 1.0, [("t1", list(&gpu, &[1]))]).unwrap();
    stand.optimizer.record_rows(&gpu.device, &mut encoder, [("t1", list(&gpu, &[1]))]).unwrap();
    stand.submit(encoder);
    let after = stand.held();
    assert!(after[0].slots["exp_avg"] != before[0].slots["exp_avg"] && after[0].params != before[0].params);
    let own = row(1, 3, 2);
    assert_ne!(after[1].params[own.clone()], before[1].params[own.clone()]);
    assert_eq!(after[1].params[own.end..], before[1].params[own.end..]);
}
