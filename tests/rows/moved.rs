//! Rows that are appended, dropped, permuted and copied: moved bit for bit, and stepped on from there.

use wgpu_optim::map::{FRESH, Map};
use wgpu_optim::{Adam, BufferRange, Chain, Clip, Ema, RmsProp, RowMap, Rule, Scaler, Tensor, cpu, wgpu};

use crate::stand::{CANARY, Held, Spec, Stand, buffer, download, list, shuffled, small, tensor, values};
use crate::support::{self, Gpu};

/// A tensor that is to lie elsewhere, and where its rows come from.
type Move = (usize, Tensor, Map);

/// A place for a tensor of so many rows in buffers of its own, with values for fresh rows in it.
fn elsewhere<R: Rule>(stand: &Stand<R>, i: usize, rows: usize, shift: usize) -> Tensor {
    let width = stand.width(i);
    let mut words = vec![CANARY; 64 + shift];
    words.extend(bytemuck::cast_vec::<f32, u32>(values(77 + i, rows * width)));
    words.extend([CANARY; 64]);
    let buffers = [buffer(&stand.gpu, &words), buffer(&stand.gpu, &words)];
    tensor(i, [&buffers[0], &buffers[1]], 64 + shift, [rows, width])
}

/// A place in the buffers of the stand, from this word on.
fn inside<R: Rule>(stand: &Stand<R>, i: usize, first: usize, rows: usize) -> Tensor {
    tensor(i, [&stand.params, &stand.grads], first, [rows, stand.width(i)])
}

fn first_word(tensor: &Tensor) -> usize {
    (tensor.params().offset() / 4) as usize
}

/// What a tensor is to hold, by the map; `written` is what the caller has written to its new place.
fn expected<R: Rule>(rule: &R, before: &Held, map: &Map, width: usize, written: &[u32]) -> Held {
    let moved = |old: &[u32], fresh: &dyn Fn(usize) -> u32| -> Vec<u32> {
        let row = |(row, &from): (usize, &u32)| -> Vec<u32> {
            (0..width)
                .map(|k| if from == FRESH { fresh(row * width + k) } else { old[from as usize * width + k] })
                .collect()
        };
        map.as_slice().iter().enumerate().flat_map(row).collect()
    };
    let start = |slot: &str, i: usize| match R::SLOTS.iter().position(|own| *own == slot) {
        Some(own) => (rule.initial(own) as f32).to_bits(),
        None if slot == "ema" => written[i],
        None => 0,
    };
    let slots = before.slots.iter().map(|(&slot, old)| (slot, moved(old, &|i| start(slot, i)))).collect();
    Held { params: moved(&before.params, &|i| written[i]), slots }
}

/// Moves rows on the device and on the CPU, and holds every word of every tensor to what the map says.
fn go<R: Rule>(stand: &mut Stand<R>, moves: Vec<Move>) {
    let maps: Vec<RowMap> = moves.iter().map(|(.., map)| map.clone().into()).collect();
    go_by(stand, moves, maps);
}

fn go_by<R: Rule>(stand: &mut Stand<R>, moves: Vec<Move>, maps: Vec<RowMap>) {
    let gpu = stand.gpu.clone();
    let before = stand.held();
    let whole = |tensor: &Tensor| download(&gpu, &tensor.params().buffer().into());
    let around: Vec<Vec<u32>> = moves.iter().map(|(_, tensor, _)| whole(tensor)).collect();
    let steps: Vec<u64> = (0..before.len()).map(|i| stand.optimizer.step_of(&format!("t{i}")).unwrap()).collect();
    let mut encoder = stand.encoder();
    let given = moves.iter().zip(maps).map(|((_, tensor, _), map)| (tensor.clone(), map));
    stand.optimizer.remap_rows(&gpu.device, &mut encoder, given).unwrap();
    stand.submit(encoder);
    let after = stand.held();
    for (i, held) in before.iter().enumerate() {
        let Some((own, (_, tensor, map))) = moves.iter().enumerate().find(|(_, moved)| moved.0 == i) else {
            assert!(*held == after[i], "t{i} was not to change");
            continue;
        };
        let range = first_word(tensor)..first_word(tensor) + tensor.params().len() as usize;
        let expected = expected(&stand.rule, held, map, stand.width(i), &around[own][range]);
        assert!(expected.params == after[i].params, "parameters of t{i}");
        assert!(expected.slots == after[i].slots, "slots of t{i}");
        assert_eq!(stand.optimizer.step_of(&format!("t{i}")).unwrap(), steps[i]);
    }
    for (own, (_, tensor, _)) in moves.iter().enumerate() {
        let (mut ours, mut theirs) = (whole(tensor), around[own].clone());
        for (_, moved, _) in moves.iter().filter(|(_, moved, _)| moved.params().buffer() == tensor.params().buffer()) {
            let range = first_word(moved)..first_word(moved) + moved.params().len() as usize;
            ours[range.clone()].fill(0);
            theirs[range].fill(0);
        }
        assert!(ours == theirs, "a neighbour of {:?} was written", tensor.name());
    }
    twin_goes(stand, &moves, &around);
}

