// Moves rows of a tensor from where they were to where they are to be: parameters, or all planes of a window of state.

override WORKGROUP: u32 = 256u;

// A stretch of a tensor, in units: of a file in remap/, elements or some of them. Its first in the binding, its first in
// the tensor, how many it has, and how many there are from one plane to the next.
struct Stretch {
    first: u32,
    start: u32,
    len: u32,
    stride: u32,
}

struct Job {
    source: Stretch,
    destination: Stretch,
    // Workgroups that have work.
    groups: u32,
    grid_width: u32,
    planes: u32,
    // Units of a row.
    width: u32,
    // Rows that there were. A new row that comes from none of them is fresh.
    rows: u32,
    // The first word of the map in its binding.
    map: u32,
    // One of the three below.
    which: u32,
}

// The rows that come from old ones, from there.
const MAPPED = 0u;
// The same rows, from their own place.
const SETTLED = 1u;
// Fresh rows, from their own place.
const FRESH = 2u;

// For each new row the old one.
@group(0) @binding(2) var<storage, read> map: array<u32>;
@group(0) @binding(3) var<uniform> job: Job;

@compute @workgroup_size(WORKGROUP)
fn remap(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = group.y * job.grid_width + group.x;
    let i = index * WORKGROUP + local;
    if index >= job.groups || i >= job.destination.len {
        return;
    }
    let unit = job.destination.start + i;
    let old = map[job.map + unit / job.width];
    if (old < job.rows) == (job.which == FRESH) {
        return;
    }
    let own = select(unit, old * job.width + unit % job.width, job.which == MAPPED);
    // One before the stretch wraps round, to far past its end.
    let taken = own - job.source.start;
    if taken >= job.source.len {
        return;
    }
    for (var plane = 0u; plane < job.planes; plane++) {
        let source = job.source.first + plane * job.source.stride + taken;
        move_one(source, job.destination.first + plane * job.destination.stride + i);
    }
}
