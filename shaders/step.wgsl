// The entry point: which element an invocation owns, and with which scalars it steps.
//
// A kernel is three files laid end to end: this one, the lanes (quads.wgsl or words.wgsl) and one rule/NAME.wgsl.

override WORKGROUP: u32 = 256u;

// One launch's tables, written once: a segment is a stretch of one tensor, in whole workgroups. `words` holds
// the segments, SEGMENT words each, and behind them the segment of each workgroup.
struct Tables {
    grid_width: u32,
    groups: u32,
    // Lanes from one plane of the state to the next.
    stride: u32,
    segments: u32,
    words: array<u32>,
}

const SEGMENT: u32 = 6u;

// The class of a tensor that is left alone in this step.
const SKIP: u32 = 0xffffffffu;

// Where a lane lies in each of the three buffers.
struct At {
    params: u32,
    grads: u32,
    state: u32,
}

@group(0) @binding(3) var<storage, read> tables: Tables;

// One Hyper for each class of tensors that share settings and step count, and each tensor's class.
@group(1) @binding(0) var<storage, read> scalars: array<Hyper>;
@group(1) @binding(1) var<storage, read> classes: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn step(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = group.y * tables.grid_width + group.x;
    if index >= tables.groups {
        return;
    }
    let segment = tables.words[tables.segments * SEGMENT + index] * SEGMENT;
    let first_group = tables.words[segment];
    let lanes = tables.words[segment + 1u];
    let i = (index - first_group) * WORKGROUP + local;
    if i >= lanes {
        return;
    }
    let row = classes[tables.words[segment + 2u]];
    if row == SKIP {
        return;
    }
    let at = At(
        tables.words[segment + 3u] + i,
        tables.words[segment + 4u] + i,
        tables.words[segment + 5u] + i,
    );
    update(scalars[row], at);
}
