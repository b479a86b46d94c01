//! What the test files share: a device to test on, and one face for every path that can step.
#![allow(dead_code, reason = "each test file uses some of it")]

pub mod golden;
pub mod paths;

use std::sync::OnceLock;

use wgpu_optim::wgpu;

/// A device with its queue.
#[derive(Clone)]
pub struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
}

/// The device that tests run on, or nothing, loudly. With `WGPU_OPTIM_REQUIRE_GPU=1` nothing is a failure.
pub fn gpu() -> Option<Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    GPU.get_or_init(|| gpu_with(wgpu_optim::required_limits)).clone()
}

/// A device opened with these limits.
pub fn gpu_with(limits: impl FnOnce(&wgpu::Adapter) -> wgpu::Limits) -> Option<Gpu> {
    let opened = pollster::block_on(open(limits));
    if let Err(reason) = &opened {
        let required = std::env::var("WGPU_OPTIM_REQUIRE_GPU").is_ok_and(|value| value == "1");
        assert!(!required, "WGPU_OPTIM_REQUIRE_GPU=1, but there is no GPU to test on: {reason}");
        eprintln!("\n*** SKIPPED: no GPU to test on ({reason}); scripts/test.sh installs a software one ***\n");
    }
    opened.ok()
}

async fn open(limits: impl FnOnce(&wgpu::Adapter) -> wgpu::Limits) -> Result<Gpu, String> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let options =
        wgpu::RequestAdapterOptions { power_preference: wgpu::PowerPreference::HighPerformance, ..Default::default() };
    let adapter = instance.request_adapter(&options).await.map_err(|error| error.to_string())?;
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits(&adapter), ..Default::default() };
    let (device, queue) = adapter.request_device(&descriptor).await.map_err(|error| error.to_string())?;
    Ok(Gpu { device, queue })
}
