// Adds gradients to the sums that the next step takes, and advances nothing.

struct Share {
    weight: f32,
}

override PLANE_ACCUMULATED_GRAD: u32 = 0u;

@group(1) @binding(0) var<uniform> share: Share;

@compute @workgroup_size(WORKGROUP)
fn accumulate(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = number(group);
    let first = place(index);
    let i = lane(index, local);
    if has(index, i, first.w) {
        let at = At(first.x + i, first.y + i, first.z + i);
        let sum = load_state(at, PLANE_ACCUMULATED_GRAD) + share.weight * load_grads(at);
        store_state(at, PLANE_ACCUMULATED_GRAD, sum);
    }
}

fn received(at: At, g0: Lane) -> Lane {
    return g0;
}
