//! What is wrong with tensors and names is refused by name and by number, and a refused call changes nothing.

use wgpu_optim::plan::{self, Limits};
use wgpu_optim::verify::compensation;
use wgpu_optim::{Adam, Arena, BufferRange, Error, Group, Optimizer, RmsProp, Tensor, cpu, kernel, wgpu};

use crate::stand::{Stand, USAGE, at, buffer, buffer_for, noop, own, pair, refusal, refused, running, words};
use crate::support::{Gpu, gpu};

/// The message of a refused [`Optimizer::new`] beside an optimizer that runs on the same device.
fn new_refusal(gpu: &Gpu, tensors: impl IntoIterator<Item = Tensor>) -> String {
    refusal(gpu, |_| Optimizer::new(&gpu.device, Adam::PYTORCH, tensors))
}

/// The same tensors, refused by `new` and by `add_tensors` with one message.
fn refusal_of(gpu: &Gpu, tensors: &[Tensor]) -> String {
    let message = new_refusal(gpu, tensors.to_vec());
    let added = refusal(gpu, |stand| stand.optimizer.add_tensors(&gpu.device, 0, tensors.to_vec()));
    assert_eq!(message, added);
    message
}

#[test]
fn a_gradient_of_another_length_is_refused() {
    let Some(gpu) = gpu() else { return };
    let tensor = Tensor::new("fc2", &buffer(&gpu.device, 4096), &buffer(&gpu.device, 1024));
    let message = r#"gradient of "fc2" has 1024 elements, its parameters have 4096"#;
    assert_eq!(refusal_of(&gpu, &[tensor]), message);
}

