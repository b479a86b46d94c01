//! Bytes to and from the device, in chunks through a ring of bounded size.
//!
//! Nothing here is used by a step. Each call is there twice: `async`, for browsers and executors, and
//! `_blocking`, on native targets. A call holds at most [`RING`] chunks of [`CHUNK`] bytes of staging memory.

use std::collections::VecDeque;

use futures_intrusive::channel::shared::{OneshotReceiver, oneshot_channel};

use crate::Error;
use crate::kernel::{guarded, is_lost, lost};
pub use crate::memory::{CHUNK, RING};
use crate::plan::ELEMENT;
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
    let words = words(range);
    let (mut skip, mut left) = ((range.offset() - words.offset()) as usize, range.size() as usize);
    let mut take = |chunk: &[u8]| {
        let own = &chunk[skip..];
        let own = &own[..own.len().min(left)];
        (skip, left) = (0, left - own.len());
        take(own);
    };
    let mut flight: VecDeque<Download> = VecDeque::new();
    for (offset, size) in chunks(&words) {
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

/// Copies `bytes` into `range`, which must be as long. The buffer needs usage `COPY_DST`; where the range is not whole
/// words, what shares them stays, and `COPY_SRC` as well.
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
    let mut rest = bytes;
    let copy = |chunk: &mut [u8]| {
        let (own, after) = rest.split_at(chunk.len());
        chunk.copy_from_slice(own);
        rest = after;
        Ok(())
    };
    upload_each(device, queue, range, copy).await
}

/// [`upload`], a chunk at a time in order, for what should not lie in memory whole: `fill` makes each. Holds one chunk
/// besides the staged ones. A `fill` that fails leaves the range partly written.
///
/// # Errors
/// As [`upload`], or what `fill` returns.
pub async fn upload_each<E: From<Error>>(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    range: &BufferRange,
    mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    check(range, wgpu::BufferUsages::COPY_DST)?;
    let mut uploads = Uploads::default();
    let (words, end) = (words(range), range.offset() + range.size());
    let edges = edges(device, queue, range, &words).await?;
    let mut bytes = vec![0; words.size().min(CHUNK) as usize];
    for (offset, size) in chunks(&words) {
        let chunk = &mut bytes[..size as usize];
        let own = range.offset().saturating_sub(offset) as usize..size.min(end - offset) as usize;
        fill(&mut chunk[own.clone()])?;
        chunk[..own.start].copy_from_slice(&edges[0][..own.start]);
        let after = own.end % 4;
        chunk[own.end..].copy_from_slice(&edges[1][after..after + size as usize - own.end]);
        uploads.send(device, queue, range, offset, chunk).await?;
    }
    Ok(uploads.finish(device).await?)
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

/// The whole words that a range lies in: what devices copy.
fn words(range: &BufferRange) -> BufferRange {
    let start = range.offset() / ELEMENT * ELEMENT;
    let end = (range.offset() + range.size()).next_multiple_of(ELEMENT);
    BufferRange::new(range.buffer(), start, end - start)
}

/// The first and the last word of a range as they are, where it does not have them whole: neighbours lie there.
async fn edges(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    range: &BufferRange,
    words: &BufferRange,
) -> Result<[[u8; 4]; 2], Error> {
    let mut edges = [[0; 4]; 2];
    if words.size() == range.size() {
        return Ok(edges);
    }
    check(range, wgpu::BufferUsages::COPY_SRC)?;
    let last = words.offset() + words.size() - ELEMENT;
    for (edge, offset) in edges.iter_mut().zip([words.offset(), last]) {
        let word = BufferRange::new(range.buffer(), offset, ELEMENT);
        download_each(device, queue, &word, |bytes| edge.copy_from_slice(bytes)).await?;
    }
    Ok(edges)
}

fn check(range: &BufferRange, usage: wgpu::BufferUsages) -> Result<(), Error> {
    range.check_bytes("bytes", "a transfer", 1)?;
    range.check_usage("bytes", "a transfer", usage)
}

/// Chunks on their way to the device.
#[derive(Default)]
struct Uploads {
    flight: VecDeque<OneshotReceiver<()>>,
}

impl Uploads {
    /// Sends bytes to a buffer, once the ring has room for them.
    async fn send(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        range: &BufferRange,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Error> {
        if self.flight.len() == RING
            && let Some(done) = self.flight.pop_front()
        {
            landed(device, done, UPLOADING).await?;
        }
        guarded(device, UPLOADING, || {
            queue.write_buffer(range.buffer(), offset, bytes);
            queue.submit([]);
        })?;
        let (sender, receiver) = oneshot_channel();
        queue.on_submitted_work_done(move || drop(sender.send(())));
        self.flight.push_back(receiver);
        Ok(())
    }

    async fn finish(self, device: &wgpu::Device) -> Result<(), Error> {
        for done in self.flight {
            landed(device, done, UPLOADING).await?;
        }
        // A lost device takes everything and keeps nothing.
        if is_lost(device) { Err(lost(UPLOADING)) } else { Ok(()) }
    }
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
