//! The device to train on.

use anyhow::{Context, Result};
use wgpu_optim::wgpu;

/// The adapter's name and a device on it, at WebGPU's default limits. `WGPU_BACKEND` is heard.
pub fn open() -> Result<(wgpu::Device, wgpu::Queue, String)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let options =
        wgpu::RequestAdapterOptions { power_preference: wgpu::PowerPreference::HighPerformance, ..Default::default() };
    let adapter = pollster::block_on(instance.request_adapter(&options))
        .context("no adapter to train on; scripts/setup.sh installs a software one")?;
    let name = adapter.get_info().name;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))
        .with_context(|| format!("cannot open {name}"))?;
    Ok((device, queue, name))
}
