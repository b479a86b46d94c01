// The mean loss and the share of rows that are right. One workgroup, which sums by a tree of fixed shape: the same
// bits at every run, and a rounding that grows with the tree's height instead of the number of rows.

override ROWS: u32 = 1u;

const LANES: u32 = 256u;

@group(0) @binding(0) var<storage, read> scores: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> tally: vec2<f32>;

var<workgroup> sums: array<vec2<f32>, LANES>;

@compute @workgroup_size(LANES)
fn step(@builtin(local_invocation_index) lane: u32) {
    var sum = vec2<f32>(0.0);
    for (var row = lane; row < ROWS; row += LANES) {
        sum += scores[row];
    }
    sums[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if lane < half {
            sums[lane] += sums[lane + half];
        }
        workgroupBarrier();
    }
    if lane == 0u {
        tally = sums[0] / f32(ROWS);
    }
}
