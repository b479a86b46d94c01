// The entry point: which lane an invocation owns, and with which scalars it steps.
//
// A kernel is three files laid end to end: this one, the lanes (quads.wgsl or words.wgsl) and one rule/NAME.wgsl.

override WORKGROUP: u32 = 256u;

// Whether a dispatch steps more than one stretch of lanes, and finds them in the launch's table.
override HAS_PLACES: bool = false;

// What one dispatch steps, the same for every invocation; all but the first three in lanes.
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
}

// Where a lane lies in each of the three buffers.
struct At {
    params: u32,
    grads: u32,
    state: u32,
}

// For each workgroup its first lane in params, grads and state, and how many it has.
@group(0) @binding(3) var<storage, read> places: array<vec4<u32>>;
@group(0) @binding(4) var<uniform> run: Run;

// The scalars of the step, those of the run's class.
@group(1) @binding(0) var<uniform> scalars: Hyper;

// Idle workgroups read what is there, and do nothing with it.
@compute @workgroup_size(WORKGROUP)
fn step(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = group.y * run.grid_width + group.x;
    var first = vec4<u32>(run.params, run.grads, run.state, run.lanes);
    var i = index * WORKGROUP + local;
    if HAS_PLACES {
        first = places[run.first + index];
        i = local;
    }
    if index < run.groups && i < first.w {
        update(scalars, At(first.x + i, first.y + i, first.z + i));
    }
}
