//! Steps as they are recorded: several in an encoder, in passes of the caller's, retuned, frozen and thrown away.

use wgpu_optim::rule::Rule;
use wgpu_optim::{Adam, AdamW, AmsgradOver, BufferRange, Decay, Group, Optimizer, RmsProp, Tensor, cpu, wgpu};

use crate::stand::{Draw, Stand, World, at, buffer, download, encoder, floats, own, running, words, write};
use crate::support::{Gpu, gpu};

/// Tensors of many lengths in one flat buffer per role; twins have the same bits.
fn flat<R: Rule>(gpu: &Gpu, settings: R) -> Stand<R> {
    let buffers = [buffer(&gpu.device, 4096), buffer(&gpu.device, 4096)];
    let tensors = vec![
        at("a", &buffers, 64, 1021),
        at("b", &buffers, 1087, 255),
        at("c", &buffers, 1536, 1),
        at("d", &buffers, 2048, 1024),
    ];
    Stand::new(gpu, settings, tensors)
}

/// Gradients of `steps` steps, waiting on the device beside those of the stand.
fn waiting<R: Rule>(stand: &Stand<R>, steps: usize) -> Vec<wgpu::Buffer> {
    let mut draw = Draw(99);
    let size = stand.optimizer.tensors()[0].grads().buffer().size() / 4;
    let one = |_| {
        let waiting = buffer(&stand.gpu.device, size as usize);
        write(&stand.gpu, &(&waiting).into(), &draw.values(size, -9.0, 2.0));
        waiting
    };
    (0..steps).map(one).collect()
}

/// Copies gradients into place, as a backward pass of the caller's would in the same encoder.
fn backward<R: Rule>(stand: &Stand<R>, encoder: &mut wgpu::CommandEncoder, from: &wgpu::Buffer) {
    let grads = stand.optimizer.tensors()[0].grads().buffer().clone();
    encoder.copy_buffer_to_buffer(from, 0, &grads, 0, grads.size());
}

/// The worlds of one stand whose steps went into one encoder, and of its twin whose steps were submitted alone.
fn in_one_and_in_many<R: Rule>(gpu: &Gpu, settings: &R, steps: usize) -> [World; 2] {
    let [mut one, mut many] = [flat(gpu, settings.clone()), flat(gpu, settings.clone())];
    let grads = waiting(&one, steps);
    let mut together = encoder(gpu);
    for grads in &grads {
        backward(&one, &mut together, grads);
        one.optimizer.record(&gpu.device, &mut together).unwrap();
        let mut alone = encoder(gpu);
        backward(&many, &mut alone, grads);
        many.optimizer.record(&gpu.device, &mut alone).unwrap();
        gpu.queue.submit([alone.finish()]);
    }
    gpu.queue.submit([together.finish()]);
    [one.world(), many.world()]
}

#[test]
fn steps_in_one_encoder_are_those_of_as_many_submits_bit_for_bit() {
    let Some(gpu) = gpu() else { return };
    for steps in [2, 7] {
        let [one, many] = in_one_and_in_many(&gpu, &Adam { amsgrad: true, ..AdamW::PYTORCH }, steps);
        assert!(one == many, "adam, {steps} steps");
        let [one, many] = in_one_and_in_many(&gpu, &RmsProp { momentum: 0.9, ..RmsProp::KERAS }, steps);
        assert!(one == many, "rmsprop, {steps} steps");
    }
    // Bits that are equal because nothing happened would prove nothing.
    let [two, _] = in_one_and_in_many(&gpu, &Adam::PYTORCH, 2);
    let [three, _] = in_one_and_in_many(&gpu, &Adam::PYTORCH, 3);
    assert!(two != three);
}

