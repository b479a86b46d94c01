// What one workgroup's gradients add to the norm.

var<workgroup> parts: array<vec4<f32>, WORKGROUP>;

override HAS_ACCUMULATED: bool = false;
override PLANE_ACCUMULATED_GRAD: u32 = 0u;

struct Job {
    // Where the parts of its workgroups go.
    first: u32,
}

@group(1) @binding(0) var<storage, read_write> partials: array<vec4<f32>>;
@group(1) @binding(1) var<uniform> job: Job;

fn gradient(at: At) -> Lane {
    if HAS_ACCUMULATED {
        return load_state(at, PLANE_ACCUMULATED_GRAD);
    }
    return load_grads(at);
}

fn weighed(g: Lane) -> vec4<f32> {
    let a = finite(g);
    let count = total(wrong(g));
    if HAS_INF {
        return vec4<f32>(largest(a), 0.0, 0.0, count);
    }
    return vec4<f32>(squares(a), count);
}

@compute @workgroup_size(WORKGROUP)
fn measure(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = number(group);
    let first = place(index);
    let i = lane(index, local);
    var own = vec4<f32>();
    if has(index, i, first.w) {
        own = weighed(gradient(At(first.x + i, first.y + i, first.z + i)));
    }
    let all = joined(local, own);
    if local == 0u && index < run.groups {
        partials[job.first + index] = all;
    }
}

// Nothing is around a gradient that is only looked at.
fn received(at: At, g0: Lane) -> Lane {
    return g0;
}
