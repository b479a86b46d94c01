// The step of one lane, of whatever format, and what each workgroup moves its parameters by.

var<workgroup> parts: array<vec4<f32>, WORKGROUP>;

struct Job {
    // Where the parts of its workgroups go.
    first: u32,
    // Nothing, which no compiler knows.
    zero: u32,
}

@group(2) @binding(0) var<storage, read_write> partials: array<vec4<f32>>;
@group(2) @binding(1) var<uniform> job: Job;

// An integer stands between what was computed and what it is compared as: a compiler may take (p - u) - p for -u, where
// p - u was rounded.
fn moved(before: Lane, after: Lane) -> vec4<f32> {
    let kept = bitcast<Lane>(bitcast<Bits>(after) ^ Bits(job.zero));
    let by = kept - before;
    let own = finite(by);
    return vec4<f32>(squares(own), select(largest(own), NOT_FINITE, total(wrong(by)) > 0.0));
}

@compute @workgroup_size(WORKGROUP)
fn step(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = number(group);
    let first = place(index);
    let i = lane(index, local);
    var own = vec4<f32>();
    if has(index, i, first.w) {
        begin(index, i);
        let at = At(first.x + i, first.y + i, first.z + i);
        if admitted(at) {
            // Both as they lie in memory: with all that is around the update, and as rounded as they are kept.
            let before = load_params(at);
            update(hyper(), at);
            own = moved(before, load_params(at));
        }
    }
    finish(local);
    let all = joined(local, own);
    if local == 0u && index < run.groups {
        partials[job.first + index] = all;
    }
}
