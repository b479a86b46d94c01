//! Bytes to and from the device, in chunks through a ring of bounded size.
//!
//! Nothing here is used by a step. Each call is there twice: `async`, for browsers and executors, and
//! `_blocking`, on native targets. A call holds at most [`RING`] chunks of [`CHUNK`] bytes of staging memory.

use std::collections::VecDeque;

use futures_intrusive::channel::shared::{OneshotReceiver, oneshot_channel};

use crate::Error;
use crate::kernel::{guarded, is_lost, lost};
pub use crate::memory::{CHUNK, RING};
use crate::tensor::BufferRange;

/// Copies `range` to the host. The buffer needs usage `COPY_SRC`.
///
/// # Errors
/// [`Error::Usage`], [`Error::OutOfBounds`], [`Error::Misaligned`], [`Error::Refused`], [`Error::OutOfMemory`],
/// [`Error::DeviceLost`], [`Error::Readback`].
pub async fn download(device: &wgpu::Device, queue: &wgpu::Queue, range: &BufferRange) -> Result<Vec<u8>, Error> {
    check(range, wgpu::BufferUsages::COPY_SRC)?;
    let mut bytes = Vec::with_capacity(range.size() as usize);
    download_each(device, queue, range, |chunk| bytes.extend_from_slice(chunk)).await?;
    Ok(bytes)
}

/// [`download`], a chunk at a time in order, for what should not lie in memory whole.
///
/// # Errors
/// As [`download`].
pub async fn download_each(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    range: &BufferRange,
    mut take: impl FnMut(&[u8]),
) -> Result<(), Error> {
    check(range, wgpu::BufferUsages::COPY_SRC)?;
    let mut flight: VecDeque<Download> = VecDeque::new();
    for (offset, size) in chunks(range) {
        if flight.len() == RING
            && let Some(landed) = flight.pop_front()
        {
            landed.wait(device, &mut take).await?;
        }
        flight.push_back(Download::start(device, queue, range, offset, size)?);
    }
    for landed in flight {
        landed.wait(device, &mut take).await?;
    }
    Ok(())
}

/// Copies `bytes` into `range`, which must be as long. The buffer needs usage `COPY_DST`.
///
/// # Errors
/// [`Error::Bytes`], [`Error::Usage`], [`Error::OutOfBounds`], [`Error::Misaligned`], [`Error::Refused`],
/// [`Error::DeviceLost`].
pub async fn upload(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    range: &BufferRange,
    bytes: &[u8],
) -> Result<(), Error> {
    check(range, wgpu::BufferUsages::COPY_DST)?;
    if bytes.len() as u64 != range.size() {
        return Err(Error::Bytes { found: bytes.len() as u64, expected: range.size() });
    }
    let mut flight: VecDeque<OneshotReceiver<()>> = VecDeque::new();
    for (offset, size) in chunks(range) {
        if flight.len() == RING
            && let Some(done) = flight.pop_front()
        {
            landed(device, done, UPLOADING).await?;
        }
        let start = (offset - range.offset()) as usize;
        guarded(device, UPLOADING, || {
            queue.write_buffer(range.buffer(), offset, &bytes[start..start + size as usize]);
            queue.submit([]);
        })?;
        let (sender, receiver) = oneshot_channel();
        queue.on_submitted_work_done(move || drop(sender.send(())));
        flight.push_back(receiver);
    }
    for done in flight {
        landed(device, done, UPLOADING).await?;
    }
    // A lost device takes everything and keeps nothing.
    if is_lost(device) { Err(lost(UPLOADING)) } else { Ok(()) }
}

const UPLOADING: &str = "an upload";
const DOWNLOADING: &str = "a download";

/// [`download`] for native targets.
///
/// # Errors
/// As [`download`].
#[cfg(not(target_arch = "wasm32"))]
pub fn download_blocking(device: &wgpu::Device, queue: &wgpu::Queue, range: &BufferRange) -> Result<Vec<u8>, Error> {
    pollster::block_on(download(device, queue, range))
}

/// [`upload`] for native targets.
///
/// # Errors
/// As [`upload`].
#[cfg(not(target_arch = "wasm32"))]
pub fn upload_blocking(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    range: &BufferRange,
    bytes: &[u8],
) -> Result<(), Error> {
    pollster::block_on(upload(device, queue, range, bytes))
}

/// (offset in the buffer, size) of each chunk of a range.
fn chunks(range: &BufferRange) -> impl Iterator<Item = (u64, u64)> + use<> {
    let (offset, size) = (range.offset(), range.size());
    (0..size.div_ceil(CHUNK)).map(move |i| (offset + i * CHUNK, CHUNK.min(size - i * CHUNK)))
}

fn check(range: &BufferRange, usage: wgpu::BufferUsages) -> Result<(), Error> {
    range.check_bytes("bytes", "a transfer")?;
    range.check_usage("bytes", "a transfer", usage)
}

/// A chunk on its way to the host.
struct Download {
    staging: wgpu::Buffer,
    mapped: OneshotReceiver<Result<(), wgpu::BufferAsyncError>>,
}

impl Download {
    fn start(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        range: &BufferRange,
        offset: u64,
        size: u64,
    ) -> Result<Self, Error> {
        let (sender, mapped) = oneshot_channel();
        let staging = guarded(device, DOWNLOADING, || {
            let staging = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu-optim staging"),
                size,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let mut encoder =
                device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("wgpu-optim readback") });
            encoder.copy_buffer_to_buffer(range.buffer(), offset, &staging, 0, size);
            queue.submit([encoder.finish()]);
            staging.map_async(wgpu::MapMode::Read, .., move |result| drop(sender.send(result)));
            staging
        })?;
        Ok(Self { staging, mapped })
    }

    async fn wait(self, device: &wgpu::Device, take: &mut impl FnMut(&[u8])) -> Result<(), Error> {
        let failed = |message: String| match is_lost(device) {
            true => lost(DOWNLOADING),
            false => Error::Readback { doing: DOWNLOADING.into(), message },
        };
        landed(device, self.mapped, DOWNLOADING).await?.map_err(|error| failed(error.to_string()))?;
        let view = self.staging.get_mapped_range(..).map_err(|error| failed(error.to_string()))?;
        take(&view);
        Ok(())
    }
}

/// What a callback of the device sends. Native devices call back only while somebody polls them, so this does.
async fn landed<T: 'static>(device: &wgpu::Device, receiver: OneshotReceiver<T>, doing: &str) -> Result<T, Error> {
    #[cfg(not(target_arch = "wasm32"))]
    {
        let mut receive = std::pin::pin!(receiver.receive());
        let sent = std::future::poll_fn(|context| {
            if let std::task::Poll::Ready(sent) = receive.as_mut().poll(context) {
                return std::task::Poll::Ready(Ok(sent));
            }
            if let Err(error) = device.poll(wgpu::PollType::Poll) {
                return std::task::Poll::Ready(Err(error));
            }
            context.waker().wake_by_ref();
            std::thread::yield_now();
            std::task::Poll::Pending
        })
        .await;
        sent.map_err(|_| lost(doing))?.ok_or_else(|| lost(doing))
    }
    #[cfg(target_arch = "wasm32")]
    {
        let _ = device;
        receiver.receive().await.ok_or_else(|| lost(doing))
    }
}
