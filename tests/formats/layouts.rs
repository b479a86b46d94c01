//! Windows, encoders, arenas, chains: what is around a step does not change what formats make of it.

use wgpu_optim::format::{Format, Formats, MASTER, Q8Zero, Rounding, StateFormat};
use wgpu_optim::{Adam, Arena, Chain, Clip, Ema, Group, Optimizer, RmsProp, Scaler, wgpu};

use crate::stand::{LENS, Stand, numbers};
use crate::support::{Gpu, gpu, gpu_with};

fn small() -> Option<Gpu> {
    gpu_with(|_| wgpu::Limits {
        max_storage_buffer_binding_size: 16 << 10,
        max_buffer_size: 64 << 10,
        max_compute_workgroups_per_dimension: 7,
        ..wgpu::Limits::default()
    })
}

/// Formats that differ in what they keep.
fn several() -> [Formats; 4] {
    let bf16 = Formats { params: Format::Bf16, grads: Format::Bf16, q8_min: 256, seed: 3, ..Formats::default() };
    [
        Formats { state: StateFormat::Q8, rounding: Rounding::Stochastic, ..bf16.clone() },
        Formats { state: StateFormat::Bf16, rounding: Rounding::Kahan, params: Format::F16, ..bf16.clone() },
        Formats { state: StateFormat::Q8, master: true, q8_zero: Q8Zero::Reference, ..bf16.clone() },
        Formats { state: StateFormat::Bf16, rounding: Rounding::Stochastic, master: true, grads: Format::F32, ..bf16 },
    ]
}

#[test]
fn tensors_are_cut_into_windows() {
    let Some(gpu) = small() else { return };
    for formats in several() {
        let mut stand = Stand::new(&gpu, &Adam { lr: 0.01, ..Adam::PYTORCH }, &formats, &[0, 3]);
        stand.verified_step();
        stand.write_grads(2);
        stand.verified_step();
    }
}

#[test]
fn state_that_starts_elsewhere_than_at_zero() {
    let Some(gpu) = small() else { return };
    for formats in several() {
        let mut stand = Stand::new(&gpu, &RmsProp { initial_scale: 1.0, lr: 0.01, ..RmsProp::OPTAX }, &formats, &[0]);
        for world in stand.worlds() {
            assert!(world.slots[0].values.iter().all(|&v| v == 1.0), "{:?}", world.slots[0].storage);
        }
        stand.verified_step();
    }
}

#[test]
fn steps_in_one_encoder_are_the_steps_of_several_submits() {
    let Some(gpu) = gpu() else { return };
    for formats in several() {
        let ends = [1, 4].map(|steps_in_each| {
            let mut stand = Stand::new(&gpu, &Adam::PYTORCH, &formats, &[0]);
            for _ in 0..4 / steps_in_each {
                let mut encoder = gpu.device.create_command_encoder(&Default::default());
                (0..steps_in_each).for_each(|_| stand.optimizer.record(&gpu.device, &mut encoder).unwrap());
                gpu.queue.submit([encoder.finish()]);
            }
            stand.worlds()
        });
        assert!(ends[0] == ends[1], "{formats:?}");
    }
}

#[test]
fn another_seed_rounds_otherwise_and_the_same_one_alike() {
    let Some(gpu) = gpu() else { return };
    let formats = &several()[0];
    let end = |seed| {
        let mut stand = Stand::new(&gpu, &Adam::PYTORCH, &Formats { seed, ..formats.clone() }, &[0]);
        stand.step();
        stand.worlds()
    };
    assert!(end(1) == end(1));
    assert!(end(1)[7].params != end(2)[7].params);
}

/// Steps too small for the format: a master takes them, rounding to the nearest does not.
#[test]
fn a_master_goes_where_its_copy_cannot() {
    let Some(gpu) = gpu() else { return };
    let settings = Adam { lr: 1e-5, ..Adam::PYTORCH };
    let formats = Formats { params: Format::Bf16, master: true, ..Formats::default() };
    let mut stand = Stand::new(&gpu, &settings, &formats, &[1]);
    let before = stand.worlds();
    (0..4).for_each(|_| stand.step());
    let after = stand.worlds();
    let moved = |i: usize| after[i].slots.iter().find(|slot| slot.name == MASTER).unwrap().values.clone();
    let stood = numbers(Format::Bf16, &before[7]);
    assert!(moved(7).iter().zip(&stood).filter(|(master, start)| master != start).count() > 4000);
    // Written by others, they are taken again once the slot is cleared.
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    stand.optimizer.retake_params(&mut encoder, "tensor 7").unwrap();
    gpu.queue.submit([encoder.finish()]);
    stand.verified_step();
}

