// Parameters of 32 bits.

@group(0) @binding(0) var<storage, read_write> params: array<vec4<u32>>;

fn load_params(at: At) -> Lane {
    return bitcast<vec4<f32>>(params[at.params]);
}

fn store_params(at: At, p: Lane) {
    params[at.params] = bitcast<vec4<u32>>(settled(at, p));
}
