// Elements of a lane of four.

fn elements_before(lane: u32) -> u32 {
    return 4u * lane;
}

// A word of noise for each, from the first one's number on.
fn noises(own: u32, first: u32) -> Bits {
    return vec4<u32>(noise(own, first), noise(own, first + 1u), noise(own, first + 2u), noise(own, first + 3u));
}
