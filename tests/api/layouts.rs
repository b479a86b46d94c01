use wgpu_optim::Adam;
use crate::stand::*;
use crate::support::gpu;

#[test]
fn one_buffer_each() {
    let Some(gpu) = gpu() else { return };
    let tensors = [1, 2, 3, 4, 5, 255, 256, 257, 1021].map(|len| own(&gpu.device, &format!("{len}"), len)).to_vec();
    let mut stand = Stand::new(&gpu, Adam::PYTORCH, tensors);
    stand.verified_step();
    stand.verified_step();
}
