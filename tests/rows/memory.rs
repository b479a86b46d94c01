//! What densifying and pruning takes of a device: no more from round to round.

use wgpu_optim::map::Map;
use wgpu_optim::{Adam, Chain, Ema, Optimizer, Scaler, Tensor, wgpu};

use crate::stand::{list, tensor};
use crate::support::Gpu;

const WIDTH: usize = 48;

/// A device whose instance tells what is there.
fn open() -> Option<(wgpu::Instance, Gpu)> {
    // Says so where there is no adapter, and fails where there must be one.
    crate::support::gpu()?;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let (device, queue) = pollster::block_on(adapter.request_device(&Default::default())).unwrap();
    Some((instance, Gpu { device, queue }))
}

fn place(gpu: &Gpu, rows: usize) -> Tensor {
    let own = || {
        let (label, usage) = (Some("a buffer of the caller's"), wgpu::BufferUsages::STORAGE);
        let size = (rows * WIDTH * 4) as u64;
        gpu.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
    };
    tensor(0, [&own(), &own()], 0, [rows, WIDTH])
}

/// Buffers, bind groups and pipelines that the device holds once all is done.
fn held(instance: &wgpu::Instance, gpu: &Gpu) -> [usize; 3] {
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let report = instance.generate_report().expect("wgpu's own back end");
    let hub = report.hub_report();
    [&hub.buffers, &hub.bind_groups, &hub.compute_pipelines].map(|registry| registry.num_allocated)
}

/// One round: rows are appended or dropped, and some stepped.
fn round(gpu: &Gpu, optimizer: &mut Optimizer<Adam>, rows: usize, map: Map) {
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    optimizer.remap_rows(&gpu.device, &mut encoder, [(place(gpu, rows), map)]).unwrap();
    optimizer.record_rows(&gpu.device, &mut encoder, [("t0", list(gpu, &[3, 1]))]).unwrap();
    gpu.queue.submit([encoder.finish()]);
}

fn twenty_rounds(chain: Chain) {
    let Some((instance, gpu)) = open() else { return };
    let kernels = wgpu_optim::Kernels::new(&gpu.device).unwrap();
    let tensors = [place(&gpu, 1000), Tensor::new("other", &tensor_buffer(&gpu), &tensor_buffer(&gpu))];
    let groups = [wgpu_optim::Group::new(Adam::PYTORCH, tensors)];
    let mut optimizer = Optimizer::with_chain(&gpu.device, &kernels, chain, groups).unwrap();
    let mut seen = Vec::new();
    for _ in 0..20 {
        round(&gpu, &mut optimizer, 1200, Map::append(1000, 200));
        round(&gpu, &mut optimizer, 1000, Map::drop(1200, (0..1200).filter(|row| row % 6 == 5)));
        seen.push(held(&instance, &gpu));
    }
    assert!(seen[2..].iter().all(|held| *held == seen[1]), "{seen:?}");
}

fn tensor_buffer(gpu: &Gpu) -> wgpu::Buffer {
    place(gpu, 1).params().buffer().clone()
}

#[test]
fn twenty_rounds_of_densify_and_prune_hold_what_one_does() {
    twenty_rounds(Chain::default());
    let scaler = Some(Scaler { init_scale: 4.0, ..Scaler::PYTORCH });
    twenty_rounds(Chain { scaler, ema: Some(Ema::KERAS), ..Chain::default() });
}
