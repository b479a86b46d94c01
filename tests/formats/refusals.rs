//! What formats refuse, by name and number.

use wgpu_optim::format::{Format, Formats, Rounding, StateFormat};
use wgpu_optim::{Adam, BufferRange, Error, Group, Optimizer, RmsProp, Tensor, wgpu};

use crate::support::{Gpu, gpu};

fn refusal(gpu: &Gpu, formats: Formats, params: (u64, u64, u64), grads: (u64, u64, u64)) -> Error {
    let usage = wgpu::BufferUsages::STORAGE;
    let range = |(size, offset, bytes): (u64, u64, u64)| {
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        BufferRange::new(&gpu.device.create_buffer(&descriptor), offset, bytes)
    };
    let tensor = Tensor::new("w", range(params), range(grads));
    let group = Group::new(Adam::PYTORCH, [tensor]).with_formats(formats);
    Optimizer::with_groups(&gpu.device, [group]).unwrap_err()
}

#[test]
fn ranges_are_whole_elements_in_whole_words() {
    let Some(gpu) = gpu() else { return };
    let bf16 = Formats { params: Format::Bf16, grads: Format::F16, ..Formats::default() };
    let odd = refusal(&gpu, bf16.clone(), (64, 1, 6), (64, 0, 6));
    assert_eq!(odd.to_string(), "parameters of \"w\": offset 1 and size 6 must be multiples of 2 bytes");
    let short = refusal(&gpu, bf16.clone(), (6, 0, 6), (64, 0, 6));
    assert_eq!(short.to_string(), "parameters of \"w\": the range ends at byte 8, its buffer at 6");
    let longer = refusal(&gpu, bf16.clone(), (64, 0, 6), (64, 0, 8));
    assert_eq!(longer.to_string(), "gradient of \"w\" has 4 elements, its parameters have 3");
    let mixed = Formats { params: Format::Bf16, ..Formats::default() };
    let wide = refusal(&gpu, mixed, (64, 0, 8), (64, 0, 8));
    assert_eq!(wide.to_string(), "gradient of \"w\" has 2 elements, its parameters have 4");
}

#[test]
fn formats_that_do_not_go_together_are_refused() {
    let Some(gpu) = gpu() else { return };
    let master = Formats { master: true, ..Formats::default() };
    let kahan = Formats { rounding: Rounding::Kahan, ..Formats::default() };
    let unknown = Formats { slots: [("nought".to_string(), Default::default())].into(), ..Formats::default() };
    for formats in [master, kahan, unknown] {
        let error = refusal(&gpu, formats, (64, 0, 8), (64, 0, 8));
        assert!(matches!(error, Error::Setting { rule: "format", .. }), "{error}");
    }
}

#[test]
fn moments_that_are_subtracted_are_not_rounded() {
    let Some(gpu) = gpu() else { return };
    let build = |clamp_centered: bool| {
        let buffer = |size| {
            let (label, usage) = (None, wgpu::BufferUsages::STORAGE);
            gpu.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
        };
        let settings = RmsProp { centered: true, clamp_centered, ..RmsProp::PYTORCH };
        let group = Group::new(settings, [Tensor::new("w", &buffer(64), &buffer(64))]);
        let formats = Formats { state: StateFormat::Bf16, ..Formats::default() };
        Optimizer::with_groups(&gpu.device, [group.with_formats(formats)])
    };
    let error = build(false).unwrap_err();
    assert!(matches!(error, Error::Rounded { slot: "square_avg", format: "bf16", .. }), "{error}");
    build(true).unwrap().step_blocking(&gpu.device, &gpu.queue).unwrap();
}
