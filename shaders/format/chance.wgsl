// Which element a lane has in its tensor, and the noise that its numbers are rounded by: src/format/noise.rs.

const HAS_CHANCE = true;

var<private> tensor_key: u32;
var<private> first_element: u32;

// Before a lane.
fn begin(index: u32, i: u32) {
    let own = origin(index);
    tensor_key = own.x;
    first_element = own.y + elements_before(i);
}

// The noise of a lane in what is rounded: 0 for parameters, one more than its number for a slot.
fn chance_of(what: u32) -> Bits {
    return noises(stream(scalars.gate.step_key, tensor_key, what), first_element);
}
