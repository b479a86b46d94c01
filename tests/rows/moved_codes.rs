//! Rows of fewer bits that are appended, dropped, permuted and copied: moved code by code, and stepped on from there.

use wgpu_optim::format::{Format, Formats, KAHAN, MASTER, Rounding, StateFormat};
use wgpu_optim::map::{FRESH, Map};
use wgpu_optim::{Adam, BufferRange, Chain, Ema, Error, RmsProp, Rule, Tensor, cpu};

use crate::codes::{Held, Narrow, Numbers, Slot, Spec, canaries, nearest, row, tensor};
use crate::formats::halves;
use crate::stand::{shuffled, small, values};
use crate::support::{self, Gpu};

/// A tensor that is to lie elsewhere, and where its rows come from.
type Move = (usize, Tensor, Map);

/// Odd rows, even rows off a word, words, and one that is not moved.
const SPECS: [Spec; 6] =
    [(30, 3, None), (300, 4, Some(0)), (12, 48, Some(3)), (701, 1, None), (40, 2, Some(1)), (9, 5, None)];

/// A place for a tensor of so many rows in buffers of its own, with values for fresh rows in it.
fn elsewhere<R: Rule>(stand: &Narrow<R>, i: usize, rows: usize, shift: usize) -> Tensor {
    let (formats, width) = (&stand.formats, stand.shape(i)[1]);
    let [params, grads] =
        [formats.params, formats.grads].map(|format| canaries(&stand.gpu, 64 + shift + rows * width + 9, format));
    let place = tensor(i, formats, [&params, &grads], 64 + shift, [rows, width]);
    stand.upload(place.params(), &nearest(formats.params.storage(), &values(77 + i, rows * width)).elements);
    place
}

/// A place in the buffers of the stand, from this element on.
fn inside<R: Rule>(stand: &Narrow<R>, i: usize, first: usize, rows: usize) -> Tensor {
    tensor(i, &stand.formats, [&stand.params, &stand.grads], first, [rows, stand.shape(i)[1]])
}

fn first_element<R: Rule>(stand: &Narrow<R>, i: usize) -> usize {
    (stand.optimizer.tensors()[i].params().offset() / stand.formats.params.size()) as usize
}

/// Rows of some bytes each, by the map; `fresh` has those that come from none.
fn by(map: &Map, size: usize, old: &[u8], fresh: &[u8]) -> Vec<u8> {
    let own = |(new, &from): (usize, &u32)| match from {
        FRESH => fresh[row(new, size, 1)].to_vec(),
        from => old[row(from as usize, size, 1)].to_vec(),
    };
    map.as_slice().iter().enumerate().flat_map(own).collect()
}

/// What a tensor is to hold, by the map; `written` is what the caller has written to its new place.
fn expected<R: Rule>(rule: &R, before: &Held, map: &Map, width: usize, written: &Numbers) -> Held {
    let (values, size) = (written.slice().to_vec(), written.bytes().len() / written.slice().len());
    let slot = |(&name, Slot { storage, codes }): (&&'static str, &Slot)| {
        let own = R::SLOTS.iter().position(|own| *own == name).map_or(0.0, |own| rule.initial(own) as f32);
        let fresh = match name {
            "ema" => values.clone(),
            _ => vec![own; values.len()],
        };
        let start = nearest(*storage, &fresh);
        let mut moved = codes.clone();
        moved.elements = by(map, width * storage.size() as usize, &codes.elements, &start.elements);
        if storage.has_scales() {
            moved.scales = by(map, width / 256 * 4, &codes.scales, &start.scales);
        }
        (name, Slot { storage: *storage, codes: moved }.said())
    };
    let slots = before.slots.iter().map(slot).collect();
    Held { params: by(map, width * size, &before.params, written.bytes()), grads: Vec::new(), slots }
}

