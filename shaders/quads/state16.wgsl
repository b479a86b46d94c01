// State whose narrowest plane has 16 bits: a lane of it is two words, and one of 32 bits is two such lanes.

@group(0) @binding(2) var<storage, read_write> state: array<vec2<u32>>;

fn load_state(at: At, plane: u32) -> Lane {
    let first = plane * run.stride;
    if is_of(PLANES_HALF, plane) {
        return widened(state[first + at.state], is_of(PLANES_F16, plane));
    }
    let own = first + 2u * at.state;
    return bitcast<vec4<f32>>(vec4<u32>(state[own], state[own + 1u]));
}

fn store_state(at: At, plane: u32, s: Lane) {
    let first = plane * run.stride;
    if is_of(PLANES_HALF, plane) {
        state[first + at.state] = narrowed(s, chance_of_plane(plane), is_of(PLANES_F16, plane), HAS_CHANCE);
    } else {
        let own = first + 2u * at.state;
        let words = bitcast<vec4<u32>>(s);
        state[own] = words.xy;
        state[own + 1u] = words.zw;
    }
}
