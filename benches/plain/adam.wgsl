// Adam, the formula and an index: beside it benches/kernels.rs takes the step apart.

struct Scalars { beta1: f32, beta2: f32, grad: f32, step: f32, eps: f32 }
@group(0) @binding(0) var<storage, read_write> params: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> grads: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> first: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> second: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> h: Scalars;
override WORKGROUP: u32 = 256u;
@compute @workgroup_size(WORKGROUP)
fn step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.y * groups.x * WORKGROUP + id.x;
    if i < arrayLength(&params) {
        let g = grads[i];
        let m = first[i] + h.beta1 * (g - first[i]);
        let v = h.beta2 * second[i] + (h.grad * g) * g;
        first[i] = m;
        second[i] = v;
        params[i] = params[i] - h.step * (m / (sqrt(v) + h.eps));
    }
}
