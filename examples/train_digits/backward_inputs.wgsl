// A layer backwards, to what came in: grad_input = grad_output * weight, where the ReLU before the layer let it
// through. An invocation for each element of the input.

override ROWS: u32 = 1u;
override INPUTS: u32 = 1u;
override OUTPUTS: u32 = 1u;

@group(0) @binding(0) var<storage, read> grad_output: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> input: array<f32>;
@group(0) @binding(3) var<storage, read_write> grad_input: array<f32>;

@compute @workgroup_size(8, 8)
fn step(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x;
    let row = id.y;
    if column >= INPUTS || row >= ROWS {
        return;
    }
    var sum = 0.0;
    for (var i = 0u; i < OUTPUTS; i++) {
        sum += grad_output[row * OUTPUTS + i] * weight[i * INPUTS + column];
    }
    let at = row * INPUTS + column;
    grad_input[at] = select(0.0, sum, input[at] > 0.0);
}
