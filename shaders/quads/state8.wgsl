// State whose narrowest plane has 8 bits: a lane of it is one word, one of 16 bits two, and one of 32 bits four.

// Lanes of a block.
const BLOCK = 64u;

@group(0) @binding(2) var<storage, read_write> state: array<u32>;

fn load_state(at: At, plane: u32) -> Lane {
    let first = plane * run.stride;
    if is_of(PLANES_BLOCKS, plane) {
        return decoded(state[first + at.state], bitcast<f32>(state[scale_at(at, plane)]), is_of(PLANES_UNSIGNED, plane));
    }
    if is_of(PLANES_HALF, plane) {
        let own = first + 2u * at.state;
        return widened(vec2<u32>(state[own], state[own + 1u]), is_of(PLANES_F16, plane));
    }
    let own = first + 4u * at.state;
    return bitcast<vec4<f32>>(vec4<u32>(state[own], state[own + 1u], state[own + 2u], state[own + 3u]));
}

fn store_state(at: At, plane: u32, s: Lane) {
    let first = plane * run.stride;
    if is_of(PLANES_BLOCKS, plane) {
        put_off(at, plane, s);
    } else if is_of(PLANES_HALF, plane) {
        let own = first + 2u * at.state;
        let words = narrowed(s, chance_of_plane(plane), is_of(PLANES_F16, plane), HAS_CHANCE);
        state[own] = words.x;
        state[own + 1u] = words.y;
    } else {
        let own = first + 4u * at.state;
        let words = bitcast<vec4<u32>>(s);
        state[own] = words.x;
        state[own + 1u] = words.y;
        state[own + 2u] = words.z;
        state[own + 3u] = words.w;
    }
}

// The word of a block's scale: scales lie behind all planes, a word for each block of each plane that has them.
fn scale_at(at: At, plane: u32) -> u32 {
    return SCALES * run.stride + before(PLANES_BLOCKS, plane) * (run.stride / BLOCK) + at.state / BLOCK;
}

fn store_codes(at: At, plane: u32, s: Lane, scale: f32, unsigned: bool) {
    let low = vec4<u32>(
        encode_q8(s.x, scale, unsigned, Q8_GUARDED),
        encode_q8(s.y, scale, unsigned, Q8_GUARDED),
        encode_q8(s.z, scale, unsigned, Q8_GUARDED),
        encode_q8(s.w, scale, unsigned, Q8_GUARDED),
    );
    state[plane * run.stride + at.state] = low.x | (low.y << 8u) | (low.z << 16u) | (low.w << 24u);
}

fn store_scale(at: At, plane: u32, scale: u32) {
    state[scale_at(at, plane)] = scale;
}

fn decoded(codes: u32, scale: f32, unsigned: bool) -> Lane {
    return vec4<f32>(
        decode_q8(codes & 0xffu, scale, unsigned),
        decode_q8((codes >> 8u) & 0xffu, scale, unsigned),
        decode_q8((codes >> 16u) & 0xffu, scale, unsigned),
        decode_q8(codes >> 24u, scale, unsigned),
    );
}

// The bits of the largest magnitude: what is not finite is larger than all that is.
fn magnitude(s: Lane) -> u32 {
    let bits = bitcast<vec4<u32>>(s) & vec4<u32>(0x7fffffffu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}
