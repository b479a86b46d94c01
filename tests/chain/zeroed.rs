//! Gradients that the step leaves as zeros.

use wgpu_optim::{Adam, BufferRange, Chain, Clip, Error, Group, Kernels, Optimizer, Tensor};

use crate::bench::{Bench, SPECS, grads, scaler, small};
use crate::support;

fn chains() -> [Chain; 3] {
    let zero = Chain { zero_grads: true, ..Chain::default() };
    [
        zero.clone(),
        Chain { clip: Some(Clip::global_norm(0.5)), ..zero.clone() },
        Chain { clip: Some(Clip::tensor_norm(0.5)), scaler: Some(scaler()), ..zero },
    ]
}

#[test]
fn gradients_are_zeros_after_a_step_and_nothing_else_is() {
    let Some(gpu) = small() else { return };
    let groups = [Adam::PYTORCH, Adam::KERAS];
    for chain in chains() {
        let mut bench = Bench::new(&gpu, &chain, &groups, &SPECS);
        let mut kept = Bench::new(&gpu, &Chain { zero_grads: false, ..chain.clone() }, &groups, &SPECS);
        bench.optimizer.freeze(["t2"]).unwrap();
        kept.optimizer.freeze(["t2"]).unwrap();
        let grads = grads(&SPECS, 0, 1024.0);
        bench.step(&grads);
        kept.step(&grads);
        let (ours, theirs) = (bench.world(), kept.world());
        assert!(ours.params == theirs.params && ours.slots == theirs.slots, "{chain:?} made another step");
        bench.check_canaries();
        for (i, own) in grads.iter().enumerate() {
            let left: Vec<f32> = bytemuck::cast_vec(crate::bench::download(&gpu, &bench.grad(i)));
            let expected = if i == 2 { own.clone() } else { vec![0.0; own.len()] };
            assert_eq!(left, expected, "{chain:?}: the gradient of t{i}");
        }
    }
}

#[test]
fn gradients_are_zeros_after_a_skipped_step() {
    let Some(gpu) = small() else { return };
    let mut bench = Bench::new(&gpu, &chains()[2], &[Adam::PYTORCH, Adam::KERAS], &SPECS);
    let before = bench.world();
    let mut bad = grads(&SPECS, 0, 1024.0);
    bad[5][4098] = f32::NAN;
    bench.step(&bad);
    bench.check_canaries();
    let after = bench.world();
    assert!(after.params == before.params && after.slots == before.slots);
    for i in 0..SPECS.len() {
        let left = crate::bench::download(&gpu, &bench.grad(i));
        assert!(left.iter().all(|&word| word == 0), "t{i} keeps what was not finite");
    }
    // It is gone: the next step is taken.
    let mut encoder = bench.encoder();
    bench.record(&mut encoder);
    gpu.queue.submit([encoder.finish()]);
    assert_eq!(bench.scaler(), (512.0, 1, 1));
}

/// Tensors of one gradient are each stepped by it, so that none of them may zero it.
#[test]
fn a_gradient_that_tensors_share_is_not_zeroed() {
    let Some(gpu) = support::gpu() else { return };
    let bench = Bench::new(&gpu, &Chain::default(), &[Adam::PYTORCH], &[(0, 0, 64), (0, 0, 64)]);
    let [a, b] = bench.optimizer.tensors() else { panic!("two tensors") };
    let tied = [a.clone(), Tensor::new("tied", b.params().clone(), a.grads().clone())];
    let zero = Chain { zero_grads: true, ..Chain::default() };
    let kernels = Kernels::new(&gpu.device).unwrap();
    let new = |chain: &Chain, tensors: [Tensor; 2]| {
        Optimizer::with_chain(&gpu.device, &kernels, chain.clone(), [Group::new(Adam::PYTORCH, tensors)])
    };
    let error = new(&zero, tied.clone()).unwrap_err();
    let (start, end) = (a.grads().offset(), a.grads().offset() + 256);
    let message = r#"gradient of "t0" and gradient of "tied" overlap"#;
    assert!(error.to_string().starts_with(message), "{error}");
    assert!(matches!(error, Error::Overlap { start: s, end: e, .. } if (s, e) == (start, end)), "{error}");
    // Without zeroing they may share it, until zeroing is asked for.
    let mut optimizer = new(&Chain::default(), tied).unwrap();
    assert!(optimizer.retune_chain(zero.clone()).unwrap_err().to_string().starts_with(message));
    assert_eq!(optimizer.chain(), &Chain::default());
    optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
    // Nor may one be moved there.
    let mut optimizer = new(&zero, [a.clone(), b.clone()]).unwrap();
    let there: BufferRange = a.grads().clone();
    assert!(matches!(optimizer.rebind_grads(&gpu.device, [("t1", there)]), Err(Error::Overlap { .. })));
    optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
}

#[test]
fn zeroing_can_be_turned_on_between_steps() {
    let Some(gpu) = support::gpu() else { return };
    let mut bench = Bench::new(&gpu, &Chain::default(), &[Adam::PYTORCH, Adam::PYTORCH], &SPECS);
    let grads = grads(&SPECS, 0, 1.0);
    bench.step(&grads);
    let before = bench.world().grads;
    bench.optimizer.retune_chain(Chain { zero_grads: true, ..Chain::default() }).unwrap();
    bench.step(&grads);
    assert_ne!(bench.world().grads, before);
    bench.optimizer.retune_chain(Chain::default()).unwrap();
    bench.step(&grads);
    assert_eq!(bench.world().grads, before);
}
