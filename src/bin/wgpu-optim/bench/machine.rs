//! The machine that a record was made on, in words and without its name.

use serde::Serialize;
use wgpu_optim::wgpu::AdapterInfo;

use crate::adapter;

/// What a figure depends on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    /// Threads that the CPU path steps on.
    pub threads: usize,
    pub memory: u64,
    /// Bytes of the last-level cache, where the system tells.
    pub cache: Option<u64>,
    pub system: String,
    pub version: &'static str,
    pub adapter: Option<Adapter>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Adapter {
    pub name: String,
    pub backend: &'static str,
    /// `discrete GPU`, `software adapter, not a GPU`, …
    pub kind: &'static str,
    pub software: bool,
    pub driver: String,
}

impl Machine {
    pub fn of(adapter: Option<&AdapterInfo>) -> Self {
        let mut system = sysinfo::System::new();
        system.refresh_memory();
        system.refresh_cpu_all();
        let cpu = system.cpus().first().map_or("an unknown CPU", |cpu| cpu.brand());
        Self {
            cpu: cpu.trim().into(),
            threads: rayon::current_num_threads(),
            memory: system.total_memory(),
            cache: last_level_cache(),
            system: format!(
                "{} {}, {}",
                sysinfo::System::name().unwrap_or_default(),
                sysinfo::System::kernel_version().unwrap_or_default(),
                std::env::consts::ARCH
            ),
            version: env!("CARGO_PKG_VERSION"),
            adapter: adapter.map(Adapter::of),
        }
    }

    /// `Intel Xeon, 2 threads`.
    pub fn cpu_path(&self) -> String {
        format!("{}, {}", self.cpu, crate::report::count(self.threads as u64, "thread"))
    }
}

impl Adapter {
    fn of(info: &AdapterInfo) -> Self {
        Self {
            name: info.name.clone(),
            backend: info.backend.to_str(),
            kind: adapter::kind(info),
            software: adapter::is_software(info),
            driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
        }
    }
}

/// Memory that a job may still take.
pub fn available_memory() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    system.available_memory()
}

/// As Linux tells it; other systems have no file for it.
fn last_level_cache() -> Option<u64> {
    let read = |index: u32, file: &str| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{file}")).ok()
    };
    let size = |index: u32| {
        let size = read(index, "size")?;
        Some(size.trim().strip_suffix('K')?.parse::<u64>().ok()? * 1024)
    };
    (0..8).filter_map(size).max()
}
