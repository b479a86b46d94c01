// The chain around the update: the shader half of src/chain/gate.rs, where the fields are described.

struct Gate {
    factor: f32,
    limit: f32,
    least: f32,
    most: f32,
    keep: f32,
    take: f32,
    overwrite: f32,
    skip: f32,
    // The word of this step, for what is rounded by chance.
    @size(16) step_key: u32,
}

// What a class is stepped with, written by the host or by control.wgsl.
struct Row {
    gate: Gate,
    hyper: Hyper,
}

override HAS_FACTOR: bool = false;
override HAS_LIMIT: bool = false;
override HAS_CLAMP: bool = false;
override HAS_EMA: bool = false;
override HAS_ACCUMULATED: bool = false;
override HAS_ZERO_GRADS: bool = false;

override PLANE_EMA: u32 = 0u;
override PLANE_ACCUMULATED_GRAD: u32 = 0u;

@group(1) @binding(0) var<uniform> scalars: Row;

fn hyper() -> Hyper {
    return scalars.hyper;
}

// The gradient is taken whether or not the step is, so that an infinity in it does not stay.
fn consume(at: At) {
    if HAS_ACCUMULATED {
        store_state(at, PLANE_ACCUMULATED_GRAD, Lane(0.0));
    }
    if HAS_ZERO_GRADS {
        store_grads(at, Lane(0.0));
    }
}

fn admitted(at: At) -> bool {
    if HAS_FACTOR && scalars.gate.skip > 0.0 {
        consume(at);
        return false;
    }
    return true;
}

fn received(at: At, own: Lane) -> Lane {
    let gate = scalars.gate;
    var g0 = own;
    if HAS_ACCUMULATED {
        g0 = load_state(at, PLANE_ACCUMULATED_GRAD);
    }
    consume(at);
    // <receive>
    let f = select(g0, gate.factor * g0, HAS_FACTOR);
    let most = gate.limit + Lane(0.0);
    let g = select(f, max(min(f, most), -most), HAS_LIMIT);
    // </receive>
    return g;
}

fn settled(at: At, p0: Lane) -> Lane {
    let gate = scalars.gate;
    var e0 = Lane(0.0);
    if HAS_EMA {
        e0 = load_state(at, PLANE_EMA);
    }
    // <settle>
    let least = gate.least + Lane(0.0);
    let most = gate.most + Lane(0.0);
    let c = select(p0, min(max(p0, least), most), HAS_CLAMP);
    let e = gate.keep * e0 + gate.take * c;
    let p = select(c, e, HAS_EMA & (gate.overwrite > 0.0));
    // </settle>
    if HAS_EMA {
        store_state(at, PLANE_EMA, e);
    }
    return p;
}