/// Moves rows on the device and on the CPU, and holds every byte of every tensor to what the map says.
fn go<R: Rule>(stand: &mut Narrow<R>, rule: &R, moves: Vec<Move>) {
    let (before, gpu, format) = (stand.held(), stand.gpu.clone(), stand.formats.params);
    let written = |tensor: &Tensor| Numbers::new(format, &stand.download(tensor.params()));
    let written: Vec<Numbers> = moves.iter().map(|(_, tensor, _)| written(tensor)).collect();
    // Where tensors were and will be: the rest is nobody's.
    let places = stand.optimizer.tensors().iter().chain(moves.iter().map(|(_, tensor, _)| tensor));
    let places: Vec<BufferRange> = places.map(|tensor| tensor.params().clone()).collect();
    let around = |stand: &Narrow<R>| -> Vec<Vec<u8>> {
        places.iter().map(|range| stand.beyond(range.buffer(), &places)).collect()
    };
    let untouched = around(stand);
    let mut encoder = stand.encoder();
    let given = moves.iter().map(|(_, tensor, map)| (tensor.clone(), map.clone()));
    stand.optimizer.remap_rows(&gpu.device, &mut encoder, given).unwrap();
    stand.submit(encoder);
    let after = stand.held();
    for (i, held) in before.iter().enumerate() {
        let Some((own, (.., map))) = moves.iter().enumerate().find(|(_, moved)| moved.0 == i) else {
            assert!(*held == after[i], "t{i} was not to change");
            continue;
        };
        let expected = expected(rule, held, map, stand.shape(i)[1], &written[own]);
        assert!(expected.params == after[i].params, "parameters of t{i} in {:?}", stand.formats);
        for (name, slot) in &expected.slots {
            assert!(*slot == after[i].slots[name], "{name} of t{i} in {:?}", stand.formats);
        }
    }
    assert!(around(stand) == untouched, "a neighbour was written");
    twin_goes(stand, &before, &moves, written);
    for (name, held) in stand.names().iter().zip(&after) {
        assert!(held.slots == stand.twin_slots(name), "{name} on the CPU, in {:?}", stand.formats);
    }
}

/// The same on the CPU, from the same bits.
fn twin_goes<R: Rule>(stand: &mut Narrow<R>, before: &[Held], moves: &[Move], mut written: Vec<Numbers>) {
    stand.twin_is(before);
    let names: Vec<String> = moves.iter().map(|(i, ..)| format!("t{i}")).collect();
    let old: Vec<Numbers> =
        moves.iter().map(|(i, ..)| Numbers::new(stand.formats.params, &before[*i].params)).collect();
    let widths: Vec<usize> = moves.iter().map(|(i, ..)| stand.shape(*i)[1]).collect();
    let mut remaps = Vec::new();
    for (own, to) in written.iter_mut().enumerate() {
        let (from, to) = (old[own].slice(), to.slice_mut());
        remaps.push((names[own].as_str(), cpu::Remap { width: widths[own], map: &moves[own].2, from, to }));
    }
    stand.twin.remap_rows(remaps).unwrap();
    let held = stand.held();
    for (own, (i, ..)) in moves.iter().enumerate() {
        assert!(written[own].bytes() == held[*i].params, "parameters of t{i} on the CPU");
    }
}

fn steps<R: Rule>(stand: &mut Narrow<R>) {
    stand.verified_step(&[]);
    stand.verified_step(&[(0, &[2, 4, 0]), (1, &[5, 199])]);
}

/// Dropped, appended, permuted and copied rows, of all but the last tensor, to places off their words.
fn several<R: Rule>(stand: &Narrow<R>) -> Vec<Move> {
    let mixed: Vec<u32> = (0..20u32).map(|i| if i % 4 == 3 { FRESH } else { 29 - i }).chain([3, 3, 3]).collect();
    let maps = [
        Map::new(mixed),
        Map::append(300, 55),
        Map::new(shuffled(12)),
        Map::drop(701, (0..701).filter(|row| row % 7 < 3)),
        Map::new(shuffled(40).into_iter().chain([FRESH; 5]).collect::<Vec<_>>()),
    ];
    let place = |(i, map): (usize, Map)| (i, elsewhere(stand, i, map.as_slice().len(), [1, 0, 1, 0, 3][i]), map);
    maps.into_iter().enumerate().map(place).collect()
}

fn formats_go_on<R: Rule>(gpu: &Gpu, rule: &R, formats: &[Formats]) {
    for (number, formats) in formats.iter().enumerate() {
        let ema = (number % 2 == 0).then_some(Ema { decay: 0.9, ..Ema::KERAS });
        let chain = Chain { ema, ..Chain::default() };
        let mut stand = Narrow::new(gpu, rule.clone(), formats, &chain, &SPECS);
        steps(&mut stand);
        let moves = several(&stand);
        go(&mut stand, rule, moves);
        steps(&mut stand);
    }
}

