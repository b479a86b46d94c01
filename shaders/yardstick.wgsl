// Plain kernels, to which the step is compared: what moving as many bytes costs on this device at the least.

@group(0) @binding(0) var<storage, read_write> from_words: array<u32>;
@group(0) @binding(1) var<storage, read_write> to_words: array<u32>;

@group(0) @binding(0) var<storage, read_write> params: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> grads: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> first: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> second: array<vec4<f32>>;

const WORKGROUP: u32 = 256u;

fn index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.y * groups.x * WORKGROUP + id.x;
}

@compute @workgroup_size(WORKGROUP)
fn copy_words(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = index(id, groups);
    if i < arrayLength(&from_words) {
        to_words[i] = from_words[i];
    }
}

@compute @workgroup_size(WORKGROUP)
fn copy_quads(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = index(id, groups);
    if i < arrayLength(&params) {
        grads[i] = params[i];
    }
}

// Reads four and writes three, as Adam does, and computes next to nothing.
@compute @workgroup_size(WORKGROUP)
fn stream(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = index(id, groups);
    if i < arrayLength(&params) {
        let g = grads[i];
        params[i] = params[i] - g;
        first[i] = first[i] + g;
        second[i] = second[i] + g;
    }
}
