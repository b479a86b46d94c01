// Which lane an invocation owns: the same walk for every kernel that goes over tensors.

override WORKGROUP: u32 = 256u;

// Whether a dispatch walks more than one stretch of lanes, and finds them in the launch's table.
override HAS_PLACES: bool = false;

// Whether one stretch starts past zero in some buffer, or its grid is folded: else no uniform tells where it is.
override HAS_START: bool = true;

// Vectors of a workgroup in that table.
override PLACE_VECTORS: u32 = 1u;

// What one dispatch walks, the same for every invocation; all but the first three in lanes.
struct Run {
    // The first workgroup, in the table.
    first: u32,
    // Workgroups that have work.
    groups: u32,
    grid_width: u32,
    // From one plane of the state to the next.
    stride: u32,
    // The stretch, where there is one only.
    params: u32,
    grads: u32,
    state: u32,
    lanes: u32,
    // What numbers are rounded by, where chance is: the tensor's word, and its first element here.
    key: u32,
    @size(12) element: u32,
}

// Where a lane lies in each of the three buffers.
struct At {
    params: u32,
    grads: u32,
    state: u32,
}

// For each workgroup its first lane in params, grads and state, and how many it has; where chance is, a second vector
// for each, of the tensor's word and the first element.
@group(0) @binding(3) var<storage, read> places: array<vec4<u32>>;
@group(0) @binding(4) var<uniform> run: Run;

// The number of a workgroup, in a grid that may be folded.
fn number(group: vec3<u32>) -> u32 {
    return select(group.x, group.y * run.grid_width + group.x, HAS_START);
}

// Its first lane in each buffer, and how many lanes it has; idle workgroups read what is there.
fn place(index: u32) -> vec4<u32> {
    if HAS_PLACES {
        return places[PLACE_VECTORS * (run.first + index)];
    }
    if HAS_START {
        return vec4<u32>(run.params, run.grads, run.state, run.lanes);
    }
    return vec4<u32>(0u, 0u, 0u, run.lanes);
}

// Where chance is: the tensor's word, and the first element of a workgroup or of the stretch.
fn origin(index: u32) -> vec2<u32> {
    if HAS_PLACES {
        return places[PLACE_VECTORS * (run.first + index) + 1u].xy;
    }
    return vec2<u32>(run.key, run.element);
}

// The place of an invocation among the lanes of its place.
fn lane(index: u32, local: u32) -> u32 {
    return select(index * WORKGROUP + local, local, HAS_PLACES);
}

// Whether that is one of so many. An idle workgroup of a folded grid lies past the end of a stretch; of a table it reads
// what is not its own.
fn has(index: u32, i: u32, lanes: u32) -> bool {
    return i < lanes && (!HAS_PLACES || index < run.groups);
}