#[test]
fn rows_of_every_format_are_moved_and_stepped_on() {
    let Some(gpu) = support::gpu() else { return };
    formats_go_on(&gpu, &Adam { amsgrad: true, ..Adam::PYTORCH }, &halves::<Adam>());
    let rule = RmsProp { initial_scale: 0.25, momentum: 0.9, ..RmsProp::PYTORCH };
    formats_go_on(&gpu, &rule, &halves::<RmsProp>()[5..8]);
}

#[test]
fn rows_of_16_bits_are_moved_within_their_own_buffer() {
    let Some(gpu) = support::gpu() else { return };
    let rule = Adam { lr: 0.01, ..Adam::PYTORCH };
    for formats in [0, 4, 8, 10].map(|number| halves::<Adam>().swap_remove(number)) {
        let specs = [(30, 3, None), (301, 5, Some(1)), (9, 1, Some(0))];
        let mut stand = Narrow::new(&gpu, rule.clone(), &formats, &Chain::default(), &specs);
        steps(&mut stand);
        let around = stand.around(&stand.params);
        // Shorter in the same place; in another order; an element further, over what it was.
        let first = first_element(&stand, 1);
        let place = inside(&stand, 1, first, 200);
        go(&mut stand, &rule, vec![(1, place, Map::drop(301, 50..151))]);
        let place = inside(&stand, 1, first, 200);
        go(&mut stand, &rule, vec![(1, place, Map::new(shuffled(200)))]);
        steps(&mut stand);
        let place = inside(&stand, 1, first + 1, 300);
        go(&mut stand, &rule, vec![(1, place, Map::append(200, 100))]);
        let place = inside(&stand, 1, first, 301);
        go(&mut stand, &rule, vec![(1, place, Map::append(300, 1))]);
        steps(&mut stand);
        assert!(stand.around(&stand.params) == around, "a neighbour was written");
    }
}

#[test]
fn rows_of_16_bits_go_from_windows_to_others() {
    let Some(gpu) = small() else { return };
    let rule = Adam::PYTORCH;
    for formats in [6, 9].map(|number| halves::<Adam>().swap_remove(number)) {
        let specs = [(40_001, 5, None), (9, 3, None), (120_000, 2, Some(1))];
        let mut stand = Narrow::new(&gpu, rule.clone(), &formats, &Chain::default(), &specs);
        stand.verified_step(&[]);
        let longer: Vec<u32> = shuffled(40_001).into_iter().chain([FRESH; 20_000]).collect();
        let (one, other) = (elsewhere(&stand, 0, 60_001, 1), elsewhere(&stand, 2, 33, 2));
        let moves = vec![(0, one, Map::new(longer)), (2, other, Map::new(&shuffled(120_000)[..33]))];
        go(&mut stand, &rule, moves);
        assert!(stand.optimizer.state_ranges("t0", "exp_avg").unwrap().len() > 1);
        stand.verified_step(&[]);
    }
}

/// Formats whose state lies in 8 bits, but for tensors of fewer elements than 512.
fn blocks() -> Formats {
    let master = Formats { params: Format::Bf16, grads: Format::Bf16, master: true, ..Formats::default() };
    Formats { state: StateFormat::Q8, q8_min: 512, ..master }
}

/// Steps all of it whole, on the device.
fn step<R: Rule>(stand: &mut Narrow<R>) -> Vec<Held> {
    stand.draw();
    stand.optimizer.step_blocking(&stand.gpu.device, &stand.gpu.queue).unwrap();
    stand.held()
}

#[test]
fn rows_that_are_whole_blocks_take_their_scales_along() {
    let Some(gpu) = support::gpu() else { return };
    let specs = [(20, 256, Some(0)), (12, 512, None), (33, 48, None), (9, 3, None)];
    let rule = Adam { amsgrad: true, ..Adam::PYTORCH };
    let mut stand = Narrow::new(&gpu, rule.clone(), &blocks(), &Chain::default(), &specs);
    step(&mut stand);
    let before = stand.held();
    assert!(before[0].slots["exp_avg"].storage.has_scales() && !before[3].slots["exp_avg"].storage.has_scales());
    let mixed = Map::new([FRESH, 19, 3, 3, 0, FRESH, 7]);
    let moves = vec![
        (0, elsewhere(&stand, 0, 7, 1), mixed),
        (1, elsewhere(&stand, 1, 20, 0), Map::new(shuffled(12).into_iter().chain([FRESH; 8]).collect::<Vec<_>>())),
        (3, elsewhere(&stand, 3, 8, 1), Map::drop(9, [4])),
    ];
    go(&mut stand, &rule, moves);
    let before = stand.held();
    let after = step(&mut stand);
    assert!(before.iter().zip(&after).all(|(before, after)| before.slots != after.slots));
}

