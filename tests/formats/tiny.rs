//! Second moments at the edge of normal numbers, which a device may take for 0.

use wgpu_optim::format::{Formats, StateFormat};
use wgpu_optim::readback::download_blocking;
use wgpu_optim::{Adam, BufferRange, Group, Optimizer, Rule, Tensor, wgpu};

use crate::support::{Gpu, gpu};

const LEN: usize = 256;
/// So small that 3.25e-7 of it, the least that a guarded second moment becomes, is no normal number.
const SCALE: f32 = 1e-33;
const STEPS_BEFORE: u64 = 10;

/// First moments as large as their second ones allow, and these: one is the scale, all others become the least.
fn moments() -> [Vec<f32>; 2] {
    let first = (0..LEN).map(|i| 1e-18 * (1.0 + i as f32 / LEN as f32)).collect();
    [first, (0..LEN).map(|i| if i == 0 { SCALE } else { 1e-41 }).collect()]
}

fn optimizer(gpu: &Gpu) -> (Optimizer<Adam>, BufferRange) {
    let Gpu { device, queue } = gpu;
    let buffer = || {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let (label, size) = (None, 4 * LEN as u64);
        device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
    };
    // Parameters of 0, so that what is left of them is the update; gradients of 0.
    let params = buffer();
    let settings = Adam { lr: 1.0, ..Adam::PYTORCH };
    let formats = Formats { state: StateFormat::Q8, q8_min: 1, ..Formats::default() };
    let group = Group::new(settings, [Tensor::new("w", &params, &buffer())]).with_formats(formats);
    let mut optimizer = Optimizer::with_groups(device, [group]).unwrap();
    for (slot, values) in ["exp_avg", "exp_avg_sq"].into_iter().zip(moments()) {
        optimizer.write_state_blocking(device, queue, "w", slot, &values).unwrap();
    }
    optimizer.set_step("w", STEPS_BEFORE).unwrap();
    (optimizer, BufferRange::from(&params))
}

/// What the library's documents say of it: beside eps it is nothing, and the update is below 1e-9 of lr.
#[test]
fn a_second_moment_that_a_device_flushes_is_nothing_beside_eps() {
    let Some(gpu) = gpu() else { return };
    let Gpu { device, queue } = &gpu;
    let (mut optimizer, params) = optimizer(&gpu);
    let codes = |optimizer: &Optimizer<Adam>| {
        let ranges = optimizer.state_ranges("w", "exp_avg_sq").unwrap();
        download_blocking(device, queue, &ranges[0]).unwrap()
    };
    assert!(codes(&optimizer)[1..].iter().all(|&code| code == 1), "{:?}", codes(&optimizer));
    let read = |slot: &str| optimizer.read_state_blocking(device, queue, "w", slot).unwrap();
    let (first, second) = (read("exp_avg"), read("exp_avg_sq"));
    assert!(second[1..].iter().all(|&v| v > 0.0 && v < f32::MIN_POSITIVE), "{second:?}");
    optimizer.step_blocking(device, queue).unwrap();

    let settings = optimizer.settings(0).unwrap();
    let hyper = settings.fold(STEPS_BEFORE + 1);
    let found = download_blocking(device, queue, &params).unwrap();
    let found = bytemuck::pod_collect_to_vec::<u8, f32>(&found);
    for (i, (&found, (&m, &v))) in found.iter().zip(first.iter().zip(&second)).enumerate() {
        for v in [v, 0.0] {
            let (exact, _) = settings.update(&hyper, 0.0, 0.0, [m.into(), v.into(), 0.0]);
            let error = (f64::from(found) - exact).abs();
            assert!(error <= 4e-6 * exact.abs() && exact.abs() < 1e-9, "{i}: {found:e} for {exact:e}");
        }
    }
    // It stays what it was, or is 0 from now on.
    let after = codes(&optimizer);
    assert_eq!(after[0], 255);
    assert!(after[1..].iter().all(|&code| code <= 1), "{after:?}");
    println!("this device {}", if after[1] == 0 { "flushes it" } else { "keeps it" });
}
