// Four numbers of 16 bits in two words.

fn widened(words: vec2<u32>, f16: bool) -> Lane {
    let codes = vec4<u32>(words.x & 0xffffu, words.x >> 16u, words.y & 0xffffu, words.y >> 16u);
    return vec4<f32>(wide(codes.x, f16), wide(codes.y, f16), wide(codes.z, f16), wide(codes.w, f16));
}

fn narrowed(x: Lane, how: Bits, f16: bool, chance: bool) -> vec2<u32> {
    let low = vec2<u32>(narrow(x.x, how.x, f16, chance), narrow(x.z, how.z, f16, chance));
    let high = vec2<u32>(narrow(x.y, how.y, f16, chance), narrow(x.w, how.w, f16, chance));
    return low | (high << vec2<u32>(16u));
}

// What narrowing makes of numbers, without storing them.
fn rounded(x: Lane, f16: bool) -> Lane {
    return widened(narrowed(x, Bits(0u), f16, false), f16);
}
