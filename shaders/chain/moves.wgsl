// What two parts of an update are together: the three sums of its squares, and the largest magnitude.

// A largest magnitude that is none: an element is not finite.
const NOT_FINITE = -1.0;

fn join(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let largest = select(max(a.w, b.w), NOT_FINITE, min(a.w, b.w) < 0.0);
    return vec4<f32>(a.xyz + b.xyz, largest);
}
