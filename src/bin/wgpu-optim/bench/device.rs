//! A device with a clock: work is timed on the wall, and by the device's timestamps where it has them.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use wgpu_optim::{BufferRange, readback, wgpu};

use super::timing::Sample;
use crate::adapter::{self, Opened};

/// A device that times what it does. Clones are one.
#[derive(Clone)]
pub struct Clocked {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub info: wgpu::AdapterInfo,
    opened: Arc<Opened>,
    stamps: Option<Arc<Stamps>>,
}

/// Two timestamps, and the way back to the host.
struct Stamps {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    landed: BufferRange,
    /// Seconds of a tick.
    tick: f64,
}

impl Clocked {
    pub fn open(adapter: &wgpu::Adapter) -> Result<Self> {
        let opened = adapter::open_with(adapter, wgpu::Features::TIMESTAMP_QUERY)?;
        let (device, queue) = (opened.device.clone(), opened.queue.clone());
        let has_clock = device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        let stamps = has_clock.then(|| Arc::new(Stamps::new(&device, &queue)));
        Ok(Self { device, queue, info: adapter.get_info(), opened: Arc::new(opened), stamps })
    }

    /// Runs `record` in so many compute passes of one submit, and waits until they are done.
    pub fn run(&self, times: u32, mut record: impl FnMut(&mut wgpu::ComputePass<'_>) -> Result<()>) -> Result<Sample> {
        self.run_encoded(|encoder| {
            for i in 0..times {
                let timestamp_writes = self.stamps.as_ref().map(|stamps| stamps.writes(i == 0, i + 1 == times));
                let timestamp_writes = timestamp_writes.filter(|writes| {
                    writes.beginning_of_pass_write_index.is_some() || writes.end_of_pass_write_index.is_some()
                });
                let label = Some("wgpu-optim bench");
                record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label, timestamp_writes }))?;
            }
            Ok(self.stamps.is_some())
        })
    }

    /// Submits what `encode` records and waits until it is done; `encode` tells whether it wrote the timestamps.
    pub fn run_encoded(&self, encode: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<bool>) -> Result<Sample> {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let stamped = encode(&mut encoder)?;
        let stamps = self.stamps.as_ref().filter(|_| stamped);
        if let Some(stamps) = stamps {
            encoder.resolve_query_set(&stamps.set, 0..2, &stamps.resolved, 0);
            let landed = stamps.landed.buffer();
            encoder.copy_buffer_to_buffer(&stamps.resolved, 0, landed, 0, landed.size());
        }
        let commands = encoder.finish();
        let start = Instant::now();
        self.queue.submit([commands]);
        self.settle()?;
        let wall = start.elapsed().as_secs_f64();
        Ok(Sample { wall, device: stamps.map(|stamps| stamps.read(self)).transpose()?.flatten() })
    }

    /// Waits until the device is idle, and tells what went wrong on it.
    pub fn settle(&self) -> Result<()> {
        self.device.poll(wgpu::PollType::wait_indefinitely()).context("the device does not answer")?;
        self.opened.check()
    }

    /// Small ranges are left to the queue, which takes them along: waiting for each costs more than it moves.
    pub fn upload(&self, range: &BufferRange, values: &[f32]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        match range.size() < readback::CHUNK {
            true => self.queue.write_buffer(range.buffer(), range.offset(), bytes),
            false => readback::upload_blocking(&self.device, &self.queue, range, bytes)?,
        }
        Ok(())
    }

    /// Bytes of any length.
    pub fn upload_bytes(&self, range: &BufferRange, bytes: &[u8]) -> Result<()> {
        Ok(readback::upload_blocking(&self.device, &self.queue, range, bytes)?)
    }

    pub fn download_bytes(&self, range: &BufferRange) -> Result<Vec<u8>> {
        readback::download_blocking(&self.device, &self.queue, range).context("cannot read back what was stepped")
    }

    /// Fills `values`, which are as many as the range has.
    pub fn download(&self, range: &BufferRange, values: &mut [f32]) -> Result<()> {
        let mut rest = bytemuck::cast_slice_mut::<f32, u8>(values);
        let copy = |chunk: &[u8]| {
            if let Some(to) = rest.split_off_mut(..chunk.len()) {
                to.copy_from_slice(chunk);
            }
        };
        pollster::block_on(readback::download_each(&self.device, &self.queue, range, copy))
            .context("cannot read back what was stepped")
    }
}

impl Stamps {
    fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        let buffer = |usage| {
            let label = Some("wgpu-optim timestamps");
            device.create_buffer(&wgpu::BufferDescriptor { label, size: 16, usage, mapped_at_creation: false })
        };
        let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
        let landed = buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC);
        let set = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("wgpu-optim timestamps"),
            ty: wgpu::QueryType::Timestamp,
            count: 2,
        });
        let tick = f64::from(queue.get_timestamp_period()) * 1e-9;
        Self { set, resolved, landed: BufferRange::new(&landed, 0, 16), tick }
    }

    fn writes(&self, first: bool, last: bool) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.set,
            beginning_of_pass_write_index: first.then_some(0),
            end_of_pass_write_index: last.then_some(1),
        }
    }

    /// Seconds between the two; none where they are zero or out of order, as some drivers leave them.
    fn read(&self, on: &Clocked) -> Result<Option<f64>> {
        let bytes = readback::download_blocking(&on.device, &on.queue, &self.landed)?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        Ok((ticks[0] > 0 && ticks[1] > ticks[0]).then(|| (ticks[1] - ticks[0]) as f64 * self.tick))
    }
}
