// RMSprop: the shader half of src/rule/rmsprop.rs, where the formula and the settings are described.

struct Hyper {
    l2: f32,
    alpha: f32,
    one_minus_alpha: f32,
    root: f32,
    eps: f32,
    momentum: f32,
    buffer_scale: f32,
    decay: f32,
    step_size: f32,
}

override HAS_MAXIMIZE: bool = false;
override HAS_L2: bool = false;
override HAS_DECAY: bool = false;
override HAS_CENTERED: bool = false;
override HAS_CLAMP_CENTERED: bool = false;
override HAS_ROOT: bool = false;
override HAS_MOMENTUM: bool = false;
override HAS_NESTEROV: bool = false;

override PLANE_SQUARE_AVG: u32 = 0u;
override PLANE_GRAD_AVG: u32 = 1u;
override PLANE_MOMENTUM_BUFFER: u32 = 2u;

fn update(h: Hyper, at: At) {
    let g0 = load_grads(at);
    let v0 = load_state(at, PLANE_SQUARE_AVG);
    var a0 = Lane(0.0);
    if HAS_CENTERED {
        a0 = load_state(at, PLANE_GRAD_AVG);
    }
    var b0 = Lane(0.0);
    if HAS_MOMENTUM {
        b0 = load_state(at, PLANE_MOMENTUM_BUFFER);
    }
    let p0 = load_params(at);
    // <update>
    let s = select(g0, -g0, HAS_MAXIMIZE);
    let g = select(s, s + h.l2 * p0, HAS_L2);
    let v = h.alpha * v0 + (h.one_minus_alpha * g) * g;
    let a = select(a0 + h.one_minus_alpha * (g - a0), g - h.alpha * (g - a0), h.alpha < h.one_minus_alpha);
    let c = v - a * a;
    let k = select(c, max(c, Lane(0.0)), HAS_CLAMP_CENTERED);
    let x = select(v, k, HAS_CENTERED);
    let r = select(x, x + h.root, HAS_ROOT);
    let d = sqrt(r) + h.eps;
    let f = g / d;
    let u = select(f, h.buffer_scale * f, HAS_MOMENTUM);
    let b = h.momentum * b0 + u;
    let n = select(b, u + h.momentum * b, HAS_NESTEROV);
    let q = h.step_size * select(u, n, HAS_MOMENTUM);
    let p = p0 - select(q, h.decay * p0 + q, HAS_DECAY);
    // </update>
    store_state(at, PLANE_SQUARE_AVG, v);
    if HAS_CENTERED {
        store_state(at, PLANE_GRAD_AVG, a);
    }
    if HAS_MOMENTUM {
        store_state(at, PLANE_MOMENTUM_BUFFER, b);
    }
    store_params(at, p);
}
