//! State in fewer bits: what it takes, how it is read and set.

use wgpu_optim::cpu::{Optimizer, Slice, SliceMut};
use wgpu_optim::format::{Format, Formats, Q8Zero, Rounding, StateFormat, Storage};
use wgpu_optim::{Adam, Chain, RmsProp};

use super::run::{Run, all};

/// Bytes that a step of Adam moves for each element: gradients read, the rest read and written.
fn moved(formats: &Formats) -> f64 {
    const LEN: usize = 1 << 16;
    let run = Run::new(&Adam::PYTORCH, &Chain::default(), formats, &[LEN]);
    let params = run.params[0].slice().size() as u64;
    let grads = run.grads(0)[0].slice().size() as u64;
    (grads + 2 * params + 2 * run.optimizer.state_size()) as f64 / LEN as f64
}

#[test]
fn bytes_are_those_that_were_promised() {
    let halves = Formats { params: Format::Bf16, grads: Format::Bf16, ..Formats::default() };
    let scales = 2.0 * 2.0 * 4.0 / 256.0;
    assert_eq!(moved(&Formats::default()), 28.0);
    assert_eq!(moved(&Formats { state: StateFormat::Bf16, ..halves.clone() }), 14.0);
    assert_eq!(moved(&Formats { state: StateFormat::Q8, ..Formats::default() }), 16.0 + scales);
    assert_eq!(moved(&Formats { state: StateFormat::Q8, ..halves.clone() }), 10.0 + scales);
    assert_eq!(moved(&Formats { master: true, ..halves.clone() }), 2.0 + 4.0 + 16.0 + 8.0);
    assert_eq!(moved(&Formats { rounding: Rounding::Kahan, ..halves }), 2.0 + 4.0 + 16.0 + 4.0);
}

/// What was read and is set again is what was stored.
#[test]
fn what_is_read_can_be_set() {
    for (format, formats) in all() {
        let mut run = Run::new(&Adam { amsgrad: true, ..Adam::PYTORCH }, &Chain::default(), &formats, &[3, 257, 5000]);
        (0..2).for_each(|step| run.step(step, Optimizer::step_slices));
        let mut again = run.clone();
        for name in ["of 3", "of 257", "of 5000"] {
            for slot in run.optimizer.slots(name).unwrap() {
                if run.optimizer.storage(name, slot).unwrap().has_scales() {
                    continue; // The largest code below 0 is not the scale, so another scale may come of it.
                }
                let values = run.optimizer.read_state(name, slot).unwrap();
                again.optimizer.set_state(name, slot, &vec![0.25; values.len()]).unwrap();
                assert_ne!(again.optimizer.read_state(name, slot).unwrap(), values, "{format} {slot}");
                again.optimizer.set_state(name, slot, &values).unwrap();
            }
        }
        assert!(run.bits() == again.bits(), "{format}");
    }
}

#[test]
fn what_is_stored_can_be_copied() {
    let formats = Formats { state: StateFormat::Q8, q8_min: 4, ..Formats::default() };
    let mut run = Run::new(&Adam::PYTORCH, &Chain::default(), &formats, &[3, 300]);
    let mut again = run.clone();
    run.step(0, Optimizer::step_slices);
    let Slice::Q8 { codes: from, scales: from_scales, map } = run.optimizer.stored("of 300", "exp_avg").unwrap() else {
        panic!("not in 8 bits")
    };
    assert_eq!((from.len(), from_scales.len(), map.unsigned), (300, 2, false));
    let SliceMut::Q8 { codes, scales, .. } = again.optimizer.stored_mut("of 300", "exp_avg").unwrap() else {
        panic!("not in 8 bits")
    };
    codes.copy_from_slice(from);
    scales.copy_from_slice(from_scales);
    let read = |run: &Run<Adam>| run.optimizer.read_state("of 300", "exp_avg").unwrap();
    assert_eq!(read(&run), read(&again));
    assert_eq!(run.optimizer.storage("of 3", "exp_avg").unwrap(), Storage::F32);
    assert_eq!(run.optimizer.storage("of 300", "exp_avg_sq").unwrap(), Storage::Q8Unsigned);
}

