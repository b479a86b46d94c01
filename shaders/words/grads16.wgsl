// Gradients of 16 bits.

override GRADS_F16: bool = false;

@group(0) @binding(1) var<storage, read_write> grads: array<atomic<u32>>;

fn load_grads(at: At) -> Lane {
    return received(at, widened(atomicLoad(&grads[at.grads / 2u]), at.grads, GRADS_F16));
}

fn store_grads(at: At, g: Lane) {
    let word = atomicLoad(&grads[at.grads / 2u]);
    atomicXor(&grads[at.grads / 2u], flips(word, at.grads, narrowed(g, Bits(0u), GRADS_F16, false)));
}
