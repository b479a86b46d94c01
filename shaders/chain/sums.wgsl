// What two parts of the norm of gradients are together: sums of squares, or the largest magnitude.

override HAS_INF: bool = false;

// Two parts of a sum, or of a maximum.
fn join(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let largest = vec4<f32>(max(a.xyz, b.xyz), a.w + b.w);
    return select(a + b, largest, HAS_INF);
}
