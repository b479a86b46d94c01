//! Listed and moved rows of every format of 16 bits on the CPU.

use wgpu_optim::cpu::{self, Slice, SliceMut};
use wgpu_optim::format::{Format, Formats, Rounding, StateFormat};
use wgpu_optim::map::{FRESH, Map};
use wgpu_optim::{Adam, Chain, Clip, Ema, Error, RmsProp, Rule};

use crate::run::{Run, Stored, all, bits};

const ROWS: usize = 211;
const WIDTH: usize = 5;

/// Formats whose rows can be listed.
fn listable() -> impl Iterator<Item = (&'static str, Formats)> {
    all().into_iter().filter(|(_, formats)| formats.state != StateFormat::Q8)
}

/// A step of some rows of the first tensor, and of all of the second.
fn step_rows<R: Rule>(run: &mut Run<R>, step: usize, list: &[u32]) {
    let grads = run.grads(step);
    let grads: Vec<Slice<'_>> = grads.iter().map(Stored::slice).collect();
    let mut params: Vec<SliceMut<'_>> = run.params.iter_mut().map(Stored::slice_mut).collect();
    let name = format!("of {}", ROWS * WIDTH);
    let rows = [(name.as_str(), cpu::Rows { width: WIDTH, list })];
    run.optimizer.step_rows_slices(&mut params, &grads, rows).unwrap();
}

fn stepped_both_ways<R: Rule>(settings: &R, chain: &Chain) {
    // Rows that are not there, in an order of its own.
    let list: Vec<u32> = (0..ROWS as u32 + 3).map(|row| row * 97 % 211 + row / 211 * 300).collect();
    for (what, formats) in listable() {
        let lens = [ROWS * WIDTH, 1021];
        let (mut listed, mut whole) =
            (Run::new(settings, chain, &formats, &lens), Run::new(settings, chain, &formats, &lens));
        for step in 0..4 {
            step_rows(&mut listed, step, &list);
            whole.step(step, |optimizer, params, grads| optimizer.step_slices(params, grads));
        }
        assert!(listed.bits() == whole.bits(), "{what}");
    }
}

#[test]
fn a_list_of_all_rows_is_the_whole_tensor_bit_for_bit() {
    stepped_both_ways(&Adam { amsgrad: true, ..Adam::PYTORCH }, &Chain::default());
    stepped_both_ways(
        &RmsProp { momentum: 0.9, centered: true, clamp_centered: true, ..RmsProp::KERAS },
        &Chain::default(),
    );
    let chain = Chain { ema: Some(Ema { decay: 0.9, ..Ema::KERAS }), clip: Some(Clip::value(0.1)), ..Chain::default() };
    stepped_both_ways(&Adam::PYTORCH, &chain);
}

/// The elements of row 2 and of those around it, of one tensor's array.
fn apart(of: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let own = 2 * WIDTH..3 * WIDTH;
    (of[own.clone()].to_vec(), [&of[..own.start], &of[own.end..]].concat())
}

#[test]
fn rows_that_are_not_listed_keep_every_bit() {
    for (what, formats) in listable() {
        let settings = Adam { lr: 0.5, ..Adam::PYTORCH };
        let mut run = Run::new(&settings, &Chain::default(), &formats, &[ROWS * WIDTH, 7]);
        run.step(0, |optimizer, params, grads| optimizer.step_slices(params, grads));
        let before = run.bits();
        step_rows(&mut run, 1, &[2]);
        let after = run.bits();
        // Parameters of the first tensor, and its slots, which stand behind all parameters.
        let slots = run.optimizer.slots(&format!("of {}", ROWS * WIDTH)).unwrap().len();
        for array in std::iter::once(0).chain(2..2 + slots) {
            let ((own, others), (own_now, others_now)) = (apart(&before[array]), apart(&after[array]));
            assert!(others == others_now, "{what}: array {array}");
            assert!(array > 2 || own != own_now, "{what}: array {array} of the listed row");
        }
    }
}

