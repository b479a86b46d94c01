// Lanes of four elements, for tensors that start at a multiple of four.

alias Lane = vec4<f32>;
alias Bits = vec4<u32>;

// Of the elements of a lane.
fn total(x: Lane) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

fn largest(x: Lane) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
}
