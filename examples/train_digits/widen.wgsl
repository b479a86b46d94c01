// 16 bits as the f32 that forward and backward read: exact. An invocation for each word, which holds two.

override IS_F16: bool = false;

@group(0) @binding(0) var<storage, read> halves: array<u32>;
@group(0) @binding(1) var<storage, read_write> full: array<vec2<f32>>;

@compute @workgroup_size(64)
fn step(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= arrayLength(&full) {
        return;
    }
    let word = halves[id.x];
    // A bf16 is the high half of an f32.
    let bf16 = bitcast<vec2<f32>>(vec2(word << 16u, word & 0xffff0000u));
    full[id.x] = select(bf16, unpack2x16float(word), IS_F16);
}
