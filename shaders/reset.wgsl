// Puts state back to what it starts from, and advances nothing.

struct Start {
    planes: u32,
    // The plane of the average, which starts at the parameters; no plane where there is none.
    average: u32,
    // Of each plane.
    initial: array<vec4<f32>, 2>,
}

@group(1) @binding(0) var<uniform> start: Start;

@compute @workgroup_size(WORKGROUP)
fn reset(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = number(group);
    let first = place(index);
    let i = lane(index, local);
    if has(index, i, first.w) {
        let at = At(first.x + i, first.y + i, first.z + i);
        for (var plane = 0u; plane < start.planes; plane++) {
            let initial = Lane(0.0) + start.initial[plane / 4u][plane % 4u];
            store_state(at, plane, select(initial, load_params(at), plane == start.average));
        }
    }
}

fn received(at: At, g0: Lane) -> Lane {
    return g0;
}

fn settled(at: At, p0: Lane) -> Lane {
    return p0;
}
