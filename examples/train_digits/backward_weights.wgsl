// A layer backwards, to its parameters: grad_weight = transpose(grad_output) * input, and grad_bias is the sum of
// grad_output over the rows, which makes it the gradient of a weight whose input is always 1: one more column.
//
// A workgroup sums for one output and some columns. Its rows are dealt to strips, whose sums meet in a tree of fixed
// shape: no atomics, the same bits at every run, and little rounding.

override ROWS: u32 = 1u;
override INPUTS: u32 = 1u;
override OUTPUTS: u32 = 1u;

const COLUMNS: u32 = 8u;
const STRIPS: u32 = 32u;

@group(0) @binding(0) var<storage, read> grad_output: array<f32>;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> grad_weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> grad_bias: array<f32>;

var<workgroup> sums: array<array<f32, COLUMNS>, STRIPS>;

@compute @workgroup_size(COLUMNS, STRIPS)
fn step(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let output = group.y;
    let column = group.x * COLUMNS + local.x;
    sums[local.y][local.x] = strip(local.y, output, column);
    // Idle columns sum zeros, since every invocation has to reach the barriers.
    workgroupBarrier();
    for (var half = STRIPS / 2u; half > 0u; half /= 2u) {
        if local.y < half {
            sums[local.y][local.x] += sums[local.y + half][local.x];
        }
        workgroupBarrier();
    }
    if local.y == 0u && column < INPUTS {
        grad_weight[output * INPUTS + column] = sums[0][local.x];
    } else if local.y == 0u && column == INPUTS {
        grad_bias[output] = sums[0][local.x];
    }
}

fn strip(first: u32, output: u32, column: u32) -> f32 {
    var sum = 0.0;
    if column > INPUTS {
        return sum;
    }
    for (var row = first; row < ROWS; row += STRIPS) {
        var x = 1.0;
        if column < INPUTS {
            x = input[row * INPUTS + column];
        }
        sum += grad_output[row * OUTPUTS + output] * x;
    }
    return sum;
}
