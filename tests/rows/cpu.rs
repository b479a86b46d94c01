//! The CPU's rows, plain: those of a tensor that has no others.

use wgpu_optim::map::{FRESH, Map};
use wgpu_optim::{Adam, Chain, Clip, Ema, Error, RmsProp, Rule, Scaler, cpu};

use crate::stand::values;

const WIDTH: usize = 5;
const ROWS: [u32; 6] = [3, 11, 0, 99, 7, u32::MAX];
/// Those of them that are there.
const THERE: [usize; 4] = [3, 11, 0, 7];

fn pick(of: &[f32]) -> Vec<f32> {
    THERE.iter().flat_map(|row| &of[row * WIDTH..][..WIDTH]).copied().collect()
}

/// Steps rows of one tensor, and the same rows as a tensor of their own.
fn as_their_own<R: Rule>(rule: R, chain: Chain) {
    let len = 12 * WIDTH;
    let of = |tensors: &[(&str, usize)]| {
        let mut optimizer = cpu::Optimizer::<R, f32>::with_chain(chain.clone()).unwrap();
        optimizer.add_group(rule.clone(), tensors.iter().copied()).unwrap();
        optimizer
    };
    let (mut rows, mut alone) = (of(&[("w", len), ("b", 3)]), of(&[("w", 4 * WIDTH), ("b", 3)]));
    let start = values(1, len);
    let (mut w, mut b) = (start.clone(), values(2, 3));
    let (mut own_w, mut own_b) = (pick(&w), b.clone());
    for step in 0..4 {
        let (mut gw, gb) = (values(3 + step, len), values(30 + step, 3));
        let own = pick(&gw);
        gw[5 * WIDTH] = f32::NAN;
        let listed = cpu::Rows { width: WIDTH, list: &ROWS };
        rows.step_rows(&mut [&mut w, &mut b], &[&gw, &gb], [("w", listed)]).unwrap();
        alone.step(&mut [&mut own_w, &mut own_b], &[&own, &gb]).unwrap();
    }
    assert_eq!((pick(&w), &b), (own_w, &own_b));
    assert_eq!(rows.step_of("w").unwrap(), alone.step_of("w").unwrap());
    for slot in rows.slots("w").unwrap() {
        let state = rows.state("w", slot).unwrap();
        assert_eq!(pick(state), alone.state("w", slot).unwrap(), "{slot}");
        let start = R::SLOTS.iter().position(|own| *own == slot).map_or(0.0, |own| rule.initial(own)) as f32;
        let others = (0..12).filter(|row| !THERE.contains(row)).flat_map(|row| &state[row * WIDTH..][..WIDTH]);
        assert!(others.into_iter().all(|value| *value == start), "{slot} of a row that is not listed");
    }
    let others = |of: &[f32]| -> Vec<f32> {
        (0..12).filter(|row| !THERE.contains(row)).flat_map(|row| &of[row * WIDTH..][..WIDTH]).copied().collect()
    };
    assert_eq!(others(&w), others(&start));
}

#[test]
fn listed_rows_are_a_tensor_of_their_own() {
    as_their_own(Adam { amsgrad: true, ..Adam::PYTORCH }, Chain::default());
    as_their_own(RmsProp { momentum: 0.9, initial_scale: 0.5, ..RmsProp::PYTORCH }, Chain::default());
    let ema = Some(Ema { decay: 0.9, overwrite_every: 3 });
    let scaler = Some(Scaler { init_scale: 4.0, ..Scaler::PYTORCH });
    as_their_own(Adam::PYTORCH, Chain { ema, scaler, clip: Some(Clip::global_norm(0.1)), ..Chain::default() });
    as_their_own(Adam::PYTORCH, Chain { clip: Some(Clip::tensor_norm(0.1)), ..Chain::default() });
}

#[test]
fn maps_are_what_they_are_named_after() {
    assert_eq!(Map::append(3, 2).as_slice(), [0, 1, 2, FRESH, FRESH]);
    assert_eq!(Map::drop(5, [3, 0, 9]).as_slice(), [1, 2, 4]);
    let mut to = [9.0; 8];
    cpu::remap_rows(&Map::new([1, FRESH, 1, 0]), 2, &[1.0, 2.0, 3.0, 4.0], &mut to);
    assert_eq!(to, [3.0, 4.0, 9.0, 9.0, 3.0, 4.0, 1.0, 2.0]);
}

/// What a remap is refused for, with an optimizer that is as it was and can be used.
fn refusal(width: usize, map: Map, from: &[f32], to: &mut [f32]) -> String {
    let mut optimizer = cpu::Optimizer::<Adam, f32>::new(Adam::PYTORCH, [("w", 6)]).unwrap();
    let mut w = vec![1.0; 6];
    optimizer.step(&mut [&mut w], &[&[0.5; 6]]).unwrap();
    let before = optimizer.state("w", "exp_avg").unwrap().to_vec();
    let remap = cpu::Remap { width, map: &map, from: from.into(), to: to.into() };
    let error = optimizer.remap_rows([("w", remap)]).unwrap_err();
    assert_eq!(optimizer.state("w", "exp_avg").unwrap(), before);
    optimizer.step(&mut [&mut w], &[&[0.5; 6]]).unwrap();
    error.to_string()
}

#[test]
fn what_does_not_fit_is_refused_with_its_numbers() {
    let six = [0.0; 6];
    let refused = |width, map: &[u32], to: usize| refusal(width, Map::new(map), &six, &mut vec![0.0; to]);
    assert_eq!(refused(4, &[0], 4), r#"the 6 elements of "w" are no rows of 4"#);
    assert_eq!(refused(0, &[0], 4), r#"the 6 elements of "w" are no rows of 0"#);
    assert_eq!(refused(2, &[0], 3), r#"the 3 elements of "w" are no rows of 2"#);
    assert_eq!(refused(2, &[0], 4), r#"the map of "w" is of 1 rows, expected 2"#);
    let told = r#"row 1 of the map of "w" comes from row 3, there are 3; a fresh row is 4294967295"#;
    assert_eq!(refused(2, &[0, 3], 4), told);
    assert_eq!(refused(2, &[], 0), r#"tensor of "w": empty; leave the tensor out"#);
    let other = refusal(2, Map::new([0]), &six[..4], &mut [0.0; 2]);
    assert_eq!(other, r#"slice of "w" has 4 elements, its parameters have 6"#);

    let mut optimizer = cpu::Optimizer::<Adam, f32>::new(Adam::PYTORCH, [("w", 6)]).unwrap();
    let rows = cpu::Rows { width: 2, list: &[0] };
    let mut w = six;
    let twice = optimizer.step_rows(&mut [&mut w], &[&six], [("w", rows), ("w", rows)]).unwrap_err();
    assert_eq!(twice, Error::DuplicateName { name: "w".into() });
    let unknown = optimizer.step_rows(&mut [&mut w], &[&six], [("v", rows)]).unwrap_err();
    assert!(matches!(unknown, Error::UnknownName { .. }));
    let odd = cpu::Rows { width: 4, ..rows };
    let odd = optimizer.step_rows(&mut [&mut w], &[&six], [("w", odd)]).unwrap_err();
    assert!(matches!(odd, Error::RowWidth { width: 4, len: 6, .. }));
    assert_eq!(optimizer.step_of("w").unwrap(), 0);
}
