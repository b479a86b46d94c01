// What is decided once for a step, by one workgroup: whether it is taken, what gradients are multiplied by, and, where
// steps may be left out, the scalars of each class at its own step count. The device half of src/chain/control.rs and
// src/rule/correction.rs. It knows no rule: a scalar is a number, and how it depends on the step count.

const INVOCATIONS = 64u;
// Words from one class's row to the next, and where its scalars start.
const ROW = 64u;
const HYPER = 12u;
// Words of a class in the orders, before its scalars.
const CLASS = 6u;

// How a scalar depends on the step count.
const OVER_FIRST = 1u;
const AHEAD = 2u;
const OVER_SECOND = 3u;
const OVER_ROOT_SECOND = 4u;
const TIMES_SECOND = 5u;
const TIMES_ROOT_SECOND = 6u;
const ROOT_SECOND_OVER_FIRST = 7u;

override HAS_SCALER: bool = false;
override HAS_CLIP: bool = false;
override HAS_INF: bool = false;

struct Orders {
    classes: u32,
    tensors: u32,
    scopes: u32,
    // Scalars of a class.
    fields: u32,
    max_norm: f32,
    eps: f32,
    growth_factor: f32,
    backoff_factor: f32,
    growth_interval: u32,
    ema_decay: f32,
    // One less the decay, which f32 cannot tell from the decay of a long average.
    ema_take: f32,
    overwrite_every: u32,
    limit: f32,
    least: f32,
    most: f32,
    // Tensors that are given another step count before this step.
    sets: u32,
    // The number of this step among those recorded.
    number: u32,
    // For each class its scope, a tensor of it, the step count where the host knows it, ln of both betas, the word
    // of chance, and each scalar with its correction; then the tensor and the count of each set.
    words: array<u32>,
}

// What outlives a step.
struct Scaler {
    scale: f32,
    growth_tracker: u32,
    skipped: u32,
    recorded: u32,
}

struct Report {
    number: u32,
    skipped: u32,
    // The norm of all gradients, unscaled, and what the first scope's were multiplied by, the scale apart.
    norm: f32,
    clip: f32,
    // Before the step.
    scale: f32,
    nonfinite: u32,
    all_skipped: u32,
    spare: u32,
}

@group(0) @binding(0) var<storage, read> orders: Orders;
@group(0) @binding(1) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> scaler: Scaler;
// Steps that each tensor has taken.
@group(0) @binding(3) var<storage, read_write> steps: array<u32>;
// Each tensor's class, or more than there are.
@group(0) @binding(4) var<storage, read> roll: array<u32>;
@group(0) @binding(5) var<storage, read_write> rows: array<u32>;
@group(0) @binding(6) var<storage, read_write> report: Report;

struct Biases {
    first: f32,
    ahead: f32,
    second: f32,
}

const UP = 0x1p+64f;
const DOWN = 0x1p-84f;

// The root of the three sums of norm.wgsl, or the maximum. Sums are brought to one scale by their roots: the square of a
// scale is no f32, should a compiler put its factors together.
fn root(sum: vec4<f32>) -> f32 {
    if HAS_INF {
        return sum.x;
    }
    if sum.z > 0.0 {
        let between = sqrt(sum.y) * DOWN;
        return sqrt(sum.z + between * between) / DOWN;
    }
    if sum.y > 0.0 {
        let small = sqrt(sum.x) / UP;
        return sqrt(sum.y + small * small);
    }
    return sqrt(sum.x) / UP;
}

fn together(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let largest = vec4<f32>(max(a.xyz, b.xyz), a.w + b.w);
    return select(a + b, largest, HAS_INF);
}

// What a gradient of this norm is multiplied by.
fn clipped(norm: f32) -> f32 {
    let one = 1.0;
    let eps = orders.eps;
    let max_norm = orders.max_norm;
    // <clip>
    let reach = norm + eps;
    let factor = select(one, max_norm / reach, reach > max_norm);
    // </clip>
    return factor;
}

// What gradients of this scope are multiplied by, the scale apart: nothing is left of those whose norm is not finite.
fn clip_of(scope: u32, scale: f32) -> f32 {
    let sum = sums[scope];
    let finite = select(clipped(root(sum) / scale), 0.0, sum.w > 0.0);
    return select(1.0, finite, HAS_CLIP);
}

// A count one step later; the last one stays.
fn after(step: u32) -> u32 {
    return max(step + 1u, step);
}

fn bias_at(log_beta: f32, step: u32) -> f32 {
    let x = -(f32(step) * log_beta);
    // <bias>
    let low = 1.0 - x / 5.0 * (1.0 - x / 6.0 * (1.0 - x / 7.0 * (1.0 - x / 8.0)));
    let series = x * (1.0 - x / 2.0 * (1.0 - x / 3.0 * (1.0 - x / 4.0 * low)));
    let bias = select(1.0 - exp(-x), series, x < 0.5);
    // </bias>
    return bias;
}

