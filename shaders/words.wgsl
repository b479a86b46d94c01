// Lanes of one element, for tensors that start anywhere, and for what is left of a length over a multiple of four.

alias Lane = f32;
alias Bits = u32;

@group(0) @binding(0) var<storage, read_write> params: array<u32>;
@group(0) @binding(1) var<storage, read_write> grads: array<u32>;
@group(0) @binding(2) var<storage, read_write> state: array<u32>;

fn load_params(at: At) -> Lane {
    return bitcast<f32>(params[at.params]);
}

fn store_params(at: At, p: Lane) {
    params[at.params] = bitcast<u32>(settled(at, p));
}

fn load_grads(at: At) -> Lane {
    return received(at, bitcast<f32>(grads[at.grads]));
}

fn store_grads(at: At, g: Lane) {
    grads[at.grads] = bitcast<u32>(g);
}

fn load_state(at: At, plane: u32) -> Lane {
    return bitcast<f32>(state[at.state + plane * run.stride]);
}

fn store_state(at: At, plane: u32, s: Lane) {
    state[at.state + plane * run.stride] = bitcast<u32>(s);
}

// Of the elements of a lane.
fn total(x: Lane) -> f32 {
    return x;
}

fn largest(x: Lane) -> f32 {
    return x;
}
