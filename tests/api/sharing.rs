//! What may go to other threads, and what optimizers share.

use wgpu_optim::kernel::Kernels;
use wgpu_optim::{Adam, AdamW, Arena, BufferRange, Error, Group, Optimizer, RmsProp, Tensor, cpu, wgpu};

use crate::stand::{Stand, noop_of, own, running};
use crate::support::gpu;

#[test]
fn what_a_caller_holds_may_go_to_another_thread() {
    fn may<T: Send + Sync + 'static>() {}
    may::<Optimizer<Adam>>();
    may::<Optimizer<RmsProp>>();
    may::<Kernels>();
    may::<Arena>();
    may::<Group<Adam>>();
    may::<Tensor>();
    may::<BufferRange>();
    may::<Error>();
    may::<cpu::Optimizer<Adam, f32>>();
}

#[test]
fn futures_may_go_to_another_thread() {
    fn may<T: Send>(_: T) {}
    let Some(gpu) = gpu() else { return };
    let stand = running(&gpu);
    let (device, queue) = (&gpu.device, &gpu.queue);
    may(stand.optimizer.read_state(device, queue, "fc1.bias", "exp_avg"));
    may(stand.optimizer.write_state(device, queue, "fc1.bias", "exp_avg", &[0.0; 9]));
    let range = stand.optimizer.tensors()[0].params();
    may(wgpu_optim::readback::download(device, queue, range));
    may(wgpu_optim::readback::upload(device, queue, range, &[0; 400]));
}

#[test]
fn optimizers_on_several_threads_share_a_device() {
    let Some(gpu) = gpu() else { return };
    let kernels = Kernels::new(&gpu.device).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (gpu, kernels) = (&gpu, &kernels);
            scope.spawn(move || {
                let tensors = [own(&gpu.device, "w", 300 + thread)];
                let group = Group::new(AdamW::PYTORCH, tensors.clone());
                drop(Optimizer::with_kernels(&gpu.device, kernels, [group]).unwrap());
                let mut stand = Stand::new(gpu, AdamW::PYTORCH, tensors.to_vec());
                for _ in 0..5 {
                    stand.verified_step();
                }
            });
        }
    });
}

#[test]
fn an_optimizer_goes_on_where_it_was_moved_to() {
    let Some(gpu) = gpu() else { return };
    let mut stand = running(&gpu);
    let stand = std::thread::spawn(move || {
        stand.verified_step();
        stand
    });
    let mut stand = stand.join().unwrap();
    stand.verified_step();
}

#[test]
fn kernels_are_compiled_once_for_all_who_share_them() {
    let (instance, gpu) = noop_of(wgpu::Limits::default());
    let compiled = || instance.generate_report().unwrap().hub.compute_pipelines.num_kept_from_user;
    // A length that takes quads and a tail of words.
    let group = |settings: Adam| Group::new(settings, [own(&gpu.device, "w", 1021)]);
    let first = Optimizer::with_groups(&gpu.device, [group(Adam::PYTORCH)]).unwrap();
    assert_eq!(compiled(), 2);
    let others = [Adam::PYTORCH, Adam::KERAS, Adam { beta2: 0.99, ..Adam::KERAS }, Adam { lr: 0.5, ..Adam::ARTICLE }];
    let sharing =
        others.map(|settings| Optimizer::with_kernels(&gpu.device, first.kernels(), [group(settings)]).unwrap());
    assert_eq!(compiled(), 2, "numbers are no reason to compile");
    let amsgrad = group(Adam { amsgrad: true, ..Adam::PYTORCH });
    let _another = Optimizer::with_kernels(&gpu.device, first.kernels(), [amsgrad]).unwrap();
    assert_eq!(compiled(), 4);
    let _decay = Optimizer::with_kernels(&gpu.device, first.kernels(), [group(AdamW::PYTORCH)]).unwrap();
    assert_eq!(compiled(), 6, "a term that is off is not in the kernel");
    let rule = Group::new(RmsProp::PYTORCH, [own(&gpu.device, "w", 1021)]);
    let _rule = Optimizer::with_kernels(&gpu.device, sharing[2].kernels(), [rule]).unwrap();
    assert_eq!(compiled(), 8, "rules share kernels as well");
}

#[test]
fn kernels_outlive_the_optimizer_they_came_from() {
    let Some(gpu) = gpu() else { return };
    let kernels = running(&gpu).optimizer.kernels().clone();
    let tensors = [own(&gpu.device, "w", 300)];
    let optimizer =
        Optimizer::with_kernels(&gpu.device, &kernels, [Group::new(Adam::PYTORCH, tensors.clone())]).unwrap();
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, tensors.to_vec());
    stand.optimizer = optimizer;
    stand.verified_step();
}