#[test]
fn many_encoders_recorded_before_any_is_submitted_are_right_in_their_order() {
    let Some(gpu) = gpu() else { return };
    let [mut stand, mut twin] = [flat(&gpu, Adam::PYTORCH), flat(&gpu, Adam::PYTORCH)];
    let grads = waiting(&stand, 4);
    let mut recorded = Vec::new();
    for (step, grads) in grads.iter().enumerate() {
        let lr = 1e-3 * (step + 1) as f64;
        stand.retune(0, Adam { lr, ..Adam::PYTORCH });
        twin.retune(0, Adam { lr, ..Adam::PYTORCH });
        let mut later = encoder(&gpu);
        backward(&stand, &mut later, grads);
        stand.optimizer.record(&gpu.device, &mut later).unwrap();
        recorded.push(later.finish());
        let mut now = encoder(&gpu);
        backward(&twin, &mut now, grads);
        twin.optimizer.record(&gpu.device, &mut now).unwrap();
        gpu.queue.submit([now.finish()]);
    }
    gpu.queue.submit(recorded);
    assert!(stand.world() == twin.world());
}

#[test]
fn two_optimizers_interleaved_on_one_device_do_not_meet() {
    let Some(gpu) = gpu() else { return };
    let [mut a, mut a_alone] = [(); 2].map(|()| flat(&gpu, Adam::PYTORCH));
    let [mut b, mut b_alone] = [(); 2].map(|()| flat(&gpu, RmsProp { centered: true, ..RmsProp::KERAS }));
    let grads = waiting(&a, 3);
    let mut together = encoder(&gpu);
    for grads in &grads {
        backward(&a, &mut together, grads);
        backward(&b, &mut together, grads);
        a.optimizer.record(&gpu.device, &mut together).unwrap();
        b.optimizer.record(&gpu.device, &mut together).unwrap();
    }
    gpu.queue.submit([together.finish()]);
    for grads in &grads {
        let mut alone = encoder(&gpu);
        backward(&a_alone, &mut alone, grads);
        a_alone.optimizer.record(&gpu.device, &mut alone).unwrap();
        gpu.queue.submit([alone.finish()]);
    }
    for grads in &grads {
        let mut alone = encoder(&gpu);
        backward(&b_alone, &mut alone, grads);
        b_alone.optimizer.record(&gpu.device, &mut alone).unwrap();
        gpu.queue.submit([alone.finish()]);
    }
    assert!(a.world() == a_alone.world() && b.world() == b_alone.world());
}

#[test]
fn two_optimizers_over_one_gradient_both_read_it() {
    let Some(gpu) = gpu() else { return };
    let grads = buffer(&gpu.device, 300);
    let tensor = |name: &str| Tensor::new(name, &buffer(&gpu.device, 300), &grads);
    let mut adam = Stand::new(&gpu, Adam::PYTORCH, vec![tensor("a")]);
    let mut rmsprop = Stand::new(&gpu, RmsProp::PYTORCH, vec![tensor("b")]);
    adam.draw_grads();
    let before = (adam.world(), rmsprop.world());
    let mut both = encoder(&gpu);
    adam.optimizer.record(&gpu.device, &mut both).unwrap();
    rmsprop.optimizer.record(&gpu.device, &mut both).unwrap();
    gpu.queue.submit([both.finish()]);
    adam.verify(&before.0, &adam.world());
    rmsprop.verify(&before.1, &rmsprop.world());
}

/// A kernel of the caller's that doubles everything in a buffer.
struct Doubler {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    groups: u32,
}

impl Doubler {
    fn new(gpu: &Gpu, buffer: &wgpu::Buffer) -> Self {
        let text = "@group(0) @binding(0) var<storage, read_write> x: array<f32>;
            @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
                if id.x < arrayLength(&x) { x[id.x] = 2.0 * x[id.x]; }
            }";
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("the caller's shader"),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("the caller's pipeline"),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("the caller's bind group"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
        });
        Self { pipeline, bind_group, groups: (buffer.size() as u32 / 4).div_ceil(64) }
    }

    fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.groups, 1, 1);
    }
}

