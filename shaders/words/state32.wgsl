// State of 32 bits throughout.

@group(0) @binding(2) var<storage, read_write> state: array<u32>;

fn load_state(at: At, plane: u32) -> Lane {
    return bitcast<f32>(state[at.state + plane * run.stride]);
}

fn store_state(at: At, plane: u32, s: Lane) {
    state[at.state + plane * run.stride] = bitcast<u32>(s);
}
