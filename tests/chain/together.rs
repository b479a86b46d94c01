//! Groups that are clipped together have one norm: on the device, on the twin and on the fast CPU.

use wgpu_optim::{Adam, Arena, Chain, Clip, ClipForm, Error, Group, Kernels, Optimizer, cpu, readback};

use crate::support::{self, Gpu};

/// A group each.
const TENSORS: [(&str, usize); 5] = [("a", 300), ("b", 5), ("c", 1030), ("d", 64), ("e", 700)];
const MAX: f64 = 1e-2;

/// Of another size in each, so that whose norm it is shows.
fn grads() -> Vec<Vec<f32>> {
    let of =
        |(size, (_, len)): (f32, (&str, usize))| (0..len).map(|i| size * (((i * 37) % 29) as f32 - 13.5)).collect();
    [3.0, 0.2, 10.0, 0.5, 0.01].into_iter().zip(TENSORS).map(of).collect()
}

fn chain() -> Chain {
    Chain { clip: Some(Clip { form: ClipForm::Keras, ..Clip::group_norm(MAX) }), ..Chain::default() }
}

/// `exp_avg` after the first step, where each group is clipped with those of the same number.
fn expected(sets: [usize; 5]) -> Vec<Vec<f64>> {
    let grads = grads();
    let squares = |grads: &Vec<f32>| grads.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
    let own = |set: usize| (0..5).filter(|&group| sets[group] == set).map(|group| squares(&grads[group])).sum::<f64>();
    let clipped = |(grads, set): (&Vec<f32>, usize)| {
        let factor = MAX / own(set).sqrt();
        assert!(factor < 1.0);
        grads.iter().map(|&g| (1.0 - Adam::PYTORCH.beta1) * factor * f64::from(g)).collect()
    };
    grads.iter().zip(sets).map(clipped).collect()
}

fn holds(found: &[Vec<f32>], sets: [usize; 5], what: &str) {
    for ((found, expected), (name, _)) in found.iter().zip(expected(sets)).zip(TENSORS) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            let error = (f64::from(*found) - expected).abs();
            assert!(error <= 2e-6 * expected.abs(), "{what}, {name}: {found} for {expected}");
        }
    }
}

/// One step on the device, after these calls.
fn on_gpu(gpu: &Gpu, pairs: &[(usize, usize)]) -> Vec<Vec<f32>> {
    let Gpu { device, queue } = gpu;
    let arena = Arena::new(device, TENSORS.map(|(name, len)| (name, len as u64))).unwrap();
    let groups = arena.tensors().into_iter().map(|tensor| Group::new(Adam::PYTORCH, [tensor]));
    let mut optimizer = Optimizer::with_chain(device, &Kernels::new(device).unwrap(), chain(), groups).unwrap();
    pairs.iter().for_each(|&(group, with)| optimizer.clip_together(group, with).unwrap());
    let error = optimizer.clip_together(1, 5).unwrap_err();
    assert_eq!(error, Error::UnknownGroup { group: 5, groups: 5 });
    for ((name, _), grads) in TENSORS.iter().zip(grads()) {
        let range = arena.grads(name).unwrap();
        readback::upload_blocking(device, queue, range, bytemuck::cast_slice(&grads)).unwrap();
    }
    optimizer.step_blocking(device, queue).unwrap();
    TENSORS.map(|(name, _)| optimizer.read_state_blocking(device, queue, name, "exp_avg").unwrap()).into()
}

type Step = fn(&mut cpu::Optimizer<Adam, f32>, &mut [&mut [f32]], &[&[f32]]) -> Result<(), Error>;

fn on_cpu(by: Step, pairs: &[(usize, usize)]) -> Vec<Vec<f32>> {
    let mut optimizer = cpu::Optimizer::with_chain(chain()).unwrap();
    for tensor in TENSORS {
        optimizer.add_group(Adam::PYTORCH, [tensor]).unwrap();
    }
    pairs.iter().for_each(|&(group, with)| optimizer.clip_together(group, with).unwrap());
    let error = optimizer.clip_together(5, 1).unwrap_err();
    assert_eq!(error, Error::UnknownGroup { group: 5, groups: 5 });
    let (mut params, grads) = (TENSORS.map(|(_, len)| vec![0.5; len]), grads());
    let mut params: Vec<&mut [f32]> = params.iter_mut().map(Vec::as_mut_slice).collect();
    by(&mut optimizer, &mut params, &grads.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    TENSORS.map(|(name, _)| optimizer.state(name, "exp_avg").unwrap().to_vec()).into()
}

/// Calls of `clip_together`.
type Pairs = &'static [(usize, usize)];

/// Calls, and the sets that they make: none; two, one of them an earlier group with a later one; chains of them.
const CASES: [(Pairs, [usize; 5]); 4] = [
    (&[], [0, 1, 2, 3, 4]),
    (&[(2, 0), (1, 4)], [0, 1, 0, 3, 1]),
    (&[(3, 1), (1, 0), (4, 2)], [0, 0, 2, 0, 2]),
    (&[(1, 0), (2, 1), (3, 2), (4, 3)], [0; 5]),
];

#[test]
fn groups_that_are_clipped_together_are_clipped_by_the_norm_of_all_of_them() {
    for (pairs, sets) in CASES {
        holds(&on_cpu(cpu::Optimizer::step, pairs), sets, "twin");
        #[cfg(feature = "parallel")]
        holds(&on_cpu(cpu::Optimizer::step_parallel, pairs), sets, "fast CPU");
        let Some(gpu) = support::gpu() else { continue };
        holds(&on_gpu(&gpu, pairs), sets, "device");
    }
}

#[test]
fn those_that_are_not_are_clipped_by_another_norm() {
    let alone = on_cpu(cpu::Optimizer::step, CASES[0].0);
    let joined = on_cpu(cpu::Optimizer::step, CASES[1].0);
    let same = |group: usize| alone[group] == joined[group];
    assert_eq!([0, 1, 2, 3, 4].map(same), [false, false, false, true, false]);
}
