//! Memory: a checkpoint goes through in chunks. One test in a process of its own, since it looks at the whole process.

#![cfg(target_os = "linux")]

mod support;

use std::fs;

use wgpu_optim::checkpoint::{Checkpoint, Load, Save};
use wgpu_optim::{Adam, Arena, Optimizer, cpu};

use support::Gpu;

/// One tensor, so that a slot that lies in memory whole cannot be overlooked: 96 MiB each, 288 MiB with the parameters.
const LEN: usize = 24 << 20;
const SLOT: u64 = 4 * LEN as u64;

/// A line of /proc/self/status, in bytes.
fn status(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// How much more memory than before was held at once while `work` ran. Pages of files that were read do not count.
fn peak(work: impl FnOnce()) -> Option<u64> {
    // Lets the peak start from what is held now.
    fs::write("/proc/self/clear_refs", "5").ok()?;
    let before = status("VmHWM");
    work();
    Some(status("VmHWM").saturating_sub(before))
}

fn holds_no_slot(what: &str, work: impl FnOnce()) {
    match peak(work) {
        Some(peak) => {
            println!("{what}: {:.1} MiB more at its peak, a slot has {} MiB", peak as f64 / 1048576.0, SLOT >> 20);
            assert!(peak < SLOT / 2, "{what} took {peak} bytes, a slot has {SLOT}");
        }
        None => eprintln!("\n*** SKIPPED: this system does not tell the peak of memory ***\n"),
    }
}

#[test]
fn no_slot_lies_in_memory_whole_beside_the_optimizers_own() {
    // A slot that lies there whole would be seen.
    let seen = peak(|| drop(std::hint::black_box(vec![1u8; SLOT as usize])));
    assert!(seen.is_none_or(|peak| peak >= SLOT / 10 * 9), "{SLOT} bytes were held, {seen:?} were seen");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.safetensors");
    on_the_cpu(&path);
    if let Some(gpu) = support::gpu() {
        on_the_gpu(&gpu, &path);
    }
}

fn on_the_cpu(path: &std::path::Path) {
    let mut optimizer = cpu::Optimizer::<Adam, f32>::new(Adam::PYTORCH, [("w", LEN)]).unwrap();
    let mut params = vec![1.0f32; LEN];
    // All of the state is touched, so that its memory is there before anything is measured.
    optimizer.step(&mut [&mut params], &[&vec![0.5; LEN]]).unwrap();
    holds_no_slot("save on the CPU", || {
        optimizer.save(path, &Save { params: Some(&[&params]), ..Default::default() }).unwrap();
    });
    holds_no_slot("load on the CPU", || {
        let checkpoint = Checkpoint::open(path).unwrap();
        optimizer.load(&checkpoint, Load { params: Some(&mut [&mut params]), ..Default::default() }).unwrap();
    });
}

/// A software adapter's memory is the process's own, which is why the arena is made and filled before.
fn on_the_gpu(Gpu { device, queue }: &Gpu, path: &std::path::Path) {
    let arena = Arena::new(device, [("w", LEN as u64)]).unwrap();
    let mut optimizer = Optimizer::new(device, Adam::PYTORCH, arena.tensors()).unwrap();
    let load = || Load { params: true, ..Default::default() };
    let checkpoint = Checkpoint::open(path).unwrap();
    optimizer.load_blocking(device, queue, &checkpoint, load()).unwrap();
    holds_no_slot("load on the GPU", || drop(optimizer.load_blocking(device, queue, &checkpoint, load()).unwrap()));
    let again = path.with_extension("again");
    holds_no_slot("save on the GPU", || {
        optimizer.save_blocking(device, queue, &again, &Save { params: true, ..Default::default() }).unwrap();
    });
    assert_eq!(fs::read(path).unwrap(), fs::read(again).unwrap());
}
