// What the elements of a lane add to sums of squares.

// 1 for what is not finite, else 0. By its bits: a compiler may take it that no number is infinite.
fn wrong(x: Lane) -> Lane {
    let exponent = Bits(0x7f800000u);
    return select(Lane(0.0), Lane(1.0), (bitcast<Bits>(x) & exponent) == exponent);
}

// The magnitude of what is finite, else 0.
fn finite(x: Lane) -> Lane {
    return select(abs(x), Lane(0.0), wrong(x) > Lane(0.0));
}

// The squares of magnitudes that are small, between and large, each brought to the scale of its sum.
fn squares(a: Lane) -> vec3<f32> {
    let low = a < Lane(LOW);
    let high = a > Lane(HIGH);
    let small = select(Lane(0.0), UP * a, low);
    let large = select(Lane(0.0), DOWN * a, high);
    let between = select(a, Lane(0.0), low | high);
    return vec3<f32>(total(small * small), total(between * between), total(large * large));
}
