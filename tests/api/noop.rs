//! wgpu's own validation of everything that is built and recorded, on its device that needs no driver.

use wgpu_optim::rule::{Rule, Visitor, visit};
use wgpu_optim::{Adam, Arena, Optimizer, wgpu};

use crate::stand::{at, buffer, encoder, noop, own};
use crate::support::Gpu;

/// Panics, with wgpu's words, where `make` was not valid.
fn valid<T>(gpu: &Gpu, make: impl FnOnce() -> T) -> T {
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let made = make();
    if let Some(error) = pollster::block_on(scope.pop()) {
        panic!("{error}");
    }
    made
}

struct EveryCase(Gpu);

impl Visitor for EveryCase {
    fn rule<R: Rule>(&mut self) {
        for (case, settings) in R::cases() {
            let gpu = &self.0;
            valid(gpu, || {
                let buffers = [buffer(&gpu.device, 4096), buffer(&gpu.device, 4096)];
                // Quads with a tail, words throughout, and a buffer of its own.
                let tensors = [at("a", &buffers, 0, 1021), at("b", &buffers, 2001, 77), own(&gpu.device, "c", 100_003)];
                let mut optimizer = Optimizer::new(&gpu.device, settings, tensors)
                    .unwrap_or_else(|error| panic!("{} {case}: {error}", R::NAME));
                let mut encoder = encoder(gpu);
                optimizer.record(&gpu.device, &mut encoder).unwrap();
                let mut pass = encoder.begin_compute_pass(&Default::default());
                optimizer.record_in(&gpu.device, &mut pass).unwrap();
                drop(pass);
                gpu.queue.submit([encoder.finish()]);
                assert_eq!(optimizer.step_of("c").unwrap(), 2);
            });
        }
    }
}

#[test]
fn every_case_of_every_rule_is_built_and_recorded_at_the_defaults_of_webgpu() {
    visit(&mut EveryCase(noop(wgpu::Limits::default())));
}

#[test]
fn every_case_of_every_rule_is_built_and_recorded_at_small_limits() {
    visit(&mut EveryCase(noop(wgpu::Limits {
        max_storage_buffer_binding_size: 64 << 10,
        max_buffer_size: 1 << 20,
        max_compute_workgroups_per_dimension: 7,
        max_storage_buffers_per_shader_stage: 6,
        max_bind_groups: 2,
        ..wgpu::Limits::default()
    })));
}

#[test]
fn the_limits_of_old_browsers_that_have_compute_are_enough() {
    visit(&mut EveryCase(noop(wgpu::Limits { max_storage_buffers_per_shader_stage: 8, ..wgpu::Limits::default() })));
}

/// A quarter of a gibibyte of parameters: past the binding limit and past 65 535 groups at the defaults.
#[test]
fn a_tensor_past_every_default_limit_is_built_and_recorded() {
    let gpu = noop(wgpu::Limits::default());
    valid(&gpu, || {
        let arena = Arena::new(&gpu.device, [("w", 48 << 20)]).unwrap();
        let mut optimizer = Optimizer::new(&gpu.device, Adam::PYTORCH, arena.tensors()).unwrap();
        assert!(optimizer.dispatches() >= 3);
        let ranges = optimizer.state_ranges("w", "exp_avg_sq").unwrap();
        assert_eq!(ranges.iter().map(|range| range.len()).sum::<u64>(), 48 << 20);
        assert!(ranges.iter().all(|range| range.buffer().size() <= 256 << 20));
        optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
    });
}

#[test]
fn everything_that_is_made_has_a_label() {
    // wgpu names what is wrong by its label; one that is missing would leave the caller to guess.
    let gpu = noop(wgpu::Limits::default());
    let tensor = own(&gpu.device, "w", 64);
    let mut optimizer = Optimizer::new(&gpu.device, Adam::PYTORCH, [tensor.clone()]).unwrap();
    tensor.params().buffer().destroy();
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let mut encoder = encoder(&gpu);
    optimizer.record(&gpu.device, &mut encoder).unwrap();
    gpu.queue.submit([encoder.finish()]);
    let error = pollster::block_on(scope.pop()).expect("a destroyed buffer was submitted").to_string();
    assert!(error.contains("a buffer of the caller's"), "{error}");
}