/// A clip looks at the gradients of listed rows alone, whatever they lie in.
#[test]
fn the_norm_is_of_listed_rows() {
    let chain = Chain { clip: Some(Clip::global_norm(1e-3)), ..Chain::default() };
    for (params, grads) in [(Format::Bf16, Format::Bf16), (Format::F32, Format::F16)] {
        let formats = Formats { params, grads, ..Formats::default() };
        let mut optimizer = cpu::Optimizer::<RmsProp, f32>::with_chain(chain.clone()).unwrap();
        optimizer.add_group_with(RmsProp::PYTORCH, formats, [("w", 4)]).unwrap();
        let mut w = Stored::new(params, [1.0; 4]);
        let g = Stored::new(grads, [f32::NAN, 3.0, 4.0, f32::INFINITY]);
        let rows = [("w", cpu::Rows { width: 2, list: &[] }), ("w", cpu::Rows { width: 1, list: &[2, 1] })];
        let before = bits(w.slice());
        optimizer.step_rows_slices(&mut [w.slice_mut()], &[g.slice()], [rows[0]]).unwrap();
        assert_eq!(bits(w.slice()), before);
        optimizer.step_rows_slices(&mut [w.slice_mut()], &[g.slice()], [rows[1]]).unwrap();
        let square_avg = optimizer.read_state("w", "square_avg").unwrap();
        // Of length 5, brought to 1e-3.
        let expected = [0.0, 0.01 * 0.6e-3 * 0.6e-3, 0.01 * 0.8e-3 * 0.8e-3, 0.0];
        let near = square_avg
            .iter()
            .zip(expected)
            .all(|(own, expected): (&f32, f32)| (own - expected).abs() <= 1e-4 * expected);
        assert!(near, "{square_avg:?}");
    }
}

/// A step whose parameters and gradients are `f32` needs no other call, whatever the state.
#[test]
fn plain_calls_list_rows_of_narrow_state() {
    let formats = Formats { state: StateFormat::Bf16, rounding: Rounding::Stochastic, ..Formats::default() };
    let of = || {
        let mut optimizer =
            cpu::Optimizer::<Adam, f32>::with_chain(Chain { accumulate: true, ..Chain::default() }).unwrap();
        optimizer.add_group_with(Adam::PYTORCH, formats.clone(), [("w", 4)]).unwrap();
        optimizer
    };
    let (mut one, mut other) = (of(), of());
    let (mut a, mut b) = ([1.0f32; 4], [1.0f32; 4]);
    let (g, rows) = ([0.5f32, -1.0, 2.0, 0.1], [("w", cpu::Rows { width: 2, list: &[1] })]);
    one.accumulate_rows(&[&g], 1.0, rows).unwrap();
    one.step_rows(&mut [&mut a], &[], rows).unwrap();
    other.accumulate_rows_slices(&[g.as_slice().into()], 1.0, rows).unwrap();
    other.step_rows_slices(&mut [b.as_mut_slice().into()], &[], rows).unwrap();
    assert_eq!((a, a[..2].to_vec()), (b, vec![1.0; 2]));
    assert!(a[2] < 1.0 && one.read_state("w", "exp_avg").unwrap() == other.read_state("w", "exp_avg").unwrap());
    one.reset_rows(&[&a], [("w", cpu::Rows { width: 1, list: &[2] })]).unwrap();
    let left = one.read_state("w", "exp_avg").unwrap();
    assert!(left[2] == 0.0 && left[3] != 0.0);
}

#[test]
fn rows_in_another_format_than_the_groups_are_refused() {
    let formats = Formats { params: Format::Bf16, ..Formats::default() };
    let mut optimizer = cpu::Optimizer::<Adam, f32>::with_chain(Chain::default()).unwrap();
    optimizer.add_group_with(Adam::PYTORCH, formats, [("w", 4)]).unwrap();
    let rows = [("w", cpu::Rows { width: 2, list: &[1] })];
    let message = "parameters of \"w\": a slice in f32 was given, its group has bf16";
    let mut wide = [1.0; 4];
    let refused =
        [optimizer.step_rows(&mut [&mut wide], &[&[1.0; 4]], rows), optimizer.reset_rows(&[&[1.0; 4]], rows), {
            let (map, half) = (Map::new([0, FRESH]), Stored::new(Format::Bf16, [1.0; 4]));
            let remap = cpu::Remap { width: 2, map: &map, from: half.slice(), to: wide.as_mut_slice().into() };
            optimizer.remap_rows([("w", remap)])
        }];
    for refused in refused.map(Result::unwrap_err) {
        assert!(matches!(refused, Error::Format { .. }));
        assert_eq!(refused.to_string(), message);
    }
    assert_eq!((wide, optimizer.recorded()), ([1.0; 4], 0));
}
