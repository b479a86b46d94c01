// A number of 16 bits in one half of a word. Its neighbour may be stored at the same time, by an invocation of this
// dispatch: so a store flips the bits that differ in its own half, which leaves the other half to whoever owns it,
// whatever the order.

fn widened(word: u32, element: u32, f16: bool) -> Lane {
    return wide((word >> (16u * (element & 1u))) & 0xffffu, f16);
}

fn narrowed(x: Lane, how: Bits, f16: bool, chance: bool) -> u32 {
    return narrow(x, how, f16, chance);
}

// The bits of a word to flip, so that its half becomes a code.
fn flips(word: u32, element: u32, code: u32) -> u32 {
    let shift = 16u * (element & 1u);
    return (word ^ (code << shift)) & (0xffffu << shift);
}

// What narrowing makes of a number, without storing it.
fn rounded(x: Lane, f16: bool) -> Lane {
    return wide(narrow(x, 0u, f16, false), f16);
}
