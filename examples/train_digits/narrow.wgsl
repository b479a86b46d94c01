// f32 as 16 bits: bf16 to the nearest, ties to even; f16 as the device rounds it. An invocation for each word, which
// holds two.

override IS_F16: bool = false;

@group(0) @binding(0) var<storage, read> full: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> halves: array<u32>;

@compute @workgroup_size(64)
fn step(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= arrayLength(&full) {
        return;
    }
    let pair = full[id.x];
    if IS_F16 {
        halves[id.x] = pack2x16float(pair);
    } else {
        halves[id.x] = bf16(pair.x) | (bf16(pair.y) << 16u);
    }
}

fn bf16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        // A NaN stays one: the carry of rounding could make an infinity of it, or a zero.
        return (bits >> 16u) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}