#[test]
fn an_arena_lends_each_role_its_own_width() {
    let Some(gpu) = gpu() else { return };
    for formats in several() {
        let names: Vec<String> = LENS.iter().map(|len| format!("{len}")).collect();
        let named = names.iter().zip(LENS).map(|(name, len)| (name.as_str(), len as u64));
        let arena = Arena::with_formats(&gpu.device, &formats, named).unwrap();
        let group = Group::new(Adam::PYTORCH, arena.tensors()).with_formats(formats.clone());
        let mut optimizer = Optimizer::with_groups(&gpu.device, [group]).unwrap();
        assert_eq!(optimizer.formats(0).unwrap(), &formats);
        assert_eq!(arena.params("5000").unwrap().size(), 5000 * formats.params.size());
        assert_eq!(arena.grads("5000").unwrap().size(), 5000 * formats.grads.size());
        optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
        // Gradients of zero move nothing, and zeros stay zeros.
        for slot in ["exp_avg", "exp_avg_sq"] {
            let values = optimizer.read_state_blocking(&gpu.device, &gpu.queue, "5000", slot).unwrap();
            assert!(values.iter().all(|value| value.to_bits() == 0), "{slot} of {formats:?}");
        }
    }
}

#[test]
fn a_chain_is_around_every_format() {
    let Some(gpu) = gpu() else { return };
    let chain = Chain {
        clip: Some(Clip::global_norm(1e6)),
        scaler: Some(Scaler { init_scale: 1.0, ..Scaler::PYTORCH }),
        ema: Some(Ema { decay: 0.5, ..Ema::KERAS }),
        accumulate: true,
        ..Chain::default()
    };
    for formats in several() {
        let settings = Adam { lr: 0.01, ..Adam::PYTORCH };
        let mut plain = Stand::new(&gpu, &settings, &formats, &[0, 3]);
        let mut around = Stand::chained(&gpu, &settings, &formats, &[0, 3], &chain);
        for step in 0..2 {
            plain.write_grads(step);
            around.write_grads(step);
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            around.optimizer.accumulate(&gpu.device, &mut encoder, 1.0).unwrap();
            gpu.queue.submit([encoder.finish()]);
            plain.step();
            around.step();
        }
        for (own, theirs) in plain.worlds().iter().zip(around.worlds()) {
            let same = own.params.iter().zip(&theirs.params).filter(|(a, b)| a == b).count();
            // Corrections of the device are some units off those of the host.
            assert!(same * 100 >= own.params.len() * 95, "{same} of {} in {formats:?}", own.params.len());
            let sums = theirs.slots.iter().find(|slot| slot.name == "accumulated_grad").unwrap();
            assert!(sums.values.iter().all(|&sum| sum == 0.0));
            let average = theirs.slots.iter().find(|slot| slot.name == "ema").unwrap();
            assert!(average.values.iter().all(|e| e.is_finite()) && average.values.iter().any(|&e| e != 0.0));
        }
    }
}

#[test]
fn a_step_that_is_left_out_leaves_no_trace() {
    let Some(gpu) = gpu() else { return };
    let chain = Chain { scaler: Some(Scaler { init_scale: 1.0, ..Scaler::PYTORCH }), ..Chain::default() };
    for formats in several() {
        let mut stand = Stand::chained(&gpu, &Adam { lr: 0.01, ..Adam::PYTORCH }, &formats, &[0], &chain);
        stand.step();
        let infinity = match formats.grads {
            Format::F32 => f32::INFINITY.to_le_bytes().to_vec(),
            Format::F16 => 0x7c00u16.to_le_bytes().to_vec(),
            Format::Bf16 => 0x7f80u16.to_le_bytes().to_vec(),
        };
        let own = stand.optimizer.tensors()[5].grads().clone();
        let range = wgpu_optim::BufferRange::new(
            own.buffer(),
            own.offset() + own.size() - infinity.len() as u64,
            infinity.len() as u64,
        );
        wgpu_optim::readback::upload_blocking(&gpu.device, &gpu.queue, &range, &infinity).unwrap();
        let before = stand.worlds();
        stand.step();
        assert!(stand.worlds() == before, "{formats:?}");
        stand.write_grads(4);
        stand.step();
        assert!(stand.worlds() != before);
    }
}
