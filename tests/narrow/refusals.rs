//! What is refused, with nothing moved.

use half::{bf16, f16};
use wgpu_optim::cpu::{Optimizer, Slice, SliceMut};
use wgpu_optim::format::{Format, Formats, Rounding, StateFormat};
use wgpu_optim::{Adam, Chain, Error};

fn optimizer(formats: Formats) -> Optimizer<Adam, f32> {
    let mut optimizer = Optimizer::with_chain(Chain::default()).unwrap();
    optimizer.add_group_with(Adam::PYTORCH, formats, [("w", 2)]).unwrap();
    optimizer
}

#[test]
fn another_format_than_the_groups_is_refused_before_anything_has_moved() {
    let mut optimizer = optimizer(Formats { params: Format::Bf16, grads: Format::F16, ..Formats::default() });
    let mut wide = [1.0f32; 2];
    let mut w = [bf16::ONE; 2];
    let (g, wide_g) = ([f16::ONE; 2], [1.0f32; 2]);
    let refusals = [
        (
            optimizer.step(&mut [&mut wide], &[&wide_g]),
            "parameters of \"w\": a slice in f32 was given, its group has bf16",
        ),
        (
            optimizer.step_parallel(&mut [&mut wide], &[&wide_g]),
            "parameters of \"w\": a slice in f32 was given, its group has bf16",
        ),
        (
            optimizer.step_slices(&mut [w.as_mut_slice().into()], &[wide_g.as_slice().into()]),
            "gradient of \"w\": a slice in f32 was given, its group has f16",
        ),
        (
            optimizer.step_slices_parallel(&mut [w.as_mut_slice().into()], &[Slice::from([bf16::ONE; 2].as_slice())]),
            "gradient of \"w\": a slice in bf16 was given, its group has f16",
        ),
        (
            optimizer.step_slices(&mut [w.as_mut_slice().into()], &[Slice::from(&g[..1])]),
            "gradient of \"w\" has 1 elements, its parameters have 2",
        ),
    ];
    for (refused, message) in refusals {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Error::Format { .. } | Error::Length { .. }));
        assert_eq!(refused.to_string(), message);
    }
    assert_eq!((wide, w, optimizer.step_of("w").unwrap()), ([1.0; 2], [bf16::ONE; 2], 0));
    optimizer.step_slices(&mut [w.as_mut_slice().into()], &[g.as_slice().into()]).unwrap();
    assert_eq!(optimizer.step_of("w").unwrap(), 1);
}

#[test]
fn gradients_of_another_format_are_not_summed_up() {
    let mut optimizer = Optimizer::<Adam, f32>::with_chain(Chain { accumulate: true, ..Chain::default() }).unwrap();
    let formats = Formats { grads: Format::F16, ..Formats::default() };
    optimizer.add_group_with(Adam::PYTORCH, formats, [("w", 2)]).unwrap();
    let message = "gradient of \"w\": a slice in f32 was given, its group has f16";
    assert_eq!(optimizer.accumulate(&[&[1.0; 2]], 1.0).unwrap_err().to_string(), message);
    assert_eq!(optimizer.read_state("w", "accumulated_grad").unwrap(), [0.0; 2]);
}

#[test]
fn state_of_fewer_bits_is_no_slice() {
    let optimizer = optimizer(Formats { state: StateFormat::Bf16, ..Formats::default() });
    let message = "exp_avg of \"w\" is kept in bf16, not in f32; read it decoded, with read_state";
    let refused = optimizer.state("w", "exp_avg").unwrap_err();
    assert!(matches!(refused, Error::Stored { .. }));
    assert_eq!(refused.to_string(), message);
    assert_eq!(optimizer.read_state("w", "exp_avg").unwrap(), [0.0; 2]);
}

/// Parameters and gradients of 32 bits need no other call, whatever the state.
#[test]
fn a_plain_step_takes_state_of_fewer_bits() {
    for state in [StateFormat::Bf16, StateFormat::Q8] {
        let formats = Formats { state, q8_min: 0, ..Formats::default() };
        let (mut one, mut other) = (optimizer(formats.clone()), optimizer(formats));
        let (mut a, mut b, mut c) = ([1.0; 2], [1.0; 2], [1.0; 2]);
        one.clone().step_parallel(&mut [&mut c], &[&[0.5, -0.25]]).unwrap();
        one.step(&mut [&mut a], &[&[0.5, -0.25]]).unwrap();
        other.step_slices(&mut [b.as_mut_slice().into()], &[[0.5, -0.25].as_slice().into()]).unwrap();
        assert_eq!((a, a), (b, c));
        assert_ne!(a, [1.0; 2]);
    }
}

#[test]
fn formats_that_do_not_go_together_add_no_group() {
    let mut optimizer = Optimizer::<Adam, f32>::with_chain(Chain::default()).unwrap();
    let formats = Formats { rounding: Rounding::Kahan, ..Formats::default() };
    let refused = optimizer.add_group_with(Adam::PYTORCH, formats, [("w", 2)]);
    assert!(refused.unwrap_err().to_string().starts_with("format: rounding is \"kahan\""));
    assert_eq!((optimizer.groups().len(), optimizer.names().count()), (0, 0));
}

/// The bytes of a file that is mapped are slices as they are.
#[test]
fn bytes_are_slices_where_they_are_aligned() {
    let mut values = [bf16::ONE, bf16::NEG_ONE, bf16::ZERO];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
    assert_eq!(Slice::of_bytes(Format::Bf16, bytes).unwrap().to_vec(), [1.0, -1.0, 0.0]);
    assert!(Slice::of_bytes(Format::Bf16, &bytes[1..]).is_none());
    assert!(Slice::of_bytes(Format::F32, bytes).is_none());
    assert_eq!(SliceMut::of_bytes(Format::Bf16, bytes).unwrap().as_slice().format(), "bf16");
    assert_eq!(Slice::of_bytes(Format::F16, &bytes[..4]).unwrap().len(), 2);
}

/// What has overflowed stays infinite, and what was lost of it is nothing.
#[test]
fn a_compensated_parameter_that_overflows_stays_infinite() {
    let formats = Formats { params: Format::Bf16, rounding: Rounding::Kahan, ..Formats::default() };
    let mut optimizer = optimizer(formats);
    let mut w = [bf16::MAX; 2];
    let settings = Adam { lr: 1e38, ..Adam::PYTORCH };
    optimizer.retune(0, settings).unwrap();
    for _ in 0..3 {
        optimizer.step_slices(&mut [w.as_mut_slice().into()], &[Slice::from([-1.0f32; 2].as_slice())]).unwrap();
    }
    assert_eq!(w, [bf16::INFINITY; 2]);
    assert_eq!(optimizer.read_state("w", "kahan_comp").unwrap(), [0.0; 2]);
}
