//! A lost device and a full memory come back as errors that say so, and never as a panic.

use wgpu_optim::{Adam, Arena, BufferRange, Error, Group, Optimizer, readback, wgpu};

use crate::stand::{Stand, at, buffer, encoder, noop, own, running};
use crate::support::{Gpu, gpu, gpu_with};

/// A running optimizer on a device that is then lost.
fn lost() -> Option<Stand<Adam>> {
    let gpu = gpu_with(wgpu_optim::required_limits)?;
    let stand = running(&gpu);
    gpu.device.destroy();
    Some(stand)
}

fn assert_lost<T>(answer: Result<T, Error>) {
    match answer {
        Ok(_) => panic!("a lost device did as it was told"),
        Err(Error::DeviceLost { .. }) => {}
        Err(other) => panic!("a lost device was taken for another failure: {other}"),
    }
}

#[test]
fn reading_the_state_of_a_lost_device_says_that_it_is_lost() {
    let Some(stand) = lost() else { return };
    let Gpu { device, queue } = &stand.gpu;
    let error = stand.optimizer.read_state_blocking(device, queue, "fc1.bias", "exp_avg").unwrap_err();
    assert!(error.to_string().starts_with("the device was lost while "), "{error}");
    assert_lost::<()>(Err(error));
}

#[test]
fn downloading_from_a_lost_device_says_that_it_is_lost() {
    let Some(stand) = lost() else { return };
    let Gpu { device, queue } = &stand.gpu;
    assert_lost(readback::download_blocking(device, queue, stand.optimizer.tensors()[0].params()));
}

#[test]
fn uploading_to_a_lost_device_says_that_it_is_lost() {
    let Some(stand) = lost() else { return };
    let Gpu { device, queue } = &stand.gpu;
    let range = stand.optimizer.tensors()[1].params();
    assert_lost(readback::upload_blocking(device, queue, range, &[0; 36]));
    let values = [0.5; 9];
    assert_lost(stand.optimizer.write_state_blocking(device, queue, "fc1.bias", "exp_avg", &values));
}

#[test]
fn recording_on_a_lost_device_does_not_panic() {
    let Some(mut stand) = lost() else { return };
    let mut encoder = encoder(&stand.gpu);
    for _ in 0..3 {
        // Loss may show at readback alone; where it shows, it is called by its name.
        if let Err(error) = stand.optimizer.record(&stand.gpu.device, &mut encoder) {
            assert_lost::<()>(Err(error));
        }
    }
    stand.gpu.queue.submit([encoder.finish()]);
}

#[test]
fn recording_on_a_lost_device_after_a_freeze_does_not_panic() {
    let Some(mut stand) = lost() else { return };
    stand.freeze(&["fc1.bias"]);
    let mut encoder = encoder(&stand.gpu);
    if let Err(error) = stand.optimizer.record(&stand.gpu.device, &mut encoder) {
        assert_lost::<()>(Err(error));
    }
}

#[test]
fn a_blocking_step_on_a_lost_device_says_that_it_is_lost() {
    let Some(mut stand) = lost() else { return };
    let before = stand.optimizer.step_of("fc1.bias").unwrap();
    assert_lost(stand.optimizer.step_blocking(&stand.gpu.device, &stand.gpu.queue));
    assert_eq!(stand.optimizer.step_of("fc1.bias").unwrap(), before, "a refused step was counted");
}

#[test]
fn building_on_a_lost_device_says_that_it_is_lost() {
    let Some(stand) = lost() else { return };
    let device = &stand.gpu.device;
    let tensors = || [own(device, "w", 64)];
    assert_lost(Optimizer::new(device, Adam::PYTORCH, tensors()));
    // wgpu makes buffers on it without a word; what uses them is refused, as above.
    if let Err(error) = Arena::new(device, [("w", 64)]) {
        assert_lost::<()>(Err(error));
    }
    let mut optimizer = stand.optimizer;
    assert_lost(optimizer.add_tensors(device, 0, tensors()));
    assert_lost(optimizer.add_group(device, Group::new(Adam { amsgrad: true, ..Adam::PYTORCH }, tensors())));
    let fresh = BufferRange::from(&buffer(device, 9));
    assert_lost(optimizer.rebind_grads(device, [("fc1.bias", fresh)]));
}

