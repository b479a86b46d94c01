// Cross-entropy of the log-softmax, and its gradient. An invocation for each row.

override ROWS: u32 = 1u;
override CLASSES: u32 = 1u;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
// Of the mean over all rows.
@group(0) @binding(2) var<storage, read_write> grad_logits: array<f32>;
// The loss of each row, and 1 where the largest logit is the label's.
@group(0) @binding(3) var<storage, read_write> scores: array<vec2<f32>>;

@compute @workgroup_size(64)
fn step(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x;
    if row >= ROWS {
        return;
    }
    let first = row * CLASSES;
    var guess = 0u;
    for (var column = 1u; column < CLASSES; column++) {
        if logits[first + column] > logits[first + guess] {
            guess = column;
        }
    }
    // With the largest taken off, no exponential overflows.
    let largest = logits[first + guess];
    var sum = 0.0;
    for (var column = 0u; column < CLASSES; column++) {
        sum += exp(logits[first + column] - largest);
    }
    let label = labels[row];
    for (var column = 0u; column < CLASSES; column++) {
        let probability = exp(logits[first + column] - largest) / sum;
        grad_logits[first + column] = (probability - select(0.0, 1.0, column == label)) / f32(ROWS);
    }
    scores[row] = vec2<f32>(log(sum) - (logits[first + label] - largest), select(0.0, 1.0, guess == label));
}
