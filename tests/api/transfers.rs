//! Bytes to and from the device: exact over many chunks, and refused where they cannot go.

use wgpu_optim::readback::{CHUNK, RING, download_blocking, download_each, upload_blocking};
use wgpu_optim::{BufferRange, Error, wgpu};

use crate::stand::{buffer, buffer_for, pair, running};
use crate::support::{Gpu, gpu};

/// Bytes that differ from chunk to chunk and from word to word.
fn pattern(size: usize) -> Vec<u8> {
    (0..size as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[test]
fn more_than_the_ring_holds_comes_back_as_it_went() {
    let Some(gpu) = gpu() else { return };
    let Gpu { device, queue } = &gpu;
    let size = CHUNK as usize * (RING + 2) + 12;
    assert!(size > 16 << 20);
    let buffer = buffer(device, size / 4 + 64);
    let range = BufferRange::new(&buffer, 36, size as u64);
    let bytes = pattern(size);
    upload_blocking(device, queue, &range, &bytes).unwrap();
    assert!(download_blocking(device, queue, &range).unwrap() == bytes);
    // Nothing before it or after it was written.
    let whole = download_blocking(device, queue, &(&buffer).into()).unwrap();
    assert!(whole[..36].iter().chain(&whole[36 + size..]).all(|&byte| byte == 0));
}

#[test]
fn sizes_around_a_chunk_come_back_as_they_went() {
    let Some(gpu) = gpu() else { return };
    let Gpu { device, queue } = &gpu;
    let buffer = buffer(device, CHUNK as usize / 4 * 2 + 8);
    for size in [4, CHUNK - 4, CHUNK, CHUNK + 4, 2 * CHUNK] {
        let range = BufferRange::new(&buffer, 8, size);
        let bytes = pattern(size as usize);
        upload_blocking(device, queue, &range, &bytes).unwrap();
        assert!(download_blocking(device, queue, &range).unwrap() == bytes, "{size}");
    }
}

#[test]
fn chunks_come_in_order_and_none_is_larger_than_said() {
    let Some(gpu) = gpu() else { return };
    let Gpu { device, queue } = &gpu;
    let size = 3 * CHUNK + 400;
    let range = BufferRange::from(&buffer(device, size as usize / 4));
    let bytes = pattern(size as usize);
    upload_blocking(device, queue, &range, &bytes).unwrap();
    let mut chunks: Vec<Vec<u8>> = Vec::new();
    pollster::block_on(download_each(device, queue, &range, |chunk| chunks.push(chunk.to_vec()))).unwrap();
    assert_eq!(chunks.len(), 4);
    assert!(chunks.iter().all(|chunk| chunk.len() as u64 <= CHUNK));
    assert!(chunks.concat() == bytes);
}

#[test]
fn nothing_is_nothing_both_ways() {
    let Some(gpu) = gpu() else { return };
    let Gpu { device, queue } = &gpu;
    let none = BufferRange::new(&buffer(device, 4), 8, 0);
    upload_blocking(device, queue, &none, &[]).unwrap();
    assert!(download_blocking(device, queue, &none).unwrap().is_empty());
}

#[test]
fn an_upload_is_seen_by_the_next_submit() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    for _ in 0..3 {
        let grads = stand.optimizer.tensors()[0].grads().clone();
        let values: Vec<f32> = (0..100).map(|i| i as f32 - 50.0).collect();
        upload_blocking(&gpu.device, &gpu.queue, &grads, bytemuck::cast_slice(&values)).unwrap();
        let before = stand.world();
        stand.step();
        stand.verify(&before, &stand.world());
    }
}

/// The range given to a transfer, and what came of it; the buffer's bytes are as before, and can still be moved.
fn refused(gpu: &Gpu, range: &BufferRange, bytes: &[u8]) -> Error {
    let Gpu { device, queue } = gpu;
    let error = upload_blocking(device, queue, range, bytes).unwrap_err();
    let whole = BufferRange::from(range.buffer());
    if range.buffer().usage().contains(wgpu::BufferUsages::COPY_SRC) {
        assert!(download_blocking(device, queue, &whole).unwrap().iter().all(|&byte| byte == 0));
    }
    error
}

#[test]
fn an_upload_of_another_length_is_refused_in_bytes() {
    let Some(gpu) = gpu() else { return };
    let range = BufferRange::from(&buffer(&gpu.device, 16));
    for found in [0, 60, 68] {
        let error = refused(&gpu, &range, &vec![1; found]);
        assert_eq!(error, Error::Bytes { found: found as u64, expected: 64 });
        let message = error.to_string();
        // Bytes are neither elements nor parameters.
        assert!(message.contains(&format!("{found} bytes")) && message.contains("64"), "{message}");
        assert!(!message.contains("element") && !message.contains("parameters"), "{message}");
    }
}

#[test]
fn a_transfer_that_the_buffer_was_not_made_for_is_refused_by_usage() {
    let Some(gpu) = gpu() else { return };
    let Gpu { device, queue } = &gpu;
    let storage = BufferRange::from(&buffer_for(device, 64, wgpu::BufferUsages::STORAGE));
    let error = refused(&gpu, &storage, &[0; 64]);
    assert!(matches!(&error, Error::Usage { missing, .. } if missing == "COPY_DST"), "{error}");
    let error = download_blocking(device, queue, &storage).unwrap_err();
    assert!(matches!(&error, Error::Usage { missing, .. } if missing == "COPY_SRC"), "{error}");
}

#[test]
fn an_upload_past_the_end_is_refused() {
    let Some(gpu) = gpu() else { return };
    let buffer = buffer(&gpu.device, 16);
    for (offset, size) in [(0, 68), (60, 8), (64, 4), (1 << 40, 4)] {
        let error = refused(&gpu, &BufferRange::new(&buffer, offset, size), &vec![1; size as usize]);
        assert!(matches!(error, Error::OutOfBounds { buffer_size: 64, .. }), "{error}");
    }
}

#[test]
fn an_upload_that_is_not_whole_words_leaves_its_neighbours() {
    let Some(gpu) = gpu() else { return };
    let Gpu { device, queue } = &gpu;
    let buffer = buffer(device, 16);
    for (offset, size) in [(2, 4), (0, 3), (1, 3), (5, 1), (6, 31), (3, 61)] {
        let mut expected: Vec<u8> = (0..64).map(|i| 100 + i).collect();
        upload_blocking(device, queue, &BufferRange::from(&buffer), &expected).unwrap();
        let (own, range) = (vec![7; size], BufferRange::new(&buffer, offset as u64, size as u64));
        upload_blocking(device, queue, &range, &own).unwrap();
        expected[offset..offset + size].copy_from_slice(&own);
        assert_eq!(download_blocking(device, queue, &BufferRange::from(&buffer)).unwrap(), expected, "{offset} {size}");
    }
}

#[test]
fn a_download_past_the_end_is_refused_before_memory_is_asked_for() {
    let Some(gpu) = gpu() else { return };
    let Gpu { device, queue } = &gpu;
    let buffer = buffer(device, 16);
    for (offset, size) in [(0, 68), (64, 4), (0, 1 << 62), (u64::MAX - 3, 8), (4, u64::MAX - 3)] {
        let error = download_blocking(device, queue, &BufferRange::new(&buffer, offset, size)).unwrap_err();
        assert!(matches!(error, Error::OutOfBounds { buffer_size: 64, .. }), "{error}");
    }
}

#[test]
fn a_download_that_is_not_whole_words_is_just_that() {
    let Some(gpu) = gpu() else { return };
    let Gpu { device, queue } = &gpu;
    let buffer = buffer(device, 16);
    let bytes: Vec<u8> = (0..64).collect();
    upload_blocking(device, queue, &BufferRange::from(&buffer), &bytes).unwrap();
    for (offset, size) in [(2, 4), (0, 3), (7, 1), (5, 59)] {
        let range = BufferRange::new(&buffer, offset as u64, size as u64);
        assert_eq!(download_blocking(device, queue, &range).unwrap(), bytes[offset..offset + size]);
    }
}

#[test]
fn a_destroyed_buffer_is_refused_both_ways() {
    let Some(gpu) = gpu() else { return };
    let Gpu { device, queue } = &gpu;
    let gone = buffer(device, 16);
    gone.destroy();
    let error = download_blocking(device, queue, &(&gone).into()).unwrap_err();
    assert!(matches!(error, Error::Refused { .. } | Error::Readback { .. }), "{error}");
    let error = upload_blocking(device, queue, &(&gone).into(), &[0; 64]).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    running(&gpu).verified_step();
}

#[test]
fn a_buffer_of_another_device_is_refused_both_ways() {
    let Some((gpu, other)) = pair() else { return };
    let Gpu { device, queue } = &gpu;
    let foreign = buffer(&other.device, 16);
    let error = download_blocking(device, queue, &(&foreign).into()).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let error = upload_blocking(device, queue, &(&foreign).into(), &[0; 64]).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

#[test]
fn a_buffer_that_is_mapped_is_refused() {
    let Some(gpu) = gpu() else { return };
    let Gpu { device, queue } = &gpu;
    let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let descriptor = wgpu::BufferDescriptor { label: None, size: 64, usage, mapped_at_creation: true };
    let mapped = device.create_buffer(&descriptor);
    let error = download_blocking(device, queue, &(&mapped).into()).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let error = upload_blocking(device, queue, &(&mapped).into(), &[0; 64]).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

#[test]
fn slices_of_wgpu_are_ranges() {
    let Some(gpu) = gpu() else { return };
    let buffer = buffer(&gpu.device, 16);
    let range = BufferRange::from(buffer.slice(8..24));
    assert_eq!((range.offset(), range.size(), range.len()), (8, 16, 4));
    assert_eq!(BufferRange::from(buffer.slice(..)), BufferRange::from(&buffer));
    assert_eq!(BufferRange::from(buffer.slice(60..)), BufferRange::new(&buffer, 60, 4));
    assert!(!range.is_empty());
}