#[test]
fn blocks_go_from_windows_to_others() {
    let Some(gpu) = small() else { return };
    let rule = Adam::PYTORCH;
    let mut stand =
        Narrow::new(&gpu, rule.clone(), &blocks(), &Chain::default(), &[(700, 768, Some(0)), (40, 20, None)]);
    step(&mut stand);
    let map: Vec<u32> = shuffled(700).into_iter().chain([FRESH; 100]).collect();
    let place = elsewhere(&stand, 0, 800, 0);
    go(&mut stand, &rule, vec![(0, place, Map::new(map))]);
    assert!(stand.optimizer.state_ranges("t0", "exp_avg").unwrap().len() > 1);
    step(&mut stand);
}

#[test]
fn blocks_that_belong_to_two_rows_are_not_moved() {
    let Some(gpu) = support::gpu() else { return };
    let mut stand = Narrow::new(&gpu, Adam::PYTORCH, &blocks(), &Chain::default(), &[(33, 48, None), (1, 256, None)]);
    let before = step(&mut stand);
    let mut refused = |i: usize, rows: usize, map: Map| {
        let place = elsewhere(&stand, i, rows, 0);
        let mut encoder = stand.encoder();
        let error = stand.optimizer.remap_rows(&gpu.device, &mut encoder, [(place, map.clone())]).unwrap_err();
        stand.submit(encoder);
        assert!(stand.held() == before);
        let ([_, width], format) = (stand.shape(i), stand.formats.params);
        let (from, mut to) =
            (Numbers::new(format, &before[i].params), Numbers::new(format, &vec![0; rows * width * 2]));
        let remap = cpu::Remap { width, map: &map, from: from.slice(), to: to.slice_mut() };
        assert_eq!(stand.twin.remap_rows([(format!("t{i}").as_str(), remap)]).unwrap_err(), error);
        error
    };
    let told = refused(0, 34, Map::append(33, 1));
    assert_eq!(told, Error::RowBlocks { slot: "exp_avg", name: "t0".into(), width: 48 });
    let message = "rows of \"t0\" have 48 elements, which are no whole blocks of 256, and its exp_avg is kept in q8, by \
                   such blocks; have the formats of its group keep it in bf16";
    assert_eq!(told.to_string(), message);
    let told = refused(1, 2, Map::append(1, 1));
    let message = "exp_avg of \"t1\" would go from f32 to q8: it would have 512 elements, and q8_min is 512; have the \
                   formats of its group keep it in bf16";
    assert_eq!(told.to_string(), message);
    assert!(matches!(told, Error::RowFormat { from: "f32", to: "q8", len: 512, q8_min: 512, .. }));
    let told = refused(0, 10, Map::drop(33, 10..33));
    assert!(matches!(told, Error::RowFormat { from: "q8", to: "f32", len: 480, .. }), "{told}");
    step(&mut stand);
}

/// What is kept beside a row's parameters goes where the row goes, and a fresh one has nothing yet.
#[test]
fn what_is_kept_beside_parameters_goes_along() {
    let Some(gpu) = support::gpu() else { return };
    let bf16 = Formats { params: Format::Bf16, grads: Format::Bf16, ..Formats::default() };
    let kahan = Formats { rounding: Rounding::Kahan, ..bf16.clone() };
    for (formats, slot) in [(Formats { master: true, ..bf16 }, MASTER), (kahan, KAHAN)] {
        let rule = Adam { lr: 0.01, ..Adam::PYTORCH };
        let mut stand =
            Narrow::new(&gpu, rule.clone(), &formats, &Chain::default(), &[(30, 3, None), (300, 4, Some(0))]);
        steps(&mut stand);
        let map = Map::new([29, FRESH, 0, 2]);
        let place = elsewhere(&stand, 0, 4, 1);
        go(&mut stand, &rule, vec![(0, place, map)]);
        let held = stand.held().swap_remove(0).slots[slot].clone();
        let kept = held.codes.values(held.storage);
        assert!(kept[3..6] == [0.0; 3] && kept[..3].iter().chain(&kept[9..]).any(|x| *x != 0.0), "{kept:?}");
        stand.verified_step(&[]);
    }
}
