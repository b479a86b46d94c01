// Lanes of one element, for tensors that start anywhere, and for what is left of a length over a multiple of four.

alias Lane = f32;
alias Bits = u32;

// Of the elements of a lane.
fn total(x: Lane) -> f32 {
    return x;
}

fn largest(x: Lane) -> f32 {
    return x;
}