#[test]
fn a_step_in_the_callers_pass_sees_what_was_dispatched_before_it_and_is_seen_after_it() {
    let Some(gpu) = gpu() else { return };
    let [mut stand, mut twin] = [(); 2].map(|()| {
        let tensors = vec![own(&gpu.device, "w", 1000)];
        Stand::new(&gpu, Adam::PYTORCH, tensors)
    });
    let grads = floats(&download(&gpu, &{
        stand.draw_grads();
        stand.optimizer.tensors()[0].grads().clone()
    }));
    let double = |stand: &Stand<Adam>, role: fn(&Tensor) -> &BufferRange| {
        Doubler::new(&gpu, role(&stand.optimizer.tensors()[0]).buffer())
    };
    let (grads_doubler, params_doubler) = (double(&stand, Tensor::grads), double(&stand, Tensor::params));
    let mut one = encoder(&gpu);
    {
        let mut pass = one.begin_compute_pass(&Default::default());
        grads_doubler.dispatch(&mut pass);
        stand.optimizer.record_in(&gpu.device, &mut pass).unwrap();
        params_doubler.dispatch(&mut pass);
        stand.optimizer.record_in(&gpu.device, &mut pass).unwrap();
    }
    gpu.queue.submit([one.finish()]);
    // The same by hand.
    let doubled = |values: Vec<f32>| values.into_iter().map(|x| 2.0 * x).collect::<Vec<f32>>();
    let tensor = twin.optimizer.tensors()[0].clone();
    write(&gpu, tensor.grads(), &doubled(grads));
    twin.step();
    write(&gpu, tensor.params(), &doubled(floats(&download(&gpu, tensor.params()))));
    twin.step();
    assert!(stand.world() == twin.world());
    assert_eq!(stand.optimizer.step_of("w").unwrap(), 2);
}

#[test]
fn numbers_retuned_between_steps_are_used_from_the_next_step_on() {
    let Some(gpu) = gpu() else { return };
    let mut stand = flat(&gpu, AdamW::PYTORCH);
    stand.verified_step();
    for settings in [
        Adam { lr: 0.1, ..AdamW::PYTORCH },
        Adam { beta1: 0.5, beta2: 0.6, ..AdamW::PYTORCH },
        Adam { weight_decay: 0.3, eps: 1e-3, ..AdamW::PYTORCH },
        Adam { decay: Decay::L2, maximize: true, ..AdamW::PYTORCH },
        Adam { weight_decay: 0.0, ..Adam::KERAS },
    ] {
        stand.retune(0, settings);
        stand.verified_step();
    }
    assert_eq!(stand.optimizer.step_of("a").unwrap(), 6);
}

#[test]
fn momentum_and_alpha_are_retuned_and_the_lr_inside_the_buffer_is_that_of_its_step() {
    let Some(gpu) = gpu() else { return };
    let base = RmsProp { momentum: 0.9, nesterov: true, ..RmsProp::KERAS };
    let mut stand = flat(&gpu, base.clone());
    stand.verified_step();
    for (lr, momentum, alpha) in [(1.0, 0.5, 0.9), (1e-4, 0.99, 0.5), (0.0, 0.1, 0.0)] {
        stand.retune(0, RmsProp { lr, momentum, alpha, ..base.clone() });
        stand.verified_step();
    }
}

#[test]
fn retuning_one_group_leaves_the_other_alone() {
    let Some(gpu) = gpu() else { return };
    let buffers = [buffer(&gpu.device, 512), buffer(&gpu.device, 512)];
    let groups =
        vec![(Adam::PYTORCH, vec![at("a", &buffers, 0, 100)]), (AdamW::PYTORCH, vec![at("b", &buffers, 128, 100)])];
    let mut stand = Stand::with_groups(&gpu, groups);
    stand.verified_step();
    stand.retune(1, Adam { lr: 0.5, ..AdamW::PYTORCH });
    stand.verified_step();
    stand.retune(0, Adam { beta1: 0.0, ..Adam::PYTORCH });
    stand.verified_step();
    assert_eq!(stand.optimizer.settings(1).unwrap().lr, 0.5);
}

#[test]
fn a_schedule_of_a_thousand_rates_makes_no_pipeline() {
    let (instance, gpu) = crate::stand::noop_of(wgpu::Limits::default());
    let mut stand = Optimizer::new(&gpu.device, Adam::PYTORCH, [own(&gpu.device, "w", 1000)]).unwrap();
    let made = || {
        let report = instance.generate_report().unwrap().hub;
        (report.compute_pipelines.num_kept_from_user, report.shader_modules.num_kept_from_user)
    };
    let before = made();
    for step in 0..1000 {
        stand.retune(0, Adam { lr: 1e-3 / (1 + step) as f64, ..Adam::PYTORCH }).unwrap();
        let mut encoder = encoder(&gpu);
        stand.record(&gpu.device, &mut encoder).unwrap();
        gpu.queue.submit([encoder.finish()]);
    }
    assert_eq!(made(), before);
    assert!(before.0 > 0, "the report counts nothing");
}

