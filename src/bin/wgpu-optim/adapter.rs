//! Adapters: what there is, which one is taken, and a device opened on it.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use wgpu_optim::wgpu::{self, AdapterInfo, Backend, DeviceType};

use crate::report::Report;
use crate::usage::usage;

/// How a machine without a GPU driver gets a software adapter.
const HINT: &str = "Mesa's lavapipe is a software adapter, and scripts/setup.sh installs it (Debian's \
                    mesa-vulkan-drivers)";

/// Where a job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A GPU if there is one, else the CPU path
    Auto,
    /// An adapter, a software one if there is no GPU
    Gpu,
    /// The CPU path, which needs no adapter
    Cpu,
}

/// What was taken.
pub enum Choice {
    Cpu,
    Gpu(wgpu::Adapter),
}

impl Choice {
    /// Takes what `kind` and a part of an adapter's name ask for, and says so where it could be otherwise.
    ///
    /// # Errors
    /// Of usage for a name that no adapter has; a failed job where there is no adapter at all.
    pub fn make(kind: Kind, name: Option<&str>, report: &Report) -> Result<Self> {
        if kind == Kind::Cpu {
            return match name {
                Some(name) => Err(usage!("--adapter {name} asks for an adapter and --device cpu for none")),
                None => Ok(Choice::Cpu),
            };
        }
        // wgpu's own variable for this; an option that is given goes before it.
        let from_env = std::env::var("WGPU_ADAPTER_NAME").ok();
        match name.or(from_env.as_deref()) {
            Some(name) => named(name).map(Choice::Gpu),
            None if kind == Kind::Gpu => first().map(Choice::Gpu),
            None => Ok(automatic(report)),
        }
    }

    /// The device in words.
    pub fn describe(&self) -> String {
        match self {
            Choice::Cpu => "the CPU".into(),
            Choice::Gpu(adapter) => describe(&adapter.get_info()),
        }
    }

    pub fn to_json(&self) -> Value {
        match self {
            Choice::Cpu => json!({"kind": "cpu"}),
            Choice::Gpu(adapter) => {
                let info = adapter.get_info();
                let (name, backend) = (&info.name, info.backend.to_str());
                json!({"kind": "gpu", "name": name, "backend": backend, "software": is_software(&info)})
            }
        }
    }
}

fn automatic(report: &Report) -> Choice {
    let adapters = all();
    if let Some(adapter) = adapters.iter().find(|adapter| is_real(&adapter.get_info())) {
        report.note(format!("stepping on {}", describe(&adapter.get_info())));
        return Choice::Gpu(adapter.clone());
    }
    let why = match adapters.first() {
        None => "no adapter was found; wgpu-optim devices says more".into(),
        Some(adapter) => {
            format!("no GPU was found; --device gpu takes {}", describe(&adapter.get_info()))
        }
    };
    report.note(format!("stepping on the CPU: {why}"));
    Choice::Cpu
}

/// The best adapter, a GPU before a software one.
fn first() -> Result<wgpu::Adapter> {
    all().into_iter().next().ok_or_else(|| anyhow!(none()))
}

/// The best adapter whose name holds these letters, in either case; without letters, the best of all.
pub fn pick(name: Option<&str>) -> Result<wgpu::Adapter> {
    name.map_or_else(first, named)
}

fn named(name: &str) -> Result<wgpu::Adapter> {
    let adapters = all();
    let wanted = name.to_lowercase();
    let found = adapters.iter().find(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted));
    if let Some(adapter) = found {
        return Ok(adapter.clone());
    }
    if adapters.is_empty() {
        bail!(none());
    }
    let list: Vec<String> = adapters.iter().map(|adapter| describe(&adapter.get_info())).collect();
    Err(usage!("no adapter has {name:?} in its name; there is {}", list.join(" and ")))
}

/// What to say where there is no adapter.
pub fn none() -> String {
    let backend = match std::env::var("WGPU_BACKEND") {
        Ok(backend) => format!(" with WGPU_BACKEND={backend}"),
        Err(_) => String::new(),
    };
    format!("no adapter was found{backend}; the CPU path needs none. {HINT}")
}

/// Every adapter of the backends that `WGPU_BACKEND` allows, the best first.
pub fn all() -> Vec<wgpu::Adapter> {
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    adapters.sort_by_key(|adapter| rank(&adapter.get_info()));
    adapters
}

fn rank(info: &AdapterInfo) -> (u8, bool) {
    let kind = match info.device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    };
    (kind, info.backend == Backend::Gl)
}

fn is_real(info: &AdapterInfo) -> bool {
    matches!(info.device_type, DeviceType::DiscreteGpu | DeviceType::IntegratedGpu | DeviceType::VirtualGpu)
}

pub fn is_software(info: &AdapterInfo) -> bool {
    info.device_type == DeviceType::Cpu
}

/// The type in words.
pub fn kind(info: &AdapterInfo) -> &'static str {
    match info.device_type {
        DeviceType::DiscreteGpu => "discrete GPU",
        DeviceType::IntegratedGpu => "integrated GPU",
        DeviceType::VirtualGpu => "virtual GPU",
        DeviceType::Cpu => "software adapter, not a GPU",
        DeviceType::Other => "of unknown type",
    }
}

/// `NVIDIA H200 (vulkan, discrete GPU)`.
pub fn describe(info: &AdapterInfo) -> String {
    format!("{} ({}, {})", info.name, info.backend, kind(info))
}

/// A device, and what it complained of.
pub struct Opened {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    complaint: Arc<Mutex<Option<String>>>,
}

impl Opened {
    /// Fails if the device has complained.
    ///
    /// # Errors
    /// With the first complaint.
    pub fn check(&self) -> Result<()> {
        match &*self.complaint.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(complaint) => bail!("the device failed: {complaint}"),
            None => Ok(()),
        }
    }
}

/// Opens a device with what the step can use.
///
/// # Errors
/// Where the driver refuses.
pub fn open(adapter: &wgpu::Adapter) -> Result<Opened> {
    open_with(adapter, wgpu::Features::empty())
}

/// [`open`], with those of these features that the adapter has.
pub fn open_with(adapter: &wgpu::Adapter, features: wgpu::Features) -> Result<Opened> {
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("wgpu-optim"),
        required_features: features & adapter.features(),
        required_limits: wgpu_optim::required_limits(adapter),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
        .with_context(|| format!("cannot open {}", describe(&adapter.get_info())))?;
    let complaint = Arc::new(Mutex::new(None));
    let first = complaint.clone();
    // Without a handler wgpu panics.
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.to_string());
    }));
    Ok(Opened { device, queue, complaint })
}
