//! Copies and a stream as kernels, and the driver's own copy.

use anyhow::{Result, anyhow};
use wgpu_optim::wgpu;

use super::{COPY, STREAM, Shape};
use crate::bench::device::Clocked;
use crate::bench::timing::{Sample, Subject};

/// Bytes by which each role's buffers are longer than what is bound: buffers that an allocator lays side by side
/// are then not a power of two apart, which costs a CPU's caches much (see `plan`).
const STAGGER: u64 = 4096 + 256;

/// A plain kernel over one or more sets of buffers.
pub struct Kernel {
    device: Clocked,
    pipeline: wgpu::ComputePipeline,
    sets: Vec<(wgpu::BindGroup, (u32, u32))>,
    repeat: u64,
}

/// The driver's `copy_buffer_to_buffer`.
pub struct DriverCopy {
    device: Clocked,
    sets: Vec<Vec<wgpu::Buffer>>,
    size: u64,
    repeat: u64,
}

/// What there is on a device, each with the bytes that it moves.
pub struct Yardsticks {
    pub kernels: Vec<(&'static str, u64, Kernel)>,
    pub driver: (u64, DriverCopy),
}

/// `copy-words`, `copy-quads` and `stream` with the bytes that each moves, and the driver's copy.
///
/// # Errors
/// Where the device refuses.
pub fn kernels(device: &Clocked, bytes: u64) -> Result<Yardsticks> {
    let scope = device.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let (copy, stream) = (Sets::new(device, bytes, COPY, 2), Sets::new(device, bytes, STREAM, 4));
    if let Some(error) = pollster::block_on(scope.pop()) {
        return Err(anyhow!("no memory for a copy of {bytes} bytes: {error}"));
    }
    let label = Some("wgpu-optim yardstick");
    let source = wgpu::ShaderSource::Wgsl(include_str!("../../../../../shaders/yardstick.wgsl").into());
    let module = device.device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
    let kernels = vec![
        ("copy-words", copy.bytes(), copy.kernel(device, &module, "copy_words", 4)),
        ("copy-quads", copy.bytes(), copy.kernel(device, &module, "copy_quads", 16)),
        ("stream", stream.bytes(), stream.kernel(device, &module, "stream", 16)),
    ];
    let driver = (copy.bytes(), copy.driver(device));
    device.settle()?;
    Ok(Yardsticks { kernels, driver })
}

/// Buffers that a kernel goes through, a set for each binding's worth.
struct Sets {
    shape: Shape,
    /// Bytes of each binding.
    size: u64,
    buffers: Vec<Vec<wgpu::Buffer>>,
}

impl Sets {
    fn new(device: &Clocked, bytes: u64, moves: u64, roles: u64) -> Self {
        let shape = Shape::new(bytes, moves);
        let limits = device.device.limits();
        let most = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size - roles * STAGGER);
        let count = shape.size.div_ceil(most / 16 * 16);
        let size = shape.size / count / 16 * 16;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = |role: u64| {
            device.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu-optim yardstick"),
                size: size + role * STAGGER,
                usage,
                mapped_at_creation: false,
            })
        };
        let buffers = (0..count).map(|_| (0..roles).map(buffer).collect()).collect();
        Self { shape, size, buffers }
    }

    fn bytes(&self) -> u64 {
        self.shape.bytes()
    }

    fn kernel(&self, device: &Clocked, module: &wgpu::ShaderModule, entry: &str, lane: u64) -> Kernel {
        let pipeline = device.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: None,
            module,
            entry_point: Some(entry),
            compilation_options: Default::default(),
            cache: None,
        });
        let groups = (self.size / lane).div_ceil(256);
        let width = groups.min(device.device.limits().max_compute_workgroups_per_dimension.into());
        let grid = (width as u32, groups.div_ceil(width) as u32);
        let layout = pipeline.get_bind_group_layout(0);
        let sets = self.buffers.iter().map(|set| (self.bind(device, &layout, set), grid)).collect();
        Kernel { device: device.clone(), pipeline, sets, repeat: self.shape.repeat }
    }

    fn bind(&self, device: &Clocked, layout: &wgpu::BindGroupLayout, set: &[wgpu::Buffer]) -> wgpu::BindGroup {
        let size = std::num::NonZeroU64::new(self.size);
        let resource = |buffer| wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 0, size });
        let entries: Vec<_> = (0..)
            .zip(set)
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: resource(buffer) })
            .collect();
        let label = Some("wgpu-optim yardstick");
        device.device.create_bind_group(&wgpu::BindGroupDescriptor { label, layout, entries: &entries })
    }

    fn driver(self, device: &Clocked) -> DriverCopy {
        let Self { shape, size, buffers } = self;
        DriverCopy { device: device.clone(), sets: buffers, size, repeat: shape.repeat }
    }
}

impl Subject for Kernel {
    fn run(&mut self, times: u32) -> Result<Sample> {
        self.device.run(times, |pass| {
            pass.set_pipeline(&self.pipeline);
            for _ in 0..self.repeat {
                for (set, (width, height)) in &self.sets {
                    pass.set_bind_group(0, set, &[]);
                    pass.dispatch_workgroups(*width, *height, 1);
                }
            }
            Ok(())
        })
    }
}

impl Subject for DriverCopy {
    fn run(&mut self, times: u32) -> Result<Sample> {
        self.device.run_encoded(|encoder| {
            for set in (0..u64::from(times) * self.repeat).flat_map(|_| &self.sets) {
                encoder.copy_buffer_to_buffer(&set[0], 0, &set[1], 0, self.size);
            }
            Ok(false)
        })
    }
}
