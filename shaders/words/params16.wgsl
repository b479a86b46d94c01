// Parameters of 16 bits.

@group(0) @binding(0) var<storage, read_write> params: array<atomic<u32>>;

fn load_copy(at: At) -> Lane {
    return widened(atomicLoad(&params[at.params / 2u]), at.params, PARAMS_F16);
}

fn store_copy(at: At, p: Lane, how: Bits, chance: bool) {
    let word = atomicLoad(&params[at.params / 2u]);
    atomicXor(&params[at.params / 2u], flips(word, at.params, narrowed(p, how, PARAMS_F16, chance)));
}
