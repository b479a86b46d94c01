//! A case of a framework on the device, its tensors each in buffers of their own.

use wgpu_optim::format::codes::Codes;
use wgpu_optim::format::{Formats, MASTER, Q8Zero, Storage};
use wgpu_optim::readback::{download_blocking, upload_blocking};
use wgpu_optim::{Adam, BufferRange, Group, Optimizer, Tensor, wgpu};

use crate::golden::Narrow;
use crate::support::Gpu;
use crate::support::golden::Case;
use crate::support::golden::settings::FromCanonical;
use crate::support::paths::Path;

pub struct Device {
    gpu: Gpu,
    optimizer: Optimizer<Adam>,
    names: Vec<String>,
}

impl Device {
    pub fn new(gpu: Gpu, case: &Case, formats: &Formats) -> Self {
        let tensor = |tensor: &crate::support::golden::Tensor| {
            let params = filled(&gpu, formats.params.storage(), &tensor.start);
            let grads = filled(&gpu, formats.grads.storage(), &vec![0.0; tensor.start.len()]);
            Tensor::new(&tensor.name, params, grads)
        };
        let tensors: Vec<_> = case.tensors.iter().map(tensor).collect();
        let group = Group::new(Adam::from_canonical(&case.canonical), tensors).with_formats(formats.clone());
        let optimizer = Optimizer::with_groups(&gpu.device, [group]).unwrap();
        let names = case.tensors.iter().map(|tensor| tensor.name.clone()).collect();
        Self { gpu, optimizer, names }
    }

    fn tensor(&self, name: &str) -> &Tensor {
        self.optimizer.tensors().iter().find(|tensor| tensor.name() == name).unwrap()
    }

    fn bytes(&self, range: &BufferRange) -> Vec<u8> {
        download_blocking(&self.gpu.device, &self.gpu.queue, range).unwrap()
    }

    fn all(&self, ranges: Vec<BufferRange>) -> Vec<u8> {
        ranges.iter().flat_map(|range| self.bytes(range)).collect()
    }
}

fn filled(gpu: &Gpu, storage: Storage, values: &[f32]) -> BufferRange {
    let bytes = Codes::of(storage, Q8Zero::default(), values).elements;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let size = (bytes.len() as u64).next_multiple_of(4);
    let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
    let range = BufferRange::new(&gpu.device.create_buffer(&descriptor), 0, bytes.len() as u64);
    upload_blocking(&gpu.device, &gpu.queue, &range, &bytes).unwrap();
    range
}

impl Path<Adam> for Device {
    fn retune(&mut self, group: usize, settings: Adam) {
        self.optimizer.retune(group, settings).unwrap();
    }

    fn step(&mut self, grads: &[Option<&[f32]>]) {
        let Gpu { device, queue } = &self.gpu;
        let storage = self.optimizer.formats(0).unwrap().grads.storage();
        for (name, grads) in self.names.iter().zip(grads) {
            let bytes = Codes::of(storage, Q8Zero::default(), grads.unwrap()).elements;
            upload_blocking(device, queue, self.tensor(name).grads(), &bytes).unwrap();
        }
        self.optimizer.step_blocking(device, queue).unwrap();
    }

    /// The master, where there is one.
    fn params(&self) -> Vec<Vec<f64>> {
        let Gpu { device, queue } = &self.gpu;
        let storage = self.optimizer.formats(0).unwrap().params.storage();
        let of = |name: &String| {
            let master = self.optimizer.read_state_blocking(device, queue, name, MASTER);
            let values = master.unwrap_or_else(|_| {
                Codes { elements: self.bytes(self.tensor(name).params()), scales: Vec::new() }.values(storage)
            });
            values.into_iter().map(f64::from).collect()
        };
        self.names.iter().map(of).collect()
    }

    fn state(&self, name: &str, slot: &str) -> Vec<f64> {
        let values = self.optimizer.read_state_blocking(&self.gpu.device, &self.gpu.queue, name, slot).unwrap();
        values.into_iter().map(f64::from).collect()
    }

    fn set_state(&mut self, name: &str, slot: &str, values: &[f32]) {
        self.optimizer.write_state_blocking(&self.gpu.device, &self.gpu.queue, name, slot, values).unwrap();
    }

    fn set_step(&mut self, name: &str, step: u64) {
        self.optimizer.set_step(name, step).unwrap();
    }

    fn step_of(&self, name: &str) -> Option<u64> {
        Some(self.optimizer.step_of(name).unwrap())
    }

    fn scale(&self) -> Option<f64> {
        None
    }

    fn skipped(&self) -> Option<u64> {
        Some(0)
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn slots(&self, name: &str) -> Vec<&'static str> {
        self.optimizer.slots(name).unwrap()
    }
}

impl Narrow for Device {
    fn copy(&self, name: &str) -> Vec<u16> {
        bytemuck::pod_collect_to_vec(&self.bytes(self.tensor(name).params()))
    }

    fn blocks(&self, name: &str, slot: &str) -> Option<(Vec<u8>, Vec<f32>)> {
        let scales = self.all(self.optimizer.scale_ranges(name, slot).unwrap());
        let codes = || self.all(self.optimizer.state_ranges(name, slot).unwrap());
        (!scales.is_empty()).then(|| (codes(), bytemuck::pod_collect_to_vec(&scales)))
    }
}