#[test]
fn the_loss_of_one_device_leaves_another_alone() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    drop(lost());
    stand.verified_step();
}

#[test]
fn the_callers_callback_for_loss_is_left_to_the_caller() {
    let Some(gpu) = gpu_with(wgpu_optim::required_limits) else { return };
    let (sender, told) = std::sync::mpsc::channel();
    gpu.device.set_device_lost_callback(move |_, _| sender.send(()).unwrap());
    let stand = running(&gpu);
    gpu.device.destroy();
    let read = stand.optimizer.read_state_blocking(&gpu.device, &gpu.queue, "fc1.bias", "exp_avg");
    assert_lost(read);
    // wgpu calls back when it is polled.
    let _ = gpu.device.poll(wgpu::PollType::Poll);
    told.try_recv().expect("the caller was not told");
}

/// Memory runs out in a process of its own, whose address space is held to 1.25 GiB.
#[test]
#[cfg(target_os = "linux")]
fn memory_that_is_not_there_is_told_with_its_size() {
    const HELD: &str = "WGPU_OPTIM_TEST_HELD";
    if std::env::var_os(HELD).is_some() {
        return out_of_memory();
    }
    let script = "ulimit -v 1310720 && exec \"$0\" --exact loss::memory_that_is_not_there_is_told_with_its_size";
    let mut shell = std::process::Command::new("sh");
    let held = shell.arg("-c").arg(script).arg(std::env::current_exe().unwrap()).env(HELD, "1").output().unwrap();
    let told = String::from_utf8_lossy(&held.stdout);
    assert!(held.status.success() && told.contains("1 passed"), "{told}{}", String::from_utf8_lossy(&held.stderr));
}

fn out_of_memory() {
    let gpu = noop(wgpu::Limits { max_buffer_size: i32::MAX as u64, ..wgpu::Limits::default() });
    let large = (i32::MAX as u64 / 4) & !1023;
    let error = Arena::new(&gpu.device, [("w", large)]).unwrap_err();
    let Error::OutOfMemory { doing, .. } = &error else { panic!("{error}") };
    assert!(doing.contains(&format!("{} bytes", large * 4)), "{doing}");
    assert!(error.to_string().starts_with("out of memory while "), "{error}");
    // The device goes on, and so does what was on it.
    let arena = Arena::new(&gpu.device, [("w", 64)]).unwrap();
    let mut optimizer = Optimizer::new(&gpu.device, Adam::PYTORCH, arena.tensors()).unwrap();
    optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
    state_out_of_memory(&gpu, optimizer);
}

/// 640 MiB of parameters and gradients fit, and as much of state beside them do not.
fn state_out_of_memory(gpu: &Gpu, mut optimizer: Optimizer<Adam>) {
    let tensor = own(&gpu.device, "large", 80 << 20);
    let error = optimizer.add_tensors(&gpu.device, 0, [tensor]).unwrap_err();
    let Error::OutOfMemory { doing, .. } = &error else { panic!("{error}") };
    assert!(doing.contains("bytes of state"), "{doing}");
    assert_eq!(optimizer.tensors().len(), 1);
    optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
    assert_eq!(optimizer.step_of("w").unwrap(), 2);
}

/// `destroy` frees memory at once, as WebGPU has it; what the encoder holds must not crash the recording.
#[test]
fn recording_over_a_destroyed_buffer_leaves_the_error_to_the_submit() {
    let Some(gpu) = gpu() else { return };
    let buffers = [buffer(&gpu.device, 64), buffer(&gpu.device, 64)];
    let mut optimizer = Optimizer::new(&gpu.device, Adam::PYTORCH, [at("w", &buffers, 0, 64)]).unwrap();
    buffers[1].destroy();
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let mut encoder = encoder(&gpu);
    let recorded = optimizer.record(&gpu.device, &mut encoder);
    gpu.queue.submit([encoder.finish()]);
    let told = pollster::block_on(scope.pop());
    assert!(recorded.is_err() || told.is_some(), "nobody was told");
    running(&gpu).verified_step();
}
