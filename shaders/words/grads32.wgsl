// Gradients of 32 bits.

@group(0) @binding(1) var<storage, read_write> grads: array<u32>;

fn load_grads(at: At) -> Lane {
    return received(at, bitcast<f32>(grads[at.grads]));
}

fn store_grads(at: At, g: Lane) {
    grads[at.grads] = bitcast<u32>(g);
}
