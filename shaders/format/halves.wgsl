// Numbers of 16 bits: the shader half of src/format/halves.rs, where the functions are described. Declarations alone,
// to be laid beside any kernel; constants are the functions' own, so that no names meet.

fn to_bf16(x: u32, noise: u32, chance: bool) -> u32 {
    const ZERO = 0u;
    const ONE = 1u;
    const SIXTEEN = 16u;
    const MAGNITUDE = 0x7fffffffu;
    const INFINITY = 0x7f800000u;
    const LOW_HALF = 0x7fffu;
    const QUIET = 0x40u;
    // <to_bf16>
    let high = x >> SIXTEEN;
    let nudge = select(LOW_HALF + (high & ONE), noise >> SIXTEEN, chance);
    let wrong = (x & MAGNITUDE) >= INFINITY;
    let stays = high | select(ZERO, QUIET, (x & MAGNITUDE) > INFINITY);
    let code = select((x + nudge) >> SIXTEEN, stays, wrong);
    // </to_bf16>
    return code;
}

fn from_bf16(code: u32) -> u32 {
    const SIXTEEN = 16u;
    // <from_bf16>
    let x = code << SIXTEEN;
    // </from_bf16>
    return x;
}

fn to_f16(x: u32, noise: u32, chance: bool) -> u32 {
    const ZERO = 0u;
    const ONE = 1u;
    const THIRTEEN = 13u;
    const SIXTEEN = 16u;
    const TWENTY_THREE = 23u;
    const THIRTY_ONE = 31u;
    const THIRTY_TWO = 32u;
    const SIGN = 0x80000000u;
    const MAGNITUDE = 0x7fffffffu;
    const INFINITY = 0x7f800000u;
    const NORMAL = 113u;
    const SUBNORMAL = 126u;
    const FRACTION = 0x007fffffu;
    const LEADING = 0x00800000u;
    const REBIAS = 0x38000000u;
    const LARGE = 0x47800000u;
    const INFINITE = 0x7c00u;
    const QUIET = 0x0200u;
    const TEN_BITS = 0x03ffu;
    // <to_f16>
    let a = x & MAGNITUDE;
    let e = a >> TWENTY_THREE;
    let normal = e >= NORMAL;
    let far = SUBNORMAL - e;
    let near = min(far, THIRTY_ONE);
    let tiny = ((a & FRACTION) | LEADING) >> min(far - near, THIRTY_ONE);
    let shift = select(near, THIRTEEN, normal);
    let m = select(tiny, a - REBIAS, normal);
    let half = (ONE << (shift - ONE)) - ONE;
    let nudge = select(half + ((m >> shift) & ONE), noise >> (THIRTY_TWO - shift), chance);
    let finite = (m + nudge) >> shift;
    let payload = select(ZERO, QUIET | ((a >> THIRTEEN) & TEN_BITS), a > INFINITY);
    let code = select(finite, INFINITE | payload, a >= LARGE) | ((x & SIGN) >> SIXTEEN);
    // </to_f16>
    return code;
}

fn from_f16(code: u32) -> u32 {
    const THIRTEEN = 13u;
    const SIXTEEN = 16u;
    const REST = 0x7fffu;
    const NORMAL = 0x0400u;
    const INFINITE = 0x7c00u;
    const REBIAS = 0x38000000u;
    const SIGN_16 = 0x8000u;
    const LEAST = 0x1p-24f;
    let tiny = bitcast<u32>(f32(code & REST) * LEAST);
    // <from_f16>
    let a = code & REST;
    let normal = (a << THIRTEEN) + REBIAS;
    let finite = select(normal, tiny, a < NORMAL);
    let x = select(finite, normal + REBIAS, a >= INFINITE) | ((code & SIGN_16) << SIXTEEN);
    // </from_f16>
    return x;
}
