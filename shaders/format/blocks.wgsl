// Numbers of 8 bits, by blocks of one scale: the shader half of src/format/blocks.rs, where the functions are described.

fn encode_q8(x: f32, scale: f32, unsigned: bool, guarded: bool) -> u32 {
    const ONE = 1u;
    const MIDDLE = 127u;
    const ZERO = 0u;
    const MAGNITUDE = 0x7fffffffu;
    const NORMAL = 0x00800000u;
    const NORMALS = 0x7f000000u;
    let x_bits = bitcast<u32>(x) & MAGNITUDE;
    let scale_bits = bitcast<u32>(scale);
    // <encode_q8>
    let r = select(0.0, abs(x) / scale, (scale_bits - NORMAL) < NORMALS);
    let a = r >= select(1.9e-6, 1.45e-6, unsigned);
    let b = r >= select(1.45e-5, 1.225e-5, unsigned);
    let c = r >= select(1.225e-4, 1.1125e-4, unsigned);
    let d = r >= select(1.1125e-3, 1.05625e-3, unsigned);
    let e = r >= select(1.05625e-2, 1.028125e-2, unsigned);
    let f = r >= select(1.028125e-1, 1.0140625e-1, unsigned);
    let low = select(select(1111111.1, 111111.11, a), select(11111.111, 1111.1111, c), b);
    let over = select(low, select(select(111.111115, 11.111111, e), 1.1111112, f), d);
    let few = select(select(1.0, 2.0, a), select(4.0, 8.0, c), b);
    let parts = select(few, select(select(16.0, 32.0, e), 64.0, f), d) * select(1.0, 2.0, unsigned);
    let among = min((r * over + 0.8888889) * parts, parts + parts - 0.5);
    let one = r >= select(0.9964844, 0.9982422, unsigned);
    let none = r < select(2.75e-7, 1.625e-7, unsigned);
    let least = select(1.0, 2.0, guarded & (x_bits > ZERO));
    let zero = select(0.0, least, unsigned);
    let k = u32(select(select(among, select(128.0, 256.0, unsigned), one), zero, none));
    let signed_code = select(MIDDLE + k, MIDDLE - min(k, MIDDLE), x < 0.0);
    let code = select(signed_code, k - ONE, unsigned);
    // </encode_q8>
    return code;
}

fn decode_q8(code: u32, scale: f32, unsigned: bool) -> f32 {
    const MIDDLE = 127u;
    const EXPONENT = 0x7f800000u;
    const TWICE_BIAS = 0x7f000000u;
    let k = select(abs(f32(code) - 127.0), f32(code) + 1.0, unsigned);
    let share = bitcast<f32>(TWICE_BIAS - (bitcast<u32>(k) & EXPONENT));
    let scale_bits = bitcast<u32>(scale);
    // <decode_q8>
    let j = k * select(1.0, 0.5, unsigned);
    let low = select(select(1e-6, 1e-5, j >= 2.0), select(1e-4, 1e-3, j >= 8.0), j >= 4.0);
    let high = select(select(1e-2, 1e-1, j >= 32.0), 1.0, j >= 64.0);
    let top = select(low, high, j >= 16.0);
    let entry = top * (0.1 + 0.9 * ((k + 0.5) * share - 1.0));
    let magnitude = select(select(entry, 1.0, j >= 128.0), 0.0, j < 1.0) * scale;
    let finite = select(magnitude, -magnitude, (code < MIDDLE) & !unsigned);
    let x = select(finite, scale, scale_bits >= EXPONENT);
    // </decode_q8>
    return x;
}
