//! Every pair of formats, at every length, side by side without a gap.

use wgpu_optim::format::{Format, Formats, Rounding, StateFormat};
use wgpu_optim::{Adam, AdamW, RmsProp, Rule};

use crate::expected::{Step, World};
use crate::stand::Stand;
use crate::support::{Gpu, gpu};

const ALL: [Format; 3] = [Format::F32, Format::F16, Format::Bf16];

/// How parameters of a format may be kept: rounding, and whether there is a master.
fn ways(params: Format) -> Vec<(Rounding, bool)> {
    let mut ways = vec![(Rounding::Nearest, false), (Rounding::Stochastic, false)];
    if params != Format::F32 {
        ways.extend([(Rounding::Kahan, false), (Rounding::Nearest, true), (Rounding::Stochastic, true)]);
    }
    ways
}

fn every_pair(gpu: &Gpu, state: StateFormat) {
    for params in ALL {
        for (rounding, master) in ways(params) {
            for grads in ALL {
                let formats =
                    Formats { params, grads, state, rounding, master, q8_min: 256, seed: 7, ..Formats::default() };
                // Once side by side, once apart by an odd number.
                let gaps: &[usize] = if grads == params { &[0] } else { &[7, 0, 1] };
                three_steps(gpu, &Adam { lr: 0.05, ..AdamW::PYTORCH }, &formats, gaps);
            }
        }
    }
}

fn three_steps<R: Rule>(gpu: &Gpu, settings: &R, formats: &Formats, gaps: &[usize]) {
    let mut stand = Stand::new(gpu, settings, formats, gaps);
    let start = stand.worlds();
    for step in 0..3 {
        stand.write_grads(step);
        stand.verified_step();
    }
    let moved = start.iter().zip(stand.worlds()).all(|(start, end)| start.params != end.params);
    assert!(moved, "a tensor stands still in {formats:?}");
}

#[test]
fn params_and_gradients_with_state_of_32_bits() {
    let Some(gpu) = gpu() else { return };
    every_pair(&gpu, StateFormat::F32);
}

#[test]
fn params_and_gradients_with_state_of_16_bits() {
    let Some(gpu) = gpu() else { return };
    every_pair(&gpu, StateFormat::Bf16);
}

#[test]
fn params_and_gradients_with_state_of_8_bits() {
    let Some(gpu) = gpu() else { return };
    every_pair(&gpu, StateFormat::Q8);
}

#[test]
fn other_rules_and_slots_of_formats_of_their_own() {
    let Some(gpu) = gpu() else { return };
    let whole = RmsProp { momentum: 0.9, centered: true, clamp_centered: true, ..RmsProp::PYTORCH };
    let amsgrad = Adam { amsgrad: true, lr: 0.01, ..Adam::PYTORCH };
    let of = |slots: &[(&str, StateFormat)]| slots.iter().map(|(slot, format)| (slot.to_string(), *format)).collect();
    let bf16 = Formats { params: Format::Bf16, grads: Format::Bf16, q8_min: 256, ..Formats::default() };
    let mixed = [("grad_avg", StateFormat::Q8), ("square_avg", StateFormat::Bf16)];
    three_steps(&gpu, &whole, &Formats { slots: of(&mixed), rounding: Rounding::Stochastic, ..bf16.clone() }, &[0]);
    three_steps(&gpu, &whole, &Formats { state: StateFormat::Q8, ..bf16.clone() }, &[0]);
    let mixed = [("exp_avg", StateFormat::F32), ("max_exp_avg_sq", StateFormat::Q8)];
    let kahan = Formats { state: StateFormat::Bf16, rounding: Rounding::Kahan, params: Format::F16, ..bf16 };
    three_steps(&gpu, &amsgrad, &Formats { slots: of(&mixed), ..kahan }, &[3]);
}

/// The comparison that all of this goes through, shown to fail.
#[test]
fn one_code_beside_the_one_that_it_should_be_is_noticed() {
    let Some(gpu) = gpu() else { return };
    let formats = Formats { params: Format::Bf16, grads: Format::Bf16, q8_min: 256, ..Formats::default() };
    let mixed = [("exp_avg".to_string(), StateFormat::Q8), ("exp_avg_sq".to_string(), StateFormat::Bf16)].into();
    let formats = Formats { slots: mixed, ..formats };
    let settings = Adam { lr: 0.05, amsgrad: true, ..Adam::PYTORCH };
    let mut stand = Stand::new(&gpu, &settings, &formats, &[0]);
    let before = stand.worlds();
    stand.step();
    let after = stand.worlds();
    let step = Step { settings: &settings, formats: &formats, name: "tensor 7", number: 1 };
    let wrong = |change: &dyn Fn(&mut World)| {
        let mut world = after[7].clone();
        change(&mut world);
        step.compare(&before[7], &world).wrong
    };
    let off = step.compare(&before[7], &after[7]);
    assert!(off.holds(), "{off:?}");
    // Every element by itself: none is so uncertain that its neighbour would do.
    for element in (0..5000).step_by(7) {
        assert_eq!(wrong(&|world| world.params[element] ^= 1), 1, "parameter {element}");
        let up = |world: &mut World| world.slots[0].codes[element] = world.slots[0].codes[element].wrapping_add(1);
        assert_eq!(wrong(&up), 1, "exp_avg {element}");
        let up = |world: &mut World| {
            world.slots[1].values[element] = f32::from_bits(world.slots[1].values[element].to_bits() + (1 << 16));
        };
        assert_eq!(wrong(&up), 1, "exp_avg_sq {element}");
        assert_eq!(wrong(&|world| world.slots[2].values[element] += 1e-8), 1, "max_exp_avg_sq {element}");
        assert_eq!(wrong(&|world| world.params[element] = 0x7fc0), 1, "a parameter that is no number");
    }
    assert!(wrong(&|world| world.slots[0].scales[19] *= 1.0001) > 0);
}