#[test]
fn steps_leave_no_buffers_behind() {
    let (instance, gpu) = crate::stand::noop_of(wgpu::Limits::default());
    let mut optimizer = Optimizer::new(&gpu.device, Adam::PYTORCH, [own(&gpu.device, "w", 1000)]).unwrap();
    let alive = || instance.generate_report().unwrap().hub.buffers.num_kept_from_user;
    optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
    let before = alive();
    for _ in 0..100 {
        optimizer.step_blocking(&gpu.device, &gpu.queue).unwrap();
    }
    assert!(alive() <= before, "{} buffers after 100 steps, {before} before", alive());
}

/// An optimizer on the CPU that is told all that the one on the stand is told.
struct Twin {
    optimizer: cpu::Optimizer<Adam, f32>,
    params: Vec<Vec<f32>>,
}

impl Twin {
    fn of(stand: &Stand<Adam>) -> Self {
        let tensors = stand.optimizer.tensors();
        let named = tensors.iter().map(|tensor| (tensor.name(), tensor.params().len() as usize));
        let optimizer = cpu::Optimizer::new(stand.groups[0].clone(), named).unwrap();
        let params = tensors.iter().map(|tensor| floats(&download(&stand.gpu, tensor.params()))).collect();
        Self { optimizer, params }
    }

    /// Steps both, with the gradients that the stand holds, and compares where they have come to.
    fn step(&mut self, stand: &mut Stand<Adam>) {
        stand.verified_step();
        let tensors = stand.optimizer.tensors();
        let grads: Vec<Vec<f32>> = tensors.iter().map(|t| floats(&download(&stand.gpu, t.grads()))).collect();
        let grads: Vec<&[f32]> = grads.iter().map(Vec::as_slice).collect();
        let mut params: Vec<&mut [f32]> = self.params.iter_mut().map(Vec::as_mut_slice).collect();
        self.optimizer.step(&mut params, &grads).unwrap();
        for (tensor, twin) in tensors.iter().zip(&self.params) {
            let name = tensor.name();
            assert_eq!(stand.optimizer.step_of(name).unwrap(), self.optimizer.step_of(name).unwrap(), "{name}");
            for (gpu, twin) in floats(&download(&stand.gpu, tensor.params())).iter().zip(twin) {
                assert!((gpu - twin).abs() <= 2e-6 * (1.0 + twin.abs()), "{name}: {gpu}, {twin}");
            }
        }
    }
}

#[test]
fn a_frozen_tensor_stands_still_with_its_own_step_count() {
    let Some(gpu) = gpu() else { return };
    let lens = [("a", 100), ("b", 37), ("c", 256)];
    let tensors = lens.map(|(name, len)| own(&gpu.device, name, len)).to_vec();
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, tensors);
    let mut twin = Twin::of(&stand);
    let script: [(&[&str], &[&str]); 6] =
        [(&[], &[]), (&["a"], &[]), (&["c"], &[]), (&[], &["a"]), (&["b", "b"], &["c", "b"]), (&[], &["a", "b", "c"])];
    for (freeze, thaw) in script {
        stand.thaw(thaw);
        stand.freeze(freeze);
        twin.optimizer.thaw(thaw).unwrap();
        twin.optimizer.freeze(freeze).unwrap();
        twin.step(&mut stand);
    }
    assert_eq!(lens.map(|(name, _)| stand.optimizer.step_of(name).unwrap()), [4, 5, 4]);
}

#[test]
fn a_step_of_frozen_tensors_alone_is_none_and_the_encoder_is_still_good() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    stand.freeze(&["fc1.weight", "fc1.bias"]);
    stand.verified_step();
    stand.thaw(&["fc1.bias"]);
    stand.verified_step();
    assert_eq!(stand.optimizer.step_of("fc1.weight").unwrap(), 2);
    assert_eq!(stand.optimizer.step_of("fc1.bias").unwrap(), 3);
}

