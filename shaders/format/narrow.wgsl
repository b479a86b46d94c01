// A number of 16 bits and its code, of either format.

fn wide(code: u32, f16: bool) -> f32 {
    if f16 {
        return bitcast<f32>(from_f16(code));
    }
    return bitcast<f32>(from_bf16(code));
}

fn narrow(x: f32, how: u32, f16: bool, chance: bool) -> u32 {
    if f16 {
        return to_f16(bitcast<u32>(x), how, chance);
    }
    return to_bf16(bitcast<u32>(x), how, chance);
}
