// Parameters of 16 bits.

@group(0) @binding(0) var<storage, read_write> params: array<vec2<u32>>;

fn load_copy(at: At) -> Lane {
    return widened(params[at.params], PARAMS_F16);
}

fn store_copy(at: At, p: Lane, how: Bits, chance: bool) {
    params[at.params] = narrowed(p, how, PARAMS_F16, chance);
}