#[test]
fn freezing_after_a_step_was_recorded_does_not_reach_back_into_it() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    stand.draw_grads();
    let before = stand.world();
    let mut recorded = encoder(&gpu);
    stand.optimizer.record(&gpu.device, &mut recorded).unwrap();
    stand.optimizer.freeze(["fc1.weight"]).unwrap();
    stand.optimizer.retune(0, Adam { lr: 0.0, ..Adam::PYTORCH }).unwrap();
    // A step of the other alone, after the one recorded above.
    let mut second = encoder(&gpu);
    stand.optimizer.record(&gpu.device, &mut second).unwrap();
    gpu.queue.submit([recorded.finish()]);
    stand.optimizer.set_step("fc1.bias", 3).unwrap();
    stand.verify(&before, &stand.world());
    drop(second);
}

#[test]
fn the_step_can_be_set() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    for step in [0, 1000, 16_777_217, u64::from(u32::MAX) + 5] {
        stand.optimizer.set_step("fc1.weight", step).unwrap();
        assert_eq!(stand.optimizer.step_of("fc1.weight").unwrap(), step);
        stand.verified_step();
        assert_eq!(stand.optimizer.step_of("fc1.weight").unwrap(), step + 1);
    }
    assert_eq!(stand.optimizer.step_of("fc1.bias").unwrap(), 6);
    stand.optimizer.set_all_steps(9);
    stand.verified_step();
    assert_eq!(stand.optimizer.step_of("fc1.weight").unwrap(), 10);
    assert_eq!(stand.optimizer.step_of("fc1.bias").unwrap(), 10);
}

#[test]
fn the_last_step_that_can_be_counted_does_not_overflow() {
    let Some(gpu) = gpu() else { return };
    let mut stand = flat(&gpu, Adam { lr: 1e-3, nesterov: true, ..Adam::OPTAX });
    stand.optimizer.set_all_steps(u64::MAX - 1);
    stand.verified_step();
    stand.step();
    assert_eq!(stand.optimizer.step_of("a").unwrap(), u64::MAX);
}

#[test]
fn the_step_of_a_frozen_tensor_can_be_set_and_counts_once_it_is_thawed() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    stand.freeze(&["fc1.bias"]);
    stand.optimizer.set_step("fc1.bias", 40).unwrap();
    stand.verified_step();
    stand.thaw(&["fc1.bias"]);
    stand.verified_step();
    assert_eq!(stand.optimizer.step_of("fc1.bias").unwrap(), 41);
}

#[test]
fn an_encoder_that_is_thrown_away_costs_one_set_step() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    let before = stand.world();
    let mut thrown = encoder(&gpu);
    stand.optimizer.record(&gpu.device, &mut thrown).unwrap();
    stand.optimizer.record(&gpu.device, &mut thrown).unwrap();
    drop(thrown);
    assert_eq!(stand.optimizer.step_of("fc1.bias").unwrap(), 4);
    stand.optimizer.set_all_steps(2);
    assert!(stand.world() == before);
    stand.verified_step();
}

#[test]
fn nothing_is_submitted_before_the_caller_submits() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    stand.draw_grads();
    let before = stand.world();
    let mut recorded = encoder(&gpu);
    stand.optimizer.record(&gpu.device, &mut recorded).unwrap();
    stand.optimizer.set_all_steps(2);
    // The world is read by submits of its own, and still holds what it held.
    assert!(stand.world() == before);
    stand.optimizer.set_all_steps(3);
    gpu.queue.submit([recorded.finish()]);
    stand.verify(&before, &stand.world());
}

#[test]
fn a_learning_rate_of_zero_leaves_parameters_as_they_are_bit_for_bit() {
    let Some(gpu) = gpu() else { return };
    fn check<R: Rule>(gpu: &Gpu, settings: R) {
        let mut stand = flat(gpu, settings);
        for _ in 0..3 {
            stand.draw_grads();
            let before = stand.world();
            stand.step();
            let after = stand.world();
            for tensor in stand.optimizer.tensors() {
                let [before, after] = [&before, &after].map(|world| stand.of(world, tensor.params()));
                assert_eq!(before, after, "{} {:?}", R::NAME, tensor.name());
            }
            assert!(before != after, "the state stood still");
        }
    }
    check(&gpu, Adam { lr: 0.0, ..AdamW::PYTORCH });
    check(&gpu, Adam { lr: 0.0, weight_decay: 0.1, amsgrad: true, ..Adam::OPTAX });
    check(&gpu, RmsProp { lr: 0.0, momentum: 0.9, ..RmsProp::KERAS });
    check(&gpu, RmsProp { lr: 0.0, centered: true, clamp_centered: true, ..RmsProp::PYTORCH });
}

