// State whose narrowest plane has 8 bits. What shares a word is stored as halves.wgsl says.

// Lanes of a block.
const BLOCK = 256u;

@group(0) @binding(2) var<storage, read_write> state: array<atomic<u32>>;

fn load_state(at: At, plane: u32) -> Lane {
    let first = plane * run.stride;
    if is_of(PLANES_BLOCKS, plane) {
        let own = first + at.state;
        let code = (atomicLoad(&state[own / 4u]) >> (8u * (own & 3u))) & 0xffu;
        return decode_q8(code, bitcast<f32>(atomicLoad(&state[scale_at(at, plane)])), is_of(PLANES_UNSIGNED, plane));
    }
    if is_of(PLANES_HALF, plane) {
        let half = first / 2u + at.state;
        return widened(atomicLoad(&state[half / 2u]), half, is_of(PLANES_F16, plane));
    }
    return bitcast<f32>(atomicLoad(&state[first / 4u + at.state]));
}

fn store_state(at: At, plane: u32, s: Lane) {
    let first = plane * run.stride;
    if is_of(PLANES_BLOCKS, plane) {
        put_off(at, plane, s);
    } else if is_of(PLANES_HALF, plane) {
        let half = first / 2u + at.state;
        let code = narrowed(s, chance_of_plane(plane), is_of(PLANES_F16, plane), HAS_CHANCE);
        atomicXor(&state[half / 2u], flips(atomicLoad(&state[half / 2u]), half, code));
    } else {
        atomicStore(&state[first / 4u + at.state], bitcast<u32>(s));
    }
}

// The word of a block's scale: scales lie behind all planes, a word for each block of each plane that has them.
fn scale_at(at: At, plane: u32) -> u32 {
    return SCALES * (run.stride / 4u) + before(PLANES_BLOCKS, plane) * (run.stride / BLOCK) + at.state / BLOCK;
}

fn store_codes(at: At, plane: u32, s: Lane, scale: f32, unsigned: bool) {
    let own = plane * run.stride + at.state;
    let shift = 8u * (own & 3u);
    let word = atomicLoad(&state[own / 4u]);
    let code = encode_q8(s, scale, unsigned, Q8_GUARDED);
    atomicXor(&state[own / 4u], (word ^ (code << shift)) & (0xffu << shift));
}

fn store_scale(at: At, plane: u32, scale: u32) {
    atomicStore(&state[scale_at(at, plane)], scale);
}

// The bits of the magnitude: what is not finite is larger than all that is.
fn magnitude(s: Lane) -> u32 {
    return bitcast<u32>(s) & 0x7fffffffu;
}
