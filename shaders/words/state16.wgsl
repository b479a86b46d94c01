// State whose narrowest plane has 16 bits. What shares a word is stored as halves.wgsl says.

@group(0) @binding(2) var<storage, read_write> state: array<atomic<u32>>;

fn load_state(at: At, plane: u32) -> Lane {
    let half = plane * run.stride + at.state;
    if is_of(PLANES_HALF, plane) {
        return widened(atomicLoad(&state[half / 2u]), half, is_of(PLANES_F16, plane));
    }
    return bitcast<f32>(atomicLoad(&state[plane * run.stride / 2u + at.state]));
}

fn store_state(at: At, plane: u32, s: Lane) {
    let half = plane * run.stride + at.state;
    if is_of(PLANES_HALF, plane) {
        let code = narrowed(s, chance_of_plane(plane), is_of(PLANES_F16, plane), HAS_CHANCE);
        atomicXor(&state[half / 2u], flips(atomicLoad(&state[half / 2u]), half, code));
    } else {
        atomicStore(&state[plane * run.stride / 2u + at.state], bitcast<u32>(s));
    }
}
