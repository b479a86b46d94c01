// The element of a lane of one.

fn elements_before(lane: u32) -> u32 {
    return lane;
}

// A word of noise for it.
fn noises(own: u32, first: u32) -> Bits {
    return noise(own, first);
}
