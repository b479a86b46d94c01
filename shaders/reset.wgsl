// Puts state back to what it starts from, and advances nothing.

struct Start {
    planes: u32,
    // The plane of the average, which starts at the parameters; no plane where there is none.
    average: u32,
    // Of each plane.
    initial: array<vec4<f32>, 2>,
    // Where it lies: how many of the narrowest would lie before it.
    places: array<vec4<u32>, 2>,
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
            if plane != start.average {
                store_state(at, place_of(plane), Lane(0.0) + start.initial[plane / 4u][plane % 4u]);
            }
        }
        // Last: what is kept of the parameters besides is then what it starts from, and they are as they lie.
        if start.average < start.planes {
            store_state(at, place_of(start.average), load_params(at));
        }
    }
}

fn place_of(plane: u32) -> u32 {
    return start.places[plane / 4u][plane % 4u];
}

fn received(at: At, g0: Lane) -> Lane {
    return g0;
}

fn settled(at: At, p0: Lane) -> Lane {
    return p0;
}