#[test]
fn a_gradient_rebound_to_another_length_is_refused() {
    let Some(gpu) = gpu() else { return };
    let longer = buffer(&gpu.device, 101);
    let rebind = |name: &'static str| {
        let grads = [("fc1.bias", BufferRange::from(&buffer(&gpu.device, 9))), (name, BufferRange::from(&longer))];
        refusal(&gpu, |stand| stand.optimizer.rebind_grads(&gpu.device, grads))
    };
    // The first of the two is right, and must not have moved: `refused` steps with the old gradients.
    assert_eq!(rebind("fc1.weight"), r#"gradient of "fc1.weight" has 101 elements, its parameters have 100"#);
    assert_eq!(rebind("fc1.wieght"), r#"no tensor is named "fc1.wieght"; the nearest is "fc1.weight""#);
}

#[test]
fn state_of_another_length_is_refused() {
    let Some(gpu) = gpu() else { return };
    let values = [0.5; 99];
    let Gpu { device, queue } = &gpu;
    let write =
        |stand: &mut Stand<Adam>| stand.optimizer.write_state_blocking(device, queue, "fc1.weight", "exp_avg", &values);
    let message = refusal(&gpu, write);
    assert_eq!(message, r#"exp_avg of "fc1.weight" has 99 elements, its parameters have 100"#);
    assert!(matches!(refused(&gpu, write), Error::Length { found: 99, expected: 100, .. }));
}

#[test]
fn a_shape_of_another_product_is_refused() {
    let Some(gpu) = gpu() else { return };
    let shaped = |shape: &[u64]| own(&gpu.device, "conv", 12).with_shape(shape);
    let message = r#"shape [3, 5] of "conv" has 15 elements, its range has 12"#;
    assert_eq!(refusal_of(&gpu, &[shaped(&[3, 5])]), message);
    assert_eq!(refusal_of(&gpu, &[shaped(&[])]), r#"shape [] of "conv" has 1 elements, its range has 12"#);
    let error = refused(&gpu, |_| Optimizer::new(&gpu.device, Adam::PYTORCH, [shaped(&[7])]));
    assert!(matches!(error, Error::Shape { len: 12, .. }), "{error}");
    // Both right shapes of twelve are taken.
    for shape in [&[12][..], &[1, 2, 2, 3]] {
        Optimizer::new(&gpu.device, Adam::PYTORCH, [shaped(shape)]).unwrap();
    }
}

#[test]
fn a_shape_whose_product_overflows_is_refused_and_not_wrapped() {
    let Some(gpu) = gpu() else { return };
    // 2^62 * 16 + 12 would wrap around to 12 if it were a shape; 2^63 * 2 wraps around to 0.
    let tensor = |shape: &[u64]| own(&gpu.device, "conv", 12).with_shape(shape);
    let message = refusal_of(&gpu, &[tensor(&[1 << 63, 2])]);
    assert!(message.starts_with(r#"shape [9223372036854775808, 2] of "conv" has "#), "{message}");
    assert!(message.contains("2^64") && message.ends_with(", its range has 12"), "{message}");
}

#[test]
fn a_shape_with_a_zero_has_no_elements_however_large_the_rest_is() {
    let Some(gpu) = gpu() else { return };
    let tensor = own(&gpu.device, "conv", 12).with_shape([u64::MAX, 2, 0]);
    let message = refusal_of(&gpu, &[tensor]);
    assert!(message.contains(" has 0 elements"), "{message}");
}

#[test]
fn an_empty_tensor_is_refused() {
    let Some(gpu) = gpu() else { return };
    let some = buffer(&gpu.device, 4);
    let none = BufferRange::new(&some, 8, 0);
    let params = refusal_of(&gpu, &[Tensor::new("w", none.clone(), &some)]);
    assert!(params.starts_with(r#"parameters of "w": "#) && params.contains("empty"), "{params}");
    let grads = refusal_of(&gpu, &[Tensor::new("w", &some, none.clone())]);
    assert!(grads.starts_with(r#"gradient of "w": "#) && grads.contains("empty"), "{grads}");
    let error = refused(&gpu, |stand| stand.optimizer.rebind_grads(&gpu.device, [("fc1.bias", none)]));
    assert_eq!(error, Error::Empty { what: "gradient", name: "fc1.bias".into() });
    let error = refused(&gpu, |_| Arena::new(&gpu.device, [("a", 3), ("b", 0)]));
    assert_eq!(error, Error::Empty { what: "tensor", name: "b".into() });
    let error = cpu::Optimizer::<Adam, f32>::new(Adam::PYTORCH, [("b", 0)]).unwrap_err();
    assert_eq!(error, Error::Empty { what: "tensor", name: "b".into() });
}

#[test]
fn a_buffer_that_cannot_be_bound_as_storage_is_refused() {
    let Some(gpu) = gpu() else { return };
    let plain = buffer_for(&gpu.device, 16, wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC);
    let right = buffer(&gpu.device, 4);
    let message = refusal_of(&gpu, &[Tensor::new("w", &plain, &right)]);
    assert_eq!(message, r#"parameters of "w": the buffer lacks usage STORAGE; create it with that usage"#);
    let message = refusal_of(&gpu, &[Tensor::new("w", &right, &plain)]);
    assert_eq!(message, r#"gradient of "w": the buffer lacks usage STORAGE; create it with that usage"#);
    // Storage is all that a step needs.
    let only = [(), ()].map(|()| buffer_for(&gpu.device, 16, wgpu::BufferUsages::STORAGE));
    Optimizer::new(&gpu.device, Adam::PYTORCH, [Tensor::new("w", &only[0], &only[1])]).unwrap();
}

/// No driver at hand takes it out, so what would be found there is given.
#[test]
fn a_compensation_that_a_compiler_takes_out_is_noticed() {
    let Some(gpu) = gpu() else { return };
    compensation::compensation(&gpu.device, &gpu.queue).unwrap();
    let error = compensation::holds(1.0, 0.0).unwrap_err();
    assert!(matches!(error, Error::Compensation { kept: 0.0, .. }), "{error}");
    assert!(
        error.to_string().starts_with("after a step of 1e-4 a parameter of 1 is 1 with 0 kept beside it"),
        "{error}"
    );
}

#[test]
fn what_does_not_lie_on_whole_elements_is_refused() {
    let Some(gpu) = gpu() else { return };
    let some = buffer(&gpu.device, 64);
    let right = words(&buffer(&gpu.device, 64), 0, 2);
    for (offset, size) in [(2, 8), (4, 6), (3, 5)] {
        let odd = BufferRange::new(&some, offset, size);
        let numbers = format!("offset {offset} and size {size} must be multiples of 4 bytes");
        let tensor = Tensor::new("w", odd.clone(), right.clone());
        let error = Optimizer::new(&gpu.device, Adam::PYTORCH, [tensor.clone()]).unwrap_err();
        assert!(matches!(error, Error::Misaligned { multiple: 4, .. }), "{error}");
        let message = refusal_of(&gpu, &[tensor]);
        assert!(message.starts_with(r#"parameters of "w": "#) && message.ends_with(&numbers), "{message}");
        let message = refusal_of(&gpu, &[Tensor::new("w", right.clone(), odd)]);
        assert!(message.starts_with(r#"gradient of "w": "#) && message.ends_with(&numbers), "{message}");
    }
}

#[test]
fn what_reaches_past_its_buffer_is_refused_even_where_the_sum_wraps() {
    let Some(gpu) = gpu() else { return };
    let some = buffer(&gpu.device, 16);
    let right = buffer(&gpu.device, 16);
    for (offset, size, end) in [(0, 68, 68), (4, 64, 68), (64, 4, 68), (1 << 40, 4, (1_u64 << 40) + 4)] {
        let message = refusal_of(&gpu, &[Tensor::new("w", BufferRange::new(&some, offset, size), &right)]);
        let numbers = format!("ends at byte {end}, its buffer at 64");
        assert!(message.starts_with(r#"parameters of "w": "#) && message.ends_with(&numbers), "{message}");
    }
    // 2^64 - 4 + 8 is 4.
    let wraps = BufferRange::new(&some, u64::MAX - 3, 8);
    let error = refused(&gpu, |_| Optimizer::new(&gpu.device, Adam::PYTORCH, [Tensor::new("w", &right, wraps)]));
    assert!(matches!(error, Error::OutOfBounds { what: "gradient", buffer_size: 64, .. }), "{error}");
}

#[test]
fn parameters_that_overlap_are_refused() {
    let Some(gpu) = gpu() else { return };
    let flat = [buffer(&gpu.device, 256), buffer(&gpu.device, 256)];
    let tensor =
        |name: &str, first, len, grads| Tensor::new(name, words(&flat[0], first, len), words(&flat[1], grads, len));
    let message = refusal_of(&gpu, &[tensor("a", 0, 64, 0), tensor("b", 63, 64, 64)]);
    let expected = r#"parameters of "a" and parameters of "b" overlap: bytes 252..256 of one buffer belong to both"#;
    assert_eq!(message, expected);
    // Side by side is no overlap.
    Optimizer::new(&gpu.device, Adam::PYTORCH, [tensor("a", 0, 64, 0), tensor("b", 64, 64, 64)]).unwrap();
}

#[test]
fn an_overlap_with_a_range_that_is_not_the_neighbour_is_found() {
    let Some(gpu) = gpu() else { return };
    let flat = [buffer(&gpu.device, 256), buffer(&gpu.device, 512)];
    let tensor =
        |name: &str, first, len, grads| Tensor::new(name, words(&flat[0], first, len), words(&flat[1], grads, len));
    // "long" reaches over "in" and past it to "far", which lies apart from its neighbour "in".
    let overlap = |tensors: &[Tensor]| {
        let error = refused(&gpu, |_| Optimizer::new(&gpu.device, Adam::PYTORCH, tensors.to_vec()));
        assert!(matches!(error, Error::Overlap { .. }), "{error}");
        error.to_string()
    };
    let message = overlap(&[tensor("long", 0, 200, 0), tensor("in", 8, 4, 200)]);
    assert!(message.contains(r#""long""#) && message.contains(r#""in""#), "{message}");
    // Gradients of all sizes between the two do not hide it.
    let grads_between = Tensor::new("mid", words(&flat[1], 500, 4), words(&flat[0], 20, 4));
    let message = overlap(&[tensor("long", 0, 20, 0), grads_between, tensor("far", 23, 20, 300)]);
    assert!(message.contains(r#""mid""#) && message.contains(r#""far""#), "{message}");
}

#[test]
fn parameters_in_the_gradient_of_another_tensor_are_refused() {
    let Some(gpu) = gpu() else { return };
    let one = buffer(&gpu.device, 1024);
    let a = Tensor::new("a", words(&one, 0, 64), words(&one, 512, 64));
    let b = Tensor::new("b", words(&one, 575, 1), words(&one, 768, 1));
    let expected = r#"gradient of "a" and parameters of "b" overlap: bytes 2300..2304 of one buffer belong to both"#;
    assert_eq!(refusal_of(&gpu, &[a.clone(), b.clone()]), expected);
    assert_eq!(refusal_of(&gpu, &[b, a]), expected);
    let same = Tensor::new("w", &one, &one);
    let expected = r#"parameters of "w" and gradient of "w" overlap: bytes 0..4096 of one buffer belong to both"#;
    assert_eq!(refusal_of(&gpu, &[same]), expected);
}

#[test]
fn an_overlap_with_a_tensor_that_is_already_there_is_refused() {
    let Some(gpu) = gpu() else { return };
    let add = |stand: &mut Stand<Adam>| {
        let taken = stand.optimizer.tensors()[0].params().clone();
        let fresh = buffer(&gpu.device, 100);
        stand.optimizer.add_tensors(&gpu.device, 0, [Tensor::new("late", taken, &fresh)])
    };
    let message = refusal(&gpu, add);
    assert!(message.contains(r#""late""#) && message.contains(r#""fc1.weight""#), "{message}");
    // A gradient moved into parameters, by `rebind_grads`.
    let rebind = |stand: &mut Stand<Adam>| {
        let taken = words(stand.optimizer.tensors()[0].params().buffer(), 3, 9);
        stand.optimizer.rebind_grads(&gpu.device, [("fc1.bias", taken)])
    };
    let expected =
        r#"parameters of "fc1.weight" and gradient of "fc1.bias" overlap: bytes 12..48 of one buffer belong to both"#;
    assert_eq!(refusal(&gpu, rebind), expected);
}

#[test]
fn a_parameter_and_its_gradient_in_one_block_of_the_alignment_are_refused() {
    let Some(gpu) = gpu() else { return };
    let alignment = u64::from(gpu.device.limits().min_storage_buffer_offset_alignment.max(32));
    let one = buffer_for(&gpu.device, 4 * alignment, USAGE);
    let tensor = |grads| Tensor::new("w", BufferRange::new(&one, 0, 8), BufferRange::new(&one, grads, 8));
    let expected = format!(
        "parameters of \"w\" (bytes 0..8) and their gradient (bytes 8..16) share a block of {alignment} bytes of one \
         buffer, so they cannot be bound apart; move one of them to a multiple of {alignment}"
    );
    assert_eq!(refusal_of(&gpu, &[tensor(8)]), expected);
    // The advice is right.
    Optimizer::new(&gpu.device, Adam::PYTORCH, [tensor(alignment)]).unwrap();
}

#[test]
fn a_gradient_rebound_into_the_block_of_its_parameters_is_refused() {
    let Some(gpu) = gpu() else { return };
    let rebind = |stand: &mut Stand<Adam>| {
        let params = stand.optimizer.tensors()[1].params().clone();
        let after = BufferRange::new(params.buffer(), params.offset() + params.size(), params.size());
        stand.optimizer.rebind_grads(&gpu.device, [("fc1.bias", after)])
    };
    let error = refused(&gpu, rebind);
    assert!(matches!(&error, Error::SharedBlock { name, .. } if name == "fc1.bias"), "{error}");
}

#[test]
fn a_tensor_that_no_buffer_of_the_device_can_hold_is_refused_before_anything_is_allocated() {
    let Some(gpu) = gpu() else { return };
    let most = gpu.device.limits().max_buffer_size / 4;
    let len = most.min(u32::MAX.into()) + 1;
    let error = refused(&gpu, |_| Arena::new(&gpu.device, [("fits", 3), ("w", len)]));
    let Error::TooLarge { name, found, limit, .. } = &error else { panic!("{error}") };
    assert_eq!((name.as_str(), *found), ("w", len));
    assert!(*limit < len && *limit > 1 << 20, "{limit}");
    assert!(error.to_string().contains(&format!("{len}")), "{error}");
}

#[test]
fn more_elements_than_2_to_32_are_refused_by_name_whatever_the_device_can_hold() {
    let endless = Limits { binding: 1 << 50, buffer: 1 << 50, ..Limits::DEFAULT };
    for len in [1 << 32, (1 << 32) + 5, u64::MAX] {
        let error = plan::arena(&[("w", len)], &endless).unwrap_err();
        let limit = u64::from(u32::MAX);
        assert_eq!(error, Error::TooLarge { what: "range in an arena", name: "w".into(), found: len, limit });
    }
    let layout = plan::arena(&[("w", u32::MAX.into()), ("v", 1)], &endless).unwrap();
    assert_eq!(layout.spans[0].size, u64::from(u32::MAX) * 4);
    assert!(layout.spans[1].buffer != 0 || layout.spans[1].offset >= layout.spans[0].size);
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let Some(gpu) = gpu() else { return };
    let tensors = ["a", "b", "a"].map(|name| own(&gpu.device, name, 4));
    let message = r#"two tensors are named "a"; a name is a key of the state and must be unique"#;
    assert_eq!(refusal_of(&gpu, &tensors), message);
    let [first, second, third] = tensors;
    let groups = [Group::new(Adam::PYTORCH, [first, second]), Group::new(Adam::PYTORCH, [third])];
    assert_eq!(refusal(&gpu, |_| Optimizer::with_groups(&gpu.device, groups)), message);
    let late = own(&gpu.device, "fc1.bias", 4);
    let group = Group::new(Adam { amsgrad: true, ..Adam::PYTORCH }, [late]);
    let error = refused(&gpu, |stand| stand.optimizer.add_group(&gpu.device, group));
    assert_eq!(error, Error::DuplicateName { name: "fc1.bias".into() });
    let error = Arena::new(&gpu.device, [("a", 1), ("a", 1)]).unwrap_err();
    assert_eq!(error, Error::DuplicateName { name: "a".into() });
    let error = cpu::Optimizer::<Adam, f64>::new(Adam::PYTORCH, [("a", 1), ("a", 1)]).unwrap_err();
    assert_eq!(error, Error::DuplicateName { name: "a".into() });
}

#[test]
fn a_group_that_was_refused_leaves_no_group_behind() {
    let Some(gpu) = gpu() else { return };
    let add = |stand: &mut Stand<Adam>| {
        let group = Group::new(Adam::KERAS, [own(&gpu.device, "fc1.bias", 4)]);
        let error = stand.optimizer.add_group(&gpu.device, group);
        let settings = stand.optimizer.settings(1).unwrap_err();
        assert_eq!(settings, Error::UnknownGroup { group: 1, groups: 1 });
        error
    };
    refused(&gpu, add);
}

#[test]
fn a_name_that_no_tensor_has_is_refused_and_the_nearest_named() {
    let Some(gpu) = gpu() else { return };
    let near = r#"no tensor is named "fc1.wieght"; the nearest is "fc1.weight""#;
    let far = r#"no tensor is named "embedding""#;
    for (name, message) in [("fc1.wieght", near), ("embedding", far)] {
        assert_eq!(refusal(&gpu, |stand| stand.optimizer.freeze(["fc1.bias", name])), message);
        assert_eq!(refusal(&gpu, |stand| stand.optimizer.thaw([name])), message);
        assert_eq!(refusal(&gpu, |stand| stand.optimizer.set_step(name, 7)), message);
        assert_eq!(refusal(&gpu, |stand| stand.optimizer.step_of(name)), message);
        assert_eq!(refusal(&gpu, |stand| stand.optimizer.slots(name)), message);
        assert_eq!(refusal(&gpu, |stand| stand.optimizer.state_ranges(name, "exp_avg")), message);
        let read =
            |stand: &mut Stand<Adam>| stand.optimizer.read_state_blocking(&gpu.device, &gpu.queue, name, "exp_avg");
        assert_eq!(refusal(&gpu, read), message);
    }
}

#[test]
fn an_arena_names_the_nearest_tensor() {
    let Some(gpu) = gpu() else { return };
    let arena = Arena::new(&gpu.device, [("fc1.weight", 8), ("fc2.weight", 8)]).unwrap();
    let near = arena.params("fc2.wieght").unwrap_err();
    assert_eq!(near, Error::UnknownName { name: "fc2.wieght".into(), nearest: Some("fc2.weight".into()) });
    assert_eq!(arena.grads("x").unwrap_err(), Error::UnknownName { name: "x".into(), nearest: None });
}

#[test]
fn a_slot_that_the_tensor_does_not_keep_is_refused() {
    let Some(gpu) = gpu() else { return };
    let message = refusal(&gpu, |stand| stand.optimizer.state_ranges("fc1.bias", "max_exp_avg_sq"));
    assert_eq!(message, r#""fc1.bias" keeps no "max_exp_avg_sq"; its state is exp_avg, exp_avg_sq"#);
    let write = |stand: &mut Stand<Adam>| {
        stand.optimizer.write_state_blocking(&gpu.device, &gpu.queue, "fc1.bias", "square_avg", &[0.0; 9])
    };
    assert_eq!(refusal(&gpu, write), r#""fc1.bias" keeps no "square_avg"; its state is exp_avg, exp_avg_sq"#);
    let plain = Optimizer::new(&gpu.device, RmsProp::PYTORCH, [own(&gpu.device, "w", 4)]).unwrap();
    let error = plain.state_ranges("w", "momentum_buffer").unwrap_err();
    assert!(matches!(error, Error::UnknownSlot { .. }));
    assert_eq!(error.to_string(), r#""w" keeps no "momentum_buffer"; its state is square_avg"#);
}

#[test]
fn a_group_that_is_not_there_is_refused() {
    let Some(gpu) = gpu() else { return };
    let message = "there is no group 3; the optimizer has 1";
    let tensor = own(&gpu.device, "late", 4);
    assert_eq!(refusal(&gpu, |stand| stand.optimizer.add_tensors(&gpu.device, 3, [tensor])), message);
    assert_eq!(refusal(&gpu, |stand| stand.optimizer.retune(3, Adam::PYTORCH)), message);
    assert_eq!(refusal(&gpu, |stand| stand.optimizer.settings(3).cloned()), message);
}

#[test]
fn kernels_of_another_device_are_refused() {
    let Some((gpu, Gpu { device: other, queue: _queue })) = pair() else { return };
    let foreign = kernel::Kernels::new(&other).unwrap();
    let group = Group::new(Adam::PYTORCH, [own(&gpu.device, "w", 4)]);
    let error = refused(&gpu, |_| Optimizer::with_kernels(&gpu.device, &foreign, [group]));
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("another device"), "{error}");
}

#[test]
fn buffers_of_another_device_are_refused() {
    let Some((gpu, Gpu { device: other, queue: _queue })) = pair() else { return };
    let error = refused(&gpu, |_| Optimizer::new(&gpu.device, Adam::PYTORCH, [own(&other, "w", 4)]));
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let foreign = BufferRange::from(&buffer(&other, 9));
    let error = refused(&gpu, |stand| stand.optimizer.rebind_grads(&gpu.device, [("fc1.bias", foreign)]));
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

/// Another device than the optimizer's, given to a method, is the caller's mistake and no reason to panic.
#[test]
fn another_device_is_refused_by_every_method_that_takes_one() {
    let Some((gpu, Gpu { device: other, queue })) = pair() else { return };
    let tensor = own(&gpu.device, "late", 4);
    refused(&gpu, |stand| stand.optimizer.add_tensors(&other, 0, [tensor.clone()]));
    refused(&gpu, |stand| stand.optimizer.add_group(&other, Group::new(Adam::PYTORCH, [tensor])));
    refused(&gpu, |stand| stand.optimizer.rebind_grads(&other, []));
    refused(&gpu, |stand| stand.optimizer.read_state_blocking(&other, &queue, "fc1.bias", "exp_avg"));
}

#[test]
fn a_step_recorded_with_another_device_is_refused_and_not_counted() {
    let Some((gpu, Gpu { device: other, queue: _queue })) = pair() else { return };
    let record = |stand: &mut Stand<Adam>| {
        let mut encoder = other.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        stand.optimizer.record(&other, &mut encoder)
    };
    let error = refused(&gpu, record);
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

#[test]
fn a_step_that_is_recorded_with_another_device_after_a_freeze_harms_no_later_step() {
    let Some((gpu, Gpu { device: other, queue: _queue })) = pair() else { return };
    let mut stand = running(&gpu);
    stand.freeze(&["fc1.bias"]);
    let mut encoder = other.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    stand.optimizer.record(&other, &mut encoder).unwrap_err();
    stand.verified_step();
}

#[test]
fn a_destroyed_buffer_is_refused_or_harmless_and_never_a_panic() {
    let Some(gpu) = gpu() else { return };
    let gone = own(&gpu.device, "gone", 4);
    gone.params().buffer().destroy();
    // wgpu says so when the buffer is bound; if it ever waits for the submit, `new` may succeed.
    if let Err(error) = Optimizer::new(&gpu.device, Adam::PYTORCH, [gone]) {
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
    running(&gpu).verified_step();
}

#[test]
fn a_blocking_step_over_a_buffer_destroyed_since_is_refused_and_not_counted() {
    let Some(gpu) = gpu() else { return };
    let step = |stand: &mut Stand<Adam>| {
        let doomed = buffer(&gpu.device, 9);
        let kept = stand.optimizer.tensors()[1].grads().clone();
        stand.optimizer.rebind_grads(&gpu.device, [("fc1.bias", (&doomed).into())]).unwrap();
        doomed.destroy();
        let answer = stand.optimizer.step_blocking(&gpu.device, &gpu.queue);
        stand.optimizer.rebind_grads(&gpu.device, [("fc1.bias", kept)]).unwrap();
        answer
    };
    let error = refused(&gpu, step);
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

/// The caller's error scope is the caller's: what comes back as an `Err` is not told a second time.
#[test]
fn a_refusal_does_not_reach_the_callers_error_scope() {
    let Some(gpu) = gpu() else { return };
    let gone = own(&gpu.device, "gone", 4);
    gone.params().buffer().destroy();
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let whole = BufferRange::from(gone.params().buffer());
    let error = wgpu_optim::readback::download_blocking(&gpu.device, &gpu.queue, &whole).unwrap_err();
    assert_eq!(pollster::block_on(scope.pop()).map(|error| error.to_string()), None, "told twice, after {error}");
}

#[test]
fn a_device_with_too_few_storage_buffers_is_refused_with_the_number() {
    let few = |buffers| {
        let limits = wgpu::Limits { max_storage_buffers_per_shader_stage: buffers, ..wgpu::Limits::default() };
        noop(limits).device
    };
    let device = few(3);
    let message = "the device's limit max_storage_buffers_per_shader_stage is 3, at least 4 is needed";
    let tensors = [own(&device, "w", 4)];
    assert_eq!(Optimizer::new(&device, Adam::PYTORCH, tensors).unwrap_err().to_string(), message);
    assert_eq!(kernel::Kernels::new(&device).unwrap_err().to_string(), message);
    assert_eq!(Arena::new(&device, [("w", 4)]).unwrap_err().to_string(), message);
    let enough = few(4);
    Optimizer::new(&enough, Adam::PYTORCH, [own(&enough, "w", 4)]).unwrap();
}

#[test]
fn every_limit_that_a_step_needs_is_checked_by_name() {
    type Lower = fn(&mut wgpu::Limits);
    let needed: [(&str, Lower); 9] = [
        ("max_uniform_buffers_per_shader_stage", |l| l.max_uniform_buffers_per_shader_stage = 1),
        ("max_dynamic_uniform_buffers_per_pipeline_layout", |l| l.max_dynamic_uniform_buffers_per_pipeline_layout = 0),
        ("max_uniform_buffer_binding_size", |l| l.max_uniform_buffer_binding_size = 128),
        ("max_bind_groups", |l| l.max_bind_groups = 1),
        ("max_compute_invocations_per_workgroup", |l| l.max_compute_invocations_per_workgroup = 128),
        ("max_compute_workgroup_size_x", |l| l.max_compute_workgroup_size_x = 128),
        ("max_compute_workgroups_per_dimension", |l| l.max_compute_workgroups_per_dimension = 0),
        ("max_storage_buffer_binding_size", |l| l.max_storage_buffer_binding_size = 1 << 10),
        ("max_buffer_size", |l| l.max_buffer_size = 1 << 10),
    ];
    for (name, lower) in needed {
        let mut limits = wgpu::Limits::default();
        lower(&mut limits);
        let device = noop(limits).device;
        let error = Optimizer::new(&device, Adam::PYTORCH, [own(&device, "w", 4)]).unwrap_err();
        let Error::Limits { limit, needed, available } = error else { panic!("{name}: {error}") };
        assert_eq!(limit, name);
        assert!(available < needed, "{name}");
    }
}

#[test]
fn tensors_of_one_gradient_are_no_overlap() {
    let Some(gpu) = gpu() else { return };
    let flat = [buffer(&gpu.device, 256), buffer(&gpu.device, 64)];
    let tied = [at("a", &flat, 0, 64), Tensor::new("b", words(&flat[0], 64, 64), words(&flat[1], 0, 64))];
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, tied.to_vec());
    stand.verified_step();
    stand.verified_step();
}

/// `src/error.rs` and these folders are held together: a variant that nothing in them produces has no test.
#[test]
fn every_variant_of_the_error_is_produced_by_a_test() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(root.join("src/error.rs")).unwrap();
    let body = source.split("pub enum Error {").nth(1).unwrap().split("\n}").next().unwrap();
    let variant = |line: &str| {
        let name = line.strip_prefix("    ")?;
        let end = name.find(" {")?;
        name[..end].chars().all(char::is_alphabetic).then(|| name[..end].to_string())
    };
    let variants: Vec<String> = body.lines().filter_map(variant).collect();
    assert!(variants.len() >= 20, "{variants:?}");
    let folders = ["api", "chain", "format", "narrow", "rows", "schedules"]
        .map(|folder| std::fs::read_dir(root.join("tests").join(folder)).unwrap());
    let files = folders.into_iter().flatten().map(|file| file.unwrap().path());
    let tests: String = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    for variant in variants {
        assert!(tests.contains(&format!("Error::{variant}")), "no test produces Error::{variant}");
    }
}

/// No device here has a buffer of 16 GiB, so the range is longer than its buffer, too; its length is what is told.
#[test]
fn a_tensor_of_2_to_the_32_elements_is_refused_by_name() {
    let Some(gpu) = gpu() else { return };
    let small = buffer(&gpu.device, 4);
    let huge = || BufferRange::new(&small, 0, 4 << 32);
    let message = refusal_of(&gpu, &[Tensor::new("w", huge(), huge())]);
    assert_eq!(message, r#"parameters of "w": 4294967296 elements, at most 4294967295"#);
}

#[test]
fn slices_that_do_not_fit_the_tensors_are_refused_on_the_cpu_before_anything_moves() {
    let mut optimizer = cpu::Optimizer::<Adam, f32>::new(Adam::PYTORCH, [("a", 2), ("b", 1)]).unwrap();
    let (mut a, mut b) = ([1.0, 2.0], [3.0]);
    let error = optimizer.step(&mut [&mut a], &[&[0.1, 0.1], &[0.1]]).unwrap_err();
    assert_eq!(error, Error::Tensors { what: "parameters", found: 1, expected: 2 });
    let error = optimizer.step(&mut [&mut a, &mut b], &[&[0.1, 0.1]]).unwrap_err();
    assert_eq!(error.to_string(), "1 slices of gradients were given for 2 tensors");
    let error = optimizer.step(&mut [&mut a, &mut [3.0, 4.0]], &[&[0.1, 0.1], &[0.1]]).unwrap_err();
    assert_eq!(error.to_string(), r#"slice of "b" has 2 elements, its parameters have 1"#);
    let error = optimizer.step(&mut [&mut a, &mut b], &[&[0.1, 0.1], &[]]).unwrap_err();
    assert_eq!(error.to_string(), r#"gradient of "b" has 0 elements, its parameters have 1"#);
    assert_eq!((a, b, optimizer.step_of("a").unwrap()), ([1.0, 2.0], [3.0], 0));
    optimizer.step(&mut [&mut a, &mut b], &[&[0.1, 0.1], &[0.1]]).unwrap();
    assert_eq!(optimizer.step_of("b").unwrap(), 1);
}