/// Its sign may go, as in PyTorch: `-0.0 - -0.0` is `0.0`.
#[test]
fn a_learning_rate_of_zero_leaves_a_zero_a_zero() {
    let Some(gpu) = gpu() else { return };
    let mut stand = Stand::new(&gpu, Adam { lr: 0.0, ..Adam::PYTORCH }, vec![own(&gpu.device, "w", 8)]);
    let tensor = stand.optimizer.tensors()[0].clone();
    write(&gpu, tensor.params(), &[-0.0; 8]);
    write(&gpu, tensor.grads(), &[1.0, -1.0, 0.0, -0.0, 1e-9, -1e-9, 1e9, -1e9]);
    stand.step();
    assert_eq!(floats(&download(&gpu, tensor.params())), [0.0; 8]);
}

#[test]
fn zero_gradients_over_zero_state_move_nothing() {
    let Some(gpu) = gpu() else { return };
    fn check<R: Rule>(gpu: &Gpu, settings: R) {
        let mut stand = flat(gpu, settings);
        for tensor in stand.optimizer.tensors() {
            write(gpu, tensor.grads(), &vec![0.0; tensor.grads().len() as usize]);
        }
        let before = stand.world();
        stand.step();
        stand.step();
        stand.optimizer.set_all_steps(0);
        assert!(stand.world() == before, "{}", R::NAME);
    }
    check(&gpu, Adam::PYTORCH);
    check(&gpu, Adam { amsgrad: true, amsgrad_over: AmsgradOver::Corrected, ..Adam::KERAS });
    check(&gpu, RmsProp::PYTORCH);
    check(&gpu, RmsProp { momentum: 0.9, centered: true, ..RmsProp::KERAS });
    check(&gpu, RmsProp::ARTICLE);
}

/// PyTorch divides zero by zero here, and so do the oracle and the twin.
#[test]
fn without_an_epsilon_an_element_that_never_had_a_gradient_becomes_nan_and_its_neighbours_do_not() {
    let Some(gpu) = gpu() else { return };
    fn check<R: Rule>(gpu: &Gpu, settings: R, len: usize) {
        let mut stand = Stand::new(gpu, settings, vec![own(&gpu.device, "w", len)]);
        let tensor = stand.optimizer.tensors()[0].clone();
        let grads: Vec<f32> = (0..len).map(|i| if i % 3 == 1 { 0.0 } else { 0.5 - i as f32 }).collect();
        write(gpu, tensor.grads(), &grads);
        let mut params = floats(&download(gpu, tensor.params()));
        let mut twin = cpu::Optimizer::<R, f32>::new(stand.groups[0].clone(), [("w", len)]).unwrap();
        twin.step(&mut [&mut params], &[&grads]).unwrap();
        stand.step();
        for (i, (gpu, twin)) in floats(&download(gpu, tensor.params())).iter().zip(&params).enumerate() {
            assert_eq!(gpu.is_nan(), i % 3 == 1, "{} element {i} is {gpu}", R::NAME);
            assert_eq!(twin.is_nan(), gpu.is_nan(), "{} element {i}", R::NAME);
            assert!(gpu.is_nan() || (gpu - twin).abs() < 1e-6, "{} element {i}: {gpu}, {twin}", R::NAME);
        }
    }
    check(&gpu, Adam { eps: 0.0, ..Adam::PYTORCH }, 12);
    check(&gpu, RmsProp { eps: 0.0, ..RmsProp::PYTORCH }, 12);
    check(&gpu, RmsProp { eps: 0.0, ..RmsProp::ARTICLE }, 11);
}