/// The same on the CPU.
fn twin_goes<R: Rule>(stand: &mut Stand<R>, moves: &[Move], around: &[Vec<u32>]) {
    let old = stand.own.clone();
    let names: Vec<String> = moves.iter().map(|(i, ..)| format!("t{i}")).collect();
    let place = |(tensor, around): (&Tensor, &Vec<u32>)| -> Vec<f32> {
        let first = first_word(tensor);
        bytemuck::cast_vec(around[first..first + tensor.params().len() as usize].to_vec())
    };
    let mut new: Vec<Vec<f32>> = moves.iter().map(|(_, tensor, _)| tensor).zip(around).map(place).collect();
    let remaps = moves.iter().zip(&mut new).zip(&names).map(|(((i, _, map), to), name)| {
        (
            name.as_str(),
            cpu::Remap { width: stand.width(*i), map, from: old[*i].as_slice().into(), to: to.as_mut_slice().into() },
        )
    });
    let remaps: Vec<_> = remaps.collect();
    stand.twin.remap_rows(remaps).unwrap();
    for ((i, ..), new) in moves.iter().zip(new) {
        stand.own[*i] = new;
    }
}

/// Whole steps and steps of some rows, beside the CPU.
fn steps<R: Rule>(stand: &mut Stand<R>, what: &str) {
    for step in 0..2 {
        stand.step_both(&[]);
        stand.step_both(&[(0, &[step, 4, 2])]);
    }
    stand.beside_twin(what);
}

const SPECS: [Spec; 5] = [(30, 3, 0), (300, 4, 0), (12, 48, 3), (700, 1, 0), (9, 5, 0)];

/// Dropped, appended, permuted and copied rows, of all but the last tensor.
fn several<R: Rule>(stand: &Stand<R>) -> Vec<Move> {
    let mixed: Vec<u32> = (0..20u32).map(|i| if i % 4 == 3 { FRESH } else { 29 - i }).chain([3, 3, 3]).collect();
    let maps = [
        Map::new(mixed),
        Map::append(300, 55),
        Map::new(shuffled(12)),
        Map::drop(700, (0..700).filter(|row| row % 7 < 3)),
    ];
    let place = |(i, map): (usize, Map)| (i, elsewhere(stand, i, map.as_slice().len(), i), map);
    maps.into_iter().enumerate().map(place).collect()
}

fn rules_go_on<R: Rule>(gpu: &Gpu, rule: R) {
    let mut stand = Stand::new(gpu, rule, &SPECS);
    steps(&mut stand, "before");
    let moves = several(&stand);
    go(&mut stand, moves);
    steps(&mut stand, "after");
}

#[test]
fn rows_of_several_tensors_are_moved_at_once_and_stepped_on() {
    let Some(gpu) = support::gpu() else { return };
    rules_go_on(&gpu, Adam { amsgrad: true, ..Adam::PYTORCH });
    rules_go_on(&gpu, RmsProp { initial_scale: 0.25, momentum: 0.9, ..RmsProp::PYTORCH });
}

#[test]
fn rows_are_moved_within_their_own_buffer() {
    let Some(gpu) = support::gpu() else { return };
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, &SPECS);
    steps(&mut stand, "before");
    let first = |stand: &Stand<Adam>, i: usize| first_word(&stand.optimizer.tensors()[i]);
    // Shorter in the same place; in another order there; and some words further, over what it was.
    let place = inside(&stand, 1, first(&stand, 1), 200);
    go(&mut stand, vec![(1, place, Map::drop(300, 50..150))]);
    steps(&mut stand, "dropped");
    let place = inside(&stand, 1, first(&stand, 1), 200);
    go(&mut stand, vec![(1, place, Map::new(shuffled(200)))]);
    steps(&mut stand, "permuted");
    let place = inside(&stand, 1, first(&stand, 1) + 7, 240);
    go(&mut stand, vec![(1, place, Map::append(200, 40))]);
    steps(&mut stand, "appended");
}

#[test]
fn two_tensors_change_places() {
    let Some(gpu) = support::gpu() else { return };
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, &[(40, 3, 0), (30, 4, 0), (5, 5, 0)]);
    steps(&mut stand, "before");
    let firsts: Vec<usize> = stand.optimizer.tensors().iter().map(first_word).collect();
    let (one, other) = (inside(&stand, 0, firsts[1], 40), inside(&stand, 1, firsts[0], 30));
    go(&mut stand, vec![(0, one, Map::new(shuffled(40))), (1, other, Map::append(25, 5))]);
    steps(&mut stand, "after");
}

