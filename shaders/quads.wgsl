// Lanes of four elements, for tensors that start at a multiple of four.

alias Lane = vec4<f32>;
alias Bits = vec4<u32>;

@group(0) @binding(0) var<storage, read_write> params: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> grads: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> state: array<vec4<u32>>;

fn load_params(at: At) -> Lane {
    return bitcast<vec4<f32>>(params[at.params]);
}

fn store_params(at: At, p: Lane) {
    params[at.params] = bitcast<vec4<u32>>(settled(at, p));
}

fn load_grads(at: At) -> Lane {
    return received(at, bitcast<vec4<f32>>(grads[at.grads]));
}

fn store_grads(at: At, g: Lane) {
    grads[at.grads] = bitcast<vec4<u32>>(g);
}

fn load_state(at: At, plane: u32) -> Lane {
    return bitcast<vec4<f32>>(state[at.state + plane * run.stride]);
}

fn store_state(at: At, plane: u32, s: Lane) {
    state[at.state + plane * run.stride] = bitcast<vec4<u32>>(s);
}

// Of the elements of a lane.
fn total(x: Lane) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

fn largest(x: Lane) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
}
