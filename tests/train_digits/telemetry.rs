//! Losses that come late are the right ones, and those that find no room are dropped.

use wgpu_optim::{Chain, wgpu};

use crate::example::telemetry::{RING, Sample, Telemetry};
use crate::support::Gpu;
use crate::{ADAM, begun, gpu};

/// More than the ring has room for.
const STEPS: u64 = 3 * RING as u64;

#[test]
fn late_losses_are_those_of_their_steps() {
    let Some(gpu) = gpu() else { return };
    let mut training = begun(&gpu, ADAM, Chain::default());
    let mut late = Vec::new();
    for _ in 0..STEPS {
        late.extend(training.step().unwrap());
    }
    late.extend(training.drain().unwrap());
    assert_eq!(late, one_by_one(&gpu));
    assert_eq!(training.telemetry.dropped(), 0);
}

/// The same steps, each waited for.
fn one_by_one(gpu: &Gpu) -> Vec<Sample> {
    let mut training = begun(gpu, ADAM, Chain::default());
    let step = |step| {
        let sample = training.evaluate().unwrap();
        assert_eq!(sample.step, step);
        training.step().unwrap();
        sample
    };
    (0..STEPS).map(step).collect()
}

#[test]
fn a_full_ring_drops_what_comes_and_frees_itself() {
    let Some(Gpu { device, queue }) = gpu() else { return };
    let mut telemetry = Telemetry::new(&device);
    let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let descriptor = wgpu::BufferDescriptor { label: None, size: 8, usage, mapped_at_creation: false };
    let tally = device.create_buffer(&descriptor);
    let ring = RING as u64;
    for (first, dropped) in [(0, 4), (100, 8)] {
        queue.write_buffer(&tally, 0, bytemuck::cast_slice(&[first as f32, 0.5]));
        let mut encoder = device.create_command_encoder(&Default::default());
        (first..first + ring + 4).for_each(|step| telemetry.record(&mut encoder, &tally, step));
        queue.submit([encoder.finish()]);
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        let expected = (first..first + ring).map(|step| Sample { step, loss: first as f32, accuracy: 0.5 });
        assert_eq!(telemetry.arrived().unwrap(), expected.collect::<Vec<_>>());
        assert_eq!(telemetry.dropped(), dropped);
    }
}
