// Which element a lane has in its tensor, and the noise that its numbers are rounded by: src/format/noise.rs.

override HAS_CHANCE: bool = false;

var<private> tensor: u32;
var<private> element: u32;

// Before a lane: the tensor's word, and the lane's first element.
fn begin(index: u32, i: u32) {
    if HAS_CHANCE {
        let own = own_of(index);
        tensor = own.x;
        element = own.y + first_of(i);
    }
}

// The tensor's word, and the first element of a workgroup or of the stretch.
fn own_of(index: u32) -> vec2<u32> {
    if HAS_PLACES {
        return places[2u * (run.first + index) + 1u].xy;
    }
    return vec2<u32>(run.key, run.element);
}

// The noise of a lane in what is rounded: 0 for parameters, one more than its number for a slot.
fn chance_of(what: u32) -> Bits {
    if HAS_CHANCE {
        return noises(stream(step_key(), tensor, what), element);
    }
    return Bits(0u);
}