/// tf.compat.v1's accumulator starts at 1, in every format.
#[test]
fn a_slot_starts_where_the_rule_says() {
    for (format, formats) in all() {
        let run = Run::new(&RmsProp { initial_scale: 1.0, ..RmsProp::PYTORCH }, &Chain::default(), &formats, &[1000]);
        assert_eq!(run.optimizer.read_state("of 1000", "square_avg").unwrap(), [1.0; 1000], "{format}");
    }
}

/// Elements that have no gradient stay, and so does their state; one that has some keeps a second moment.
#[test]
fn zero_stays_zero_and_small_does_not_become_it() {
    let q8 = |q8_zero| Formats { state: StateFormat::Q8, q8_min: 0, q8_zero, ..Formats::default() };
    for (zero, guarded) in [(Q8Zero::Guarded, true), (Q8Zero::Reference, false)] {
        let mut optimizer = Optimizer::<Adam, f32>::with_chain(Chain::default()).unwrap();
        optimizer.add_group_with(Adam::PYTORCH, q8(zero), [("w", 3)]).unwrap();
        let mut w = [1.0, 2.0, 3.0];
        optimizer.step_slices(&mut [w.as_mut_slice().into()], &[[0.0, 1.0, 1e-4].as_slice().into()]).unwrap();
        assert_eq!(w[0], 1.0);
        let second = optimizer.read_state("w", "exp_avg_sq").unwrap();
        assert_eq!((optimizer.read_state("w", "exp_avg").unwrap()[0], second[0]), (0.0, 0.0));
        assert_eq!(second[2] > 0.0, guarded);
    }
}

/// The oracle stores what the twin stores, as far as `f64` and `f32` agree.
#[test]
fn the_oracle_takes_every_format() {
    for (format, formats) in all() {
        let mut twin = Optimizer::<Adam, f32>::with_chain(Chain::default()).unwrap();
        let mut oracle = Optimizer::<Adam, f64>::with_chain(Chain::default()).unwrap();
        twin.add_group_with(Adam::PYTORCH, formats.clone(), [("w", 300)]).unwrap();
        oracle.add_group_with(Adam::PYTORCH, formats.clone(), [("w", 300)]).unwrap();
        let run = Run::new(&Adam::PYTORCH, &Chain::default(), &formats, &[300]);
        let (mut ours, mut theirs) = (run.params[0].clone(), run.params[0].clone());
        let grads = run.grads(0).remove(0);
        twin.step_slices(&mut [ours.slice_mut()], &[grads.slice()]).unwrap();
        let mut wide = theirs.slice().to_vec().into_iter().map(f64::from).collect::<Vec<f64>>();
        let wide_grads: Vec<f64> = grads.slice().to_vec().into_iter().map(f64::from).collect();
        let params = match theirs.slice_mut() {
            SliceMut::F16(values) => SliceMut::F16(values),
            SliceMut::Bf16(values) => SliceMut::Bf16(values),
            _ => SliceMut::Full(wide.as_mut_slice()),
        };
        let grads = match grads.slice() {
            Slice::F16(values) => Slice::F16(values),
            Slice::Bf16(values) => Slice::Bf16(values),
            _ => Slice::Full(wide_grads.as_slice()),
        };
        oracle.step_slices(&mut [params], &[grads]).unwrap();
        let is_full = formats.params == Format::F32;
        let theirs = if is_full { wide.iter().map(|x| *x as f32).collect() } else { theirs.slice().to_vec() };
        let share = if is_full { 1e-6 } else { 1.0 / 128.0 };
        let off = |a: f32, b: f32| (a - b).abs() > a.abs() * share + 1e-8;
        let off = ours.slice().to_vec().into_iter().zip(theirs).filter(|(a, b)| off(*a, *b)).count();
        assert_eq!(off, 0, "{format}");
    }
}
