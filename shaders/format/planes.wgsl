// Planes of different widths in one window, in the order of slots. A plane goes by its place: how many of the narrowest
// would lie before it. Each of these has a bit for the place of each plane of its kind.

override PLANES: u32 = 0u;
override PLANES_HALF: u32 = 0u;
override PLANES_F16: u32 = 0u;

fn is_of(planes: u32, plane: u32) -> bool {
    return ((planes >> plane) & 1u) == 1u;
}

// How many of these lie before a plane.
fn before(planes: u32, plane: u32) -> u32 {
    return countOneBits(planes & ((1u << plane) - 1u));
}

// The noise of a slot.
fn chance_of_plane(plane: u32) -> Bits {
    return chance_of(1u + before(PLANES, plane));
}
