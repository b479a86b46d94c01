// Which lane an invocation owns where listed rows of one tensor are walked: in the place of walk.wgsl, with the same
// functions.

override WORKGROUP: u32 = 256u;

// Whether the number of listed rows lies on the device.
override HAS_COUNT: bool = false;

// What one dispatch walks, the same for every invocation; in lanes, but for rows and words.
struct Run {
    // Workgroups that have work.
    groups: u32,
    grid_width: u32,
    // From one plane of the state to the next.
    stride: u32,
    // Where the piece of the tensor starts in each buffer.
    params: u32,
    grads: u32,
    state: u32,
    // Where it starts in the tensor, and how many lanes it has.
    start: u32,
    lanes: u32,
    // Rows of the tensor, and lanes of a row.
    rows: u32,
    width: u32,
    // The first word of the list in its binding, and the most rows that it may name.
    list: u32,
    most: u32,
    // The word that holds their number.
    count: u32,
    // The first lane of this dispatch, among those of all listed rows.
    first: u32,
    // What numbers are rounded by, where chance is: the tensor's word, and the first element of the piece.
    key: u32,
    element: u32,
}

// Where a lane lies in each of the three buffers.
struct At {
    params: u32,
    grads: u32,
    state: u32,
}

@group(0) @binding(3) var<storage, read> list: array<u32>;
@group(0) @binding(4) var<uniform> run: Run;
@group(0) @binding(5) var<storage, read> counts: array<u32>;

// No lane of the piece: that of a row that is not there.
const NONE = 0xffffffffu;

fn listed() -> u32 {
    if HAS_COUNT {
        return min(run.most, counts[run.count]);
    }
    return run.most;
}

// The number of a workgroup, in a grid that may be folded.
fn number(group: vec3<u32>) -> u32 {
    return group.y * run.grid_width + group.x;
}

fn place(index: u32) -> vec4<u32> {
    return vec4<u32>(run.params, run.grads, run.state, run.lanes);
}

fn origin(index: u32) -> vec2<u32> {
    return vec2<u32>(run.key, run.element);
}

// The place of an invocation's lane in the piece.
fn lane(index: u32, local: u32) -> u32 {
    let nth = run.first + index * WORKGROUP + local;
    let entry = nth / run.width;
    if index >= run.groups || entry >= listed() {
        return NONE;
    }
    let row = list[run.list + entry];
    if row >= run.rows {
        return NONE;
    }
    // One before the piece wraps round, to far past its end.
    return row * run.width + nth % run.width - run.start;
}

fn has(index: u32, i: u32, lanes: u32) -> bool {
    return i < lanes;
}
