// Adam: the shader half of src/rule/adam.rs, where the formula and the settings are described.

struct Hyper {
    l2: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    max_scale: f32,
    nesterov_m: f32,
    nesterov_g: f32,
    root: f32,
    eps: f32,
    decay: f32,
    step_size: f32,
}

override HAS_MAXIMIZE: bool = false;
override HAS_L2: bool = false;
override HAS_DECAY: bool = false;
override HAS_LOW_BETA1: bool = false;
override HAS_AMSGRAD: bool = false;
override HAS_ROOT: bool = false;
override HAS_NESTEROV: bool = false;

override PLANE_EXP_AVG: u32 = 0u;
override PLANE_EXP_AVG_SQ: u32 = 1u;
override PLANE_MAX_EXP_AVG_SQ: u32 = 2u;

fn update(h: Hyper, at: At) {
    let g0 = load_grads(at);
    let m0 = load_state(at, PLANE_EXP_AVG);
    let v0 = load_state(at, PLANE_EXP_AVG_SQ);
    var x0 = Lane(0.0);
    if HAS_AMSGRAD {
        x0 = load_state(at, PLANE_MAX_EXP_AVG_SQ);
    }
    let p0 = load_params(at);
    // <update>
    let s = select(g0, -g0, HAS_MAXIMIZE);
    let g = select(s, s + h.l2 * p0, HAS_L2);
    let m = select(m0 + h.one_minus_beta1 * (g - m0), g - h.beta1 * (g - m0), HAS_LOW_BETA1);
    let v = h.beta2 * v0 + (h.one_minus_beta2 * g) * g;
    let c = h.max_scale * v;
    let x = select(c, x0, x0 > c);
    let w = select(v, x, HAS_AMSGRAD);
    let r = select(w, w + h.root, HAS_ROOT);
    let d = sqrt(r) + h.eps;
    let n = select(m, h.nesterov_m * m + h.nesterov_g * g, HAS_NESTEROV);
    let u = h.step_size * (n / d);
    let p = p0 - select(u, h.decay * p0 + u, HAS_DECAY);
    // </update>
    store_state(at, PLANE_EXP_AVG, m);
    store_state(at, PLANE_EXP_AVG_SQ, v);
    if HAS_AMSGRAD {
        store_state(at, PLANE_MAX_EXP_AVG_SQ, x);
    }
    store_params(at, p);
}
