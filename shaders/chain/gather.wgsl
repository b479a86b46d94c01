// The parts of each scope as one: the second pass of the norm, a workgroup for each scope.

override WORKGROUP: u32 = 256u;

var<workgroup> parts: array<vec4<f32>, WORKGROUP>;

// Parts that are summed up before their sum is added to others: a long sum of sums loses less than a long sum.
const BLOCK = 16u;

@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
// The first part of each scope, and how many it has.
@group(0) @binding(1) var<storage, read> scopes: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> sums: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let scope = group.y * groups.x + group.x;
    let there = scope < arrayLength(&scopes);
    let range = scopes[select(0u, scope, there)];
    var own = vec4<f32>();
    // The same turns for all: see control.wgsl.
    for (var block = 0u; block < range.y; block += BLOCK * WORKGROUP) {
        var part = vec4<f32>();
        for (var k = 0u; k < BLOCK; k++) {
            let i = block + k * WORKGROUP + local;
            if i < range.y {
                part = join(part, partials[range.x + i]);
            }
        }
        own = join(own, part);
    }
    let all = joined(local, own);
    if local == 0u && there {
        sums[scope] = all;
    }
}