/// PyTorch's count for a gradient of NaN or infinity: the element is lost, its neighbours are not.
#[test]
fn a_gradient_that_is_not_finite_harms_its_own_element_alone() {
    let Some(gpu) = gpu() else { return };
    let mut stand = flat(&gpu, Adam::PYTORCH);
    stand.draw_grads();
    let tensor = stand.optimizer.tensors()[0].clone();
    let [first, second] = [tensor.grads().offset(), tensor.grads().offset() + 4 * 501];
    gpu.queue.write_buffer(tensor.grads().buffer(), first, bytemuck::bytes_of(&f32::NAN));
    gpu.queue.write_buffer(tensor.grads().buffer(), second, bytemuck::bytes_of(&f32::INFINITY));
    let before = stand.world();
    stand.step();
    let after = floats(&download(&gpu, tensor.params()));
    let before = floats(stand.of(&before, tensor.params()));
    for (i, (before, after)) in before.iter().zip(&after).enumerate() {
        let own = i == 0 || i == 501;
        assert!(own || (after - before).abs() <= 1.01e-3, "element {i} went from {before} to {after}");
        assert!(!own || !after.is_finite(), "element {i} is {after}");
    }
}

#[test]
fn an_optimizer_without_tensors_steps_nothing_and_takes_tensors_later() {
    let Some(gpu) = gpu() else { return };
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, vec![]);
    stand.step();
    let tensors = [own(&gpu.device, "w", 33)];
    stand.optimizer.add_tensors(&gpu.device, 0, tensors.clone()).unwrap();
    stand.watch(0, &tensors);
    stand.verified_step();
    assert_eq!(stand.optimizer.step_of("w").unwrap(), 1);
}

#[test]
fn a_group_may_start_empty() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    let settings = Adam { amsgrad: true, ..AdamW::KERAS };
    assert_eq!(stand.optimizer.add_group(&gpu.device, Group::new(settings.clone(), [])).unwrap(), 1);
    stand.groups.push(settings);
    stand.verified_step();
    let late = [own(&gpu.device, "late", 20)];
    stand.optimizer.add_tensors(&gpu.device, 1, late.clone()).unwrap();
    stand.watch(1, &late);
    stand.verified_step();
    assert_eq!(stand.optimizer.slots("late").unwrap().len(), 3);
}

#[test]
fn tensors_added_while_running_start_at_zero_and_leave_the_others_bit_for_bit() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    let before = stand.world();
    let params = stand.optimizer.tensors()[0].params().buffer().clone();
    let grads = stand.optimizer.tensors()[0].grads().buffer().clone();
    // In the same buffers as the others, and in buffers of its own.
    let late = [Tensor::new("late", words(&params, 140, 50), words(&grads, 140, 50)), own(&gpu.device, "later", 3)];
    stand.optimizer.add_tensors(&gpu.device, 0, late.clone()).unwrap();
    let after = stand.world();
    assert!(before.is_start_of(&after), "adding tensors changed the others");
    stand.watch(0, &late);
    assert_eq!(stand.optimizer.step_of("late").unwrap(), 0);
    stand.verified_step();
    stand.verified_step();
    assert_eq!(stand.optimizer.step_of("late").unwrap(), 2);
    assert_eq!(stand.optimizer.step_of("fc1.bias").unwrap(), 4);
}

#[test]
fn a_frozen_tensor_stays_frozen_when_others_are_added() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    stand.freeze(&["fc1.bias"]);
    let late = [own(&gpu.device, "late", 50)];
    stand.optimizer.add_tensors(&gpu.device, 0, late.clone()).unwrap();
    stand.watch(0, &late);
    stand.verified_step();
    assert_eq!(stand.optimizer.step_of("fc1.bias").unwrap(), 2);
}

#[test]
fn tensors_added_one_by_one_are_all_stepped() {
    let Some(gpu) = gpu() else { return };
    let buffers = [buffer(&gpu.device, 64 * 64), buffer(&gpu.device, 64 * 64)];
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, vec![at("t0", &buffers, 0, 60)]);
    for i in 1..40 {
        let tensor = [at(&format!("t{i}"), &buffers, i * 64, 60)];
        stand.optimizer.add_tensors(&gpu.device, 0, tensor.clone()).unwrap();
        stand.watch(0, &tensor);
    }
    stand.verified_step();
    stand.verified_step();
}
