// A layer forwards: output = input * transpose(weight) + bias. An invocation for each element of the output.

override ROWS: u32 = 1u;
override INPUTS: u32 = 1u;
override OUTPUTS: u32 = 1u;
override HAS_RELU: bool = false;

@group(0) @binding(0) var<storage, read> input: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(8, 8)
fn step(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x;
    let row = id.y;
    if column >= OUTPUTS || row >= ROWS {
        return;
    }
    var sum = bias[column];
    for (var i = 0u; i < INPUTS; i++) {
        sum += input[row * INPUTS + i] * weight[column * INPUTS + i];
    }
    output[row * OUTPUTS + column] = select(sum, max(sum, 0.0), HAS_RELU);
}