fn corrected_by(x: f32, how: u32, b: Biases) -> f32 {
    // <correct>
    let f = select(x, x / b.first, how == OVER_FIRST);
    let a = select(f, x * (b.first / b.ahead), how == AHEAD);
    let s = select(a, x / b.second, how == OVER_SECOND);
    let r = select(s, x / sqrt(b.second), how == OVER_ROOT_SECOND);
    let t = select(r, x * b.second, how == TIMES_SECOND);
    let q = select(t, x * sqrt(b.second), how == TIMES_ROOT_SECOND);
    let corrected = select(q, x * (sqrt(b.second) / b.first), how == ROOT_SECOND_OVER_FIRST);
    // </correct>
    return corrected;
}

fn word(i: u32) -> f32 {
    return bitcast<f32>(orders.words[i]);
}

// A class's gate and scalars.
fn write_row(class_: u32, skip: bool, scale: f32) {
    let own = class_ * (CLASS + 2u * orders.fields);
    var step = orders.words[own + 2u];
    if HAS_SCALER {
        step = after(steps[orders.words[own + 1u]]);
    }
    let biases = Biases(
        bias_at(word(own + 3u), step),
        bias_at(word(own + 3u), after(step)),
        bias_at(word(own + 4u), step),
    );
    let keep = select(0.0, orders.ema_decay, step > 1u);
    let overwrites = orders.overwrite_every > 0u && step % max(orders.overwrite_every, 1u) == 0u;
    let factor = clip_of(orders.words[own], scale) / scale;
    let row = class_ * ROW;
    rows[row] = bitcast<u32>(factor);
    rows[row + 1u] = bitcast<u32>(orders.limit);
    rows[row + 2u] = bitcast<u32>(orders.least);
    rows[row + 3u] = bitcast<u32>(orders.most);
    rows[row + 4u] = bitcast<u32>(keep);
    rows[row + 5u] = bitcast<u32>(select(1.0, orders.ema_take, step > 1u));
    rows[row + 6u] = bitcast<u32>(select(0.0, 1.0, overwrites));
    rows[row + 7u] = bitcast<u32>(select(0.0, 1.0, skip));
    rows[row + 8u] = orders.words[own + 5u];
    for (var field = 0u; field < orders.fields; field++) {
        let at = own + CLASS + 2u * field;
        rows[row + HYPER + field] = bitcast<u32>(corrected_by(word(at), orders.words[at + 1u], biases));
    }
}

// The least scale whose inverse is finite everywhere.
const LEAST_SCALE = 0x1p-126f;

// The scaler after a step.
fn move_scale(found: bool, skip: bool) {
    let grown = scaler.scale * orders.growth_factor;
    let less = scaler.scale * orders.backoff_factor;
    let clean = select(scaler.growth_tracker + 1u, 0u, found);
    // Not only when it is equal: the interval may have become shorter.
    let grows = clean >= orders.growth_interval;
    let kept = select(scaler.scale, grown, grows && (bitcast<u32>(grown) & 0x7f800000u) != 0x7f800000u);
    scaler.scale = select(kept, select(scaler.scale, less, less >= LEAST_SCALE), found);
    scaler.growth_tracker = select(clean, 0u, grows);
    scaler.skipped += select(0u, 1u, skip);
}

fn tell(all: vec4<f32>, skip: bool, scale: f32) {
    report.number = orders.number;
    report.skipped = select(0u, 1u, skip);
    report.norm = root(all) / scale;
    report.clip = clip_of(0u, scale);
    report.scale = scale;
    report.nonfinite = u32(all.w);
    report.all_skipped = scaler.skipped;
}

// Loops have the same turns for all: Mesa's GL leaves an invocation that had fewer out of what follows.
@compute @workgroup_size(INVOCATIONS)
fn control(@builtin(local_invocation_index) local: u32) {
    for (var first = 0u; first < orders.sets; first += INVOCATIONS) {
        let own = orders.classes * (CLASS + 2u * orders.fields) + 2u * (first + local);
        if first + local < orders.sets {
            steps[orders.words[own]] = orders.words[own + 1u];
        }
    }
    storageBarrier();
    var all = vec4<f32>();
    for (var scope = 0u; scope < orders.scopes; scope++) {
        all = together(all, sums[scope]);
    }
    let found = all.w > 0.0;
    let skip = HAS_SCALER && found;
    let scale = select(1.0, scaler.scale, HAS_SCALER);
    for (var first = 0u; first < orders.classes; first += INVOCATIONS) {
        if first + local < orders.classes {
            write_row(first + local, skip, scale);
        }
    }
    // Everybody has read the scale and the steps.
    storageBarrier();
    for (var first = 0u; first < orders.tensors; first += INVOCATIONS) {
        let tensor = first + local;
        if tensor < orders.tensors && !skip && roll[tensor] < orders.classes {
            steps[tensor] = after(steps[tensor]);
        }
    }
    if local == 0u {
        if HAS_SCALER {
            move_scale(found, skip);
        }
        tell(all, skip, scale);
    }
}