#[test]
fn rows_go_from_windows_to_others() {
    let Some(gpu) = small() else { return };
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, &[(20_001, 5, 0), (9, 3, 0), (60_000, 2, 1)]);
    stand.step_both(&[]);
    let longer: Vec<u32> = shuffled(20_001).into_iter().chain([FRESH; 30_000]).collect();
    let (one, other) = (elsewhere(&stand, 0, 50_001, 0), elsewhere(&stand, 2, 33, 2));
    go(&mut stand, vec![(0, one, Map::new(longer)), (2, other, Map::new(&shuffled(60_000)[..33]))]);
    assert!(stand.optimizer.state_ranges("t0", "exp_avg").unwrap().len() > 2);
    assert_eq!(stand.optimizer.state_ranges("t2", "exp_avg").unwrap().len(), 1);
    steps(&mut stand, "after");
    // Within the buffer, so by way of another; and the other way round.
    let back = elsewhere(&stand, 0, 50_001, 3);
    go(&mut stand, vec![(0, back.clone(), Map::new(shuffled(50_001)))]);
    let there = tensor(0, [back.params().buffer(), back.grads().buffer()], 64, [50_000, 5]);
    go(&mut stand, vec![(0, there, Map::new(&shuffled(50_001)[..50_000]))]);
    steps(&mut stand, "within");
}

#[test]
fn a_map_is_made_on_the_device() {
    let Some(gpu) = support::gpu() else { return };
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, &SPECS);
    steps(&mut stand, "before");
    // What is no row is fresh there.
    let words = [29, 5, 30, FRESH, 5, 1 << 31, 0, 1, 2];
    let map = words.map(|row| if row < 30 { row } else { FRESH });
    let range = BufferRange::new(&buffer(&gpu, &[&[7; 5][..], &words].concat()), 20, 36);
    let place = elsewhere(&stand, 0, 9, 1);
    go_by(&mut stand, vec![(0, place, Map::new(map))], vec![range.into()]);
    steps(&mut stand, "after");
}

#[test]
fn averages_of_fresh_rows_start_at_the_parameters_and_sums_are_moved() {
    let Some(gpu) = support::gpu() else { return };
    let ema = Some(Ema { decay: 0.9, ..Ema::KERAS });
    let mut stand = Stand::chained(&gpu, Adam::PYTORCH, &Chain { ema, ..Chain::default() }, &SPECS);
    steps(&mut stand, "before");
    let moves = several(&stand);
    go(&mut stand, moves);
    steps(&mut stand, "after");
    // Within the buffer, where fresh parameters are not what is gathered apart.
    let tensor = stand.optimizer.tensors()[1].clone();
    let shorter = inside_of(&tensor, 1, [300, 4]);
    go(
        &mut stand,
        vec![(1, shorter, Map::new((0..300).map(|i| if i % 3 == 0 { FRESH } else { i }).collect::<Vec<_>>()))],
    );
    steps(&mut stand, "within");

    let chain = Chain { accumulate: true, ..Chain::default() };
    let mut stand = Stand::chained(&gpu, Adam::PYTORCH, &chain, &SPECS);
    stand.draw(1.0);
    let mut encoder = stand.encoder();
    stand.optimizer.accumulate(&gpu.device, &mut encoder, 1.0).unwrap();
    stand.submit(encoder);
    let moves = several(&stand);
    go(&mut stand, moves);
}

/// A range of the buffers of a tensor, from its first word on.
fn inside_of(old: &Tensor, i: usize, [rows, width]: [usize; 2]) -> Tensor {
    tensor(i, [old.params().buffer(), old.grads().buffer()], first_word(old), [rows, width])
}

#[test]
fn decisions_go_on_after_rows_have_moved() {
    let Some(gpu) = support::gpu() else { return };
    let scaler = Some(Scaler { init_scale: 4.0, ..Scaler::PYTORCH });
    let chain = Chain { clip: Some(Clip::tensor_norm(0.05)), scaler, ..Chain::default() };
    let mut stand = Stand::chained(&gpu, Adam::PYTORCH, &chain, &SPECS);
    steps(&mut stand, "before");
    let moves = several(&stand);
    go(&mut stand, moves);
    steps(&mut stand, "after");
    assert_eq!(stand.optimizer.read_steps_blocking(&gpu.device, &gpu.queue).unwrap(), [8; 5]);
}

/// What is recorded into an encoder.
type Part<'a> = dyn Fn(&mut Stand<Adam>, &mut wgpu::CommandEncoder) + 'a;

#[test]
fn steps_before_and_after_are_recorded_into_the_same_encoder() {
    let Some(gpu) = support::gpu() else { return };
    let record = |apart: bool| {
        let mut stand = Stand::new(&gpu, Adam::PYTORCH, &SPECS);
        stand.draw(1.0);
        let moves = several(&stand);
        let parts: [&Part<'_>; 3] = [
            &|stand, encoder| stand.optimizer.record(&gpu.device, encoder).unwrap(),
            &|stand, encoder| {
                let moves = moves.iter().map(|(_, tensor, map)| (tensor.clone(), map.clone()));
                stand.optimizer.remap_rows(&gpu.device, encoder, moves).unwrap();
            },
            &|stand, encoder| stand.record_rows(encoder, &[(1, list(&gpu, &[0, 354, 9]))]),
        ];
        let mut encoder = stand.encoder();
        for part in parts {
            part(&mut stand, &mut encoder);
            if apart {
                let full = std::mem::replace(&mut encoder, stand.encoder());
                stand.submit(full);
            }
        }
        stand.submit(encoder);
        stand.held()
    };
    assert!(record(true) == record(false));
}
