//! One dispatch of a training step: a pipeline, what it is bound to, and how many workgroups it takes.

use anyhow::{Result, ensure};
use wgpu_optim::wgpu;

/// A WGSL file, with an entry point `step`.
pub struct Shader {
    pub name: &'static str,
    pub text: &'static str,
    /// Invocations of a workgroup, as the text has it.
    pub workgroup: [u32; 2],
}

macro_rules! shader {
    ($name:literal, $workgroup:expr) => {
        Shader { name: $name, text: include_str!(concat!($name, ".wgsl")), workgroup: $workgroup }
    };
}

pub const FORWARD: Shader = shader!("forward", [8, 8]);
pub const CROSS_ENTROPY: Shader = shader!("cross_entropy", [64, 1]);
pub const TALLY: Shader = shader!("tally", [256, 1]);
pub const BACKWARD_INPUTS: Shader = shader!("backward_inputs", [8, 8]);
pub const BACKWARD_WEIGHTS: Shader = shader!("backward_weights", [8, 32]);
pub const WIDEN: Shader = shader!("widen", [64, 1]);
pub const NARROW: Shader = shader!("narrow", [64, 1]);

/// A shader made for some shapes and bound to some buffers.
pub struct Kernel {
    label: String,
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    groups: [u32; 2],
}

impl Kernel {
    /// Compiles `shader` with `constants` for its overrides, binds `resources` in their order, and covers
    /// `invocations`.
    ///
    /// # Errors
    /// Where that takes more workgroups than the device grants in one direction.
    pub fn new(
        device: &wgpu::Device,
        shader: &Shader,
        constants: &[(&str, f64)],
        resources: &[wgpu::BindingResource<'_>],
        invocations: [u32; 2],
    ) -> Result<Self> {
        let groups = [0, 1].map(|side| invocations[side].div_ceil(shader.workgroup[side]));
        let limit = device.limits().max_compute_workgroups_per_dimension;
        let name = shader.name;
        ensure!(groups.iter().all(|&n| n <= limit), "{name} takes {groups:?} workgroups, the device grants {limit}");
        let label = format!("train_digits {name}");
        let pipeline = pipeline(device, shader, constants, &label);
        let bind_group = bind_group(device, &pipeline, resources, &label);
        Ok(Self { label, pipeline, bind_group, groups })
    }

    /// Adds the dispatch to a pass. What an earlier dispatch of the pass wrote is there to be read.
    pub fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.push_debug_group(&self.label);
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.groups[0], self.groups[1], 1);
        pass.pop_debug_group();
    }
}

fn pipeline(device: &wgpu::Device, shader: &Shader, constants: &[(&str, f64)], label: &str) -> wgpu::ComputePipeline {
    let source = wgpu::ShaderSource::Wgsl(shader.text.into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(label), source });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(label),
        layout: None,
        module: &module,
        entry_point: Some("step"),
        compilation_options: wgpu::PipelineCompilationOptions { constants, ..Default::default() },
        cache: None,
    })
}

fn bind_group(
    device: &wgpu::Device,
    pipeline: &wgpu::ComputePipeline,
    resources: &[wgpu::BindingResource<'_>],
    label: &str,
) -> wgpu::BindGroup {
    let resources = (0..).zip(resources.iter().cloned());
    let entries: Vec<_> = resources.map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
    let layout = &pipeline.get_bind_group_layout(0);
    device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some(label), layout, entries: &entries })
}
