//! RMSprop: the gradient over the root of its running mean square.

use super::{Decay, Range, Rule, Slots, Value, scalars, settings, words};
use crate::Error;
use crate::rule::settings::{gradient_line, number, plus};
use crate::wgsl::{Lane, Real, max, select, sqrt};

/// RMSprop's settings.
///
/// With `g` the gradient (negated by `maximize`, plus `weight_decay * p` for [`Decay::L2`]):
///
/// ```text
/// v = alpha * v + (1 - alpha) * g^2          square_avg
/// a = a + (1 - alpha) * (g - a)              grad_avg, if centered
/// u = g / (sqrt(v - a^2) + eps)              without a, g / (sqrt(v) + eps)
/// b = momentum * b + u                       momentum_buffer, if momentum > 0
/// p = p - lr * b                             without b, p - lr * u
/// ```
///
/// [`RmsPropEpsilon`] moves eps, `lr_in_momentum` scales `u` by lr before the buffer takes it, `nesterov` steps
/// by `u + momentum * b`.
///
/// The default is [`RmsProp::PYTORCH`]. Cost: 20 bytes moved per `f32` element, 8 more for each of `centered`
/// and `momentum`.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsProp {
    /// The learning rate, `>= 0`.
    pub lr: f64,
    /// The decay of the mean square, in `[0, 1)`. Keras's `rho`, optax's `decay`, the article's gamma.
    pub alpha: f64,
    /// Keeps the denominator from zero, `>= 0`. With 0 an element whose gradients were all zero becomes NaN, as
    /// it does in PyTorch.
    pub eps: f64,
    /// Where `eps` stands.
    pub epsilon: RmsPropEpsilon,
    /// The strength of the decay, `>= 0`; 0 is none.
    pub weight_decay: f64,
    /// Where the decay enters.
    pub decay: Decay,
    /// The share of the last step that goes on, in `[0, 1)`; 0 is none. Keeps the slot `momentum_buffer`.
    pub momentum: f64,
    /// Scale by lr before the momentum buffer (Keras, optax) or after it (PyTorch). The two differ once lr
    /// changes between steps.
    pub lr_in_momentum: bool,
    /// Step by `u + momentum * b` instead of `b` (optax). Needs momentum.
    pub nesterov: bool,
    /// Take the variance, not the mean square, for the denominator. Keeps the slot `grad_avg`.
    pub centered: bool,
    /// Hold `v - a^2` at 0 where rounding makes it negative. The frameworks do not, and go NaN there (PyTorch,
    /// after some hundred steps of a constant gradient); the presets are exact to them, so this is off. It must be on
    /// where `square_avg` or `grad_avg` is kept in fewer bits: of 8, some steps of much the same gradient would do.
    pub clamp_centered: bool,
    /// Go up the gradient.
    pub maximize: bool,
    /// What `square_avg` starts from, `>= 0`; 1 in TensorFlow 1, 0 elsewhere.
    pub initial_scale: f64,
}

words! {
    /// Where RMSprop's `eps` stands.
    pub enum RmsPropEpsilon {
        /// `sqrt(v) + eps`: PyTorch.
        Outside = "outside",
        /// `sqrt(v + eps)`: Keras 3, optax, the article.
        Inside = "inside",
        /// Inside with momentum, outside without: the legacy tf.keras. Resolved once momentum is known.
        InsideWithMomentum = "inside_with_momentum",
    }
}

impl RmsProp {
    /// `torch.optim.RMSprop`: lr 1e-2, alpha 0.99, eps 1e-8 outside the root, lr outside the momentum buffer.
    /// Source: PyTorch 2.15, `torch/optim/rmsprop.py`.
    pub const PYTORCH: Self = Self {
        lr: 1e-2,
        alpha: 0.99,
        eps: 1e-8,
        epsilon: RmsPropEpsilon::Outside,
        weight_decay: 0.0,
        decay: Decay::L2,
        momentum: 0.0,
        lr_in_momentum: false,
        nesterov: false,
        centered: false,
        clamp_centered: false,
        maximize: false,
        initial_scale: 0.0,
    };

    /// `keras.optimizers.RMSprop`: lr 1e-3, rho 0.9, eps 1e-7 inside the root, lr inside the momentum buffer,
    /// decoupled decay. `b = momentum * b + lr * g / sqrt(v + eps); p -= b`.
    /// Source: Keras 3.15, `optimizers/rmsprop.py`.
    pub const KERAS: Self = Self {
        lr: 1e-3,
        alpha: 0.9,
        eps: 1e-7,
        epsilon: RmsPropEpsilon::Inside,
        decay: Decay::Decoupled,
        lr_in_momentum: true,
        ..Self::PYTORCH
    };

    /// `tf.keras.optimizers.legacy.RMSprop` (TensorFlow up to 2.10): as [`KERAS`](Self::KERAS), but eps stands
    /// outside the root unless there is momentum. Source: tf_keras 2.21, `optimizers/legacy/rmsprop.py`.
    pub const TF_KERAS_LEGACY: Self = Self { epsilon: RmsPropEpsilon::InsideWithMomentum, ..Self::KERAS };

    /// `optax.rmsprop`: decay 0.9, eps 1e-8 inside the root, lr inside the momentum buffer. There is no default
    /// lr: it must be given. Source: optax 0.2.8, `rmsprop`, `scale_by_rms`, `scale_by_stddev`.
    pub const OPTAX: Self = Self { lr: f64::NAN, eps: 1e-8, decay: Decay::Inside, ..Self::KERAS };

    /// The textbook: `v = 0.9 v + 0.1 g^2; p -= 0.001 * g / sqrt(v + 1e-8)`.
    /// Source: Hinton's lecture 6e and the articles that quote it, with eps inside the root.
    pub const ARTICLE: Self = Self { lr: 1e-3, ..Self::OPTAX };
}

impl Default for RmsProp {
    fn default() -> Self {
        Self::PYTORCH
    }
}

scalars! {
    /// RMSprop's scalars for one step.
    pub struct RmsPropHyper {
        l2,
        alpha,
        one_minus_alpha,
        /// `d = sqrt(x + root) + eps`.
        root,
        eps,
        momentum,
        /// What `g / d` is scaled by before the momentum buffer takes it.
        buffer_scale,
        /// The share of `p` that decay takes off.
        decay,
        step_size,
    }
}

impl Rule for RmsProp {
    const NAME: &'static str = "rmsprop";
    const SLOTS: &'static [&'static str] = &["square_avg", "grad_avg", "momentum_buffer"];
    const WGSL: &'static str = include_str!("../../shaders/rule/rmsprop.wgsl");
    const PRESETS: &'static [(&'static str, &'static str, Self)] = &[
        ("rmsprop", "pytorch", RmsProp::PYTORCH),
        ("rmsprop", "keras", RmsProp::KERAS),
        ("rmsprop", "tf-keras-legacy", RmsProp::TF_KERAS_LEGACY),
        ("rmsprop", "optax", RmsProp::OPTAX),
        ("rmsprop", "article", RmsProp::ARTICLE),
    ];

    const CYCLED: Option<&'static str> = Some("momentum");
    type Hyper<T: Real> = RmsPropHyper<T>;

    settings! {
        lr, alpha, eps, epsilon, weight_decay, decay, momentum, lr_in_momentum, nesterov, centered,
        clamp_centered, maximize, initial_scale,
    }

    fn check(&self) -> Result<(), Error> {
        let range = Range(Self::NAME);
        range.given("lr", self.lr)?;
        range.not_negative("lr", self.lr)?;
        range.share("alpha", self.alpha)?;
        range.epsilon("eps", self.eps)?;
        range.given("weight_decay", self.weight_decay)?;
        range.not_negative("weight_decay", self.weight_decay)?;
        range.share("momentum", self.momentum)?;
        range.not_negative("initial_scale", self.initial_scale)?;
        if self.nesterov && self.momentum == 0.0 {
            return Err(Error::Setting {
                rule: Self::NAME,
                setting: "nesterov",
                found: "true".into(),
                expected: "false, or a momentum > 0 to look ahead with".into(),
            });
        }
        Ok(())
    }

    fn structure(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("centered", Value::Flag(self.centered)),
            ("clamp_centered", Value::Flag(self.clamp_centered)),
            ("momentum > 0", Value::Flag(self.has_momentum())),
            ("nesterov", Value::Flag(self.nesterov)),
            ("lr_in_momentum", Value::Flag(self.has_momentum() && self.lr_in_momentum)),
        ]
    }

    fn keeps(&self, slot: usize) -> bool {
        match Self::SLOTS[slot] {
            "grad_avg" => self.centered,
            "momentum_buffer" => self.has_momentum(),
            _ => true,
        }
    }

    fn is_signed(slot: usize) -> bool {
        Self::SLOTS[slot] != "square_avg"
    }

    fn must_be_full(&self, slot: usize) -> Option<&'static str> {
        let is_subtracted = self.centered && !self.clamp_centered && Self::SLOTS[slot] != "momentum_buffer";
        is_subtracted.then_some(
            "where gradients vary little, rounding makes v - a^2 negative and its root NaN; set clamp_centered = true, or \
             keep square_avg and grad_avg in f32",
        )
    }

    fn initial(&self, slot: usize) -> f64 {
        match Self::SLOTS[slot] {
            "square_avg" => self.initial_scale,
            _ => 0.0,
        }
    }

    fn switches(&self) -> Vec<(&'static str, bool)> {
        vec![
            ("HAS_MAXIMIZE", self.maximize),
            ("HAS_L2", self.has_l2()),
            ("HAS_DECAY", self.has_decay()),
            ("HAS_CENTERED", self.centered),
            ("HAS_CLAMP_CENTERED", self.clamp_centered),
            ("HAS_ROOT", self.has_root()),
            ("HAS_MOMENTUM", self.has_momentum()),
            ("HAS_NESTEROV", self.nesterov),
        ]
    }

    fn scalars(&self) -> RmsPropHyper<f64> {
        let lr_first = self.lr_in_momentum && self.has_momentum();
        let l2 = if self.decay == Decay::L2 { self.weight_decay } else { 0.0 };
        RmsPropHyper {
            l2,
            alpha: self.alpha,
            one_minus_alpha: 1.0 - self.alpha,
            root: if self.has_root() { self.eps } else { 0.0 },
            eps: if self.has_root() { 0.0 } else { self.eps },
            momentum: self.momentum,
            buffer_scale: if lr_first { self.lr } else { 1.0 },
            decay: self.lr * (self.weight_decay - l2),
            step_size: if lr_first { 1.0 } else { self.lr },
        }
    }

    #[allow(non_snake_case, reason = "the shader's names for its switches")]
    #[inline(always)]
    fn update<T: Real>(&self, h: &RmsPropHyper<T>, p0: T, g0: T, [v0, a0, b0]: Slots<T>) -> (T, Slots<T>) {
        let HAS_MAXIMIZE = self.maximize;
        let HAS_L2 = self.has_l2();
        let HAS_DECAY = self.has_decay();
        let HAS_CENTERED = self.centered;
        let HAS_CLAMP_CENTERED = self.clamp_centered;
        let HAS_ROOT = self.has_root();
        let HAS_MOMENTUM = self.has_momentum();
        let HAS_NESTEROV = self.nesterov;
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
        (p, [v, a, b])
    }

    fn formula(&self) -> Vec<String> {
        let h = self.fold(1);
        let times = |x: f64| if x == 1.0 { String::new() } else { format!("{} * ", number(x)) };
        let alpha = number(self.alpha);
        let mut lines = vec![gradient_line(self.maximize, h.l2)];
        lines.push(format!("v = {alpha} * v + (1 - {alpha}) * g^2"));
        if self.centered {
            lines.push(format!("a = a + (1 - {alpha}) * (g - a)"));
        }
        let denominator = format!("sqrt({}{}){}", self.square(), plus(h.root, ""), plus(h.eps, ""));
        lines.push(format!("u = {}g / ({denominator})", times(h.buffer_scale)));
        let mut step = "u".to_string();
        if self.has_momentum() {
            let momentum = number(h.momentum);
            lines.push(format!("b = {momentum} * b + u"));
            step = if self.nesterov { format!("(u + {momentum} * b)") } else { "b".into() };
        }
        if h.decay > 0.0 {
            lines.push(format!("p = p - {} * {} * p", number(self.lr), number(self.weight_decay)));
        }
        lines.push(format!("p = p - {}{step}", times(h.step_size)));
        lines
    }

    fn cases() -> Vec<(&'static str, Self)> {
        let lr = 1e-3;
        let momentum = 0.9;
        vec![
            ("pytorch", Self::PYTORCH),
            ("pytorch momentum l2", RmsProp { momentum, weight_decay: 0.1, ..Self::PYTORCH }),
            ("pytorch centered", RmsProp { centered: true, clamp_centered: true, ..Self::PYTORCH }),
            ("keras", Self::KERAS),
            ("keras momentum decay", RmsProp { lr: 0.05, momentum, weight_decay: 1.0, ..Self::KERAS }),
            ("keras centered momentum", RmsProp { centered: true, momentum, ..Self::KERAS }),
            ("legacy", Self::TF_KERAS_LEGACY),
            ("legacy momentum", RmsProp { momentum, ..Self::TF_KERAS_LEGACY }),
            ("optax nesterov", RmsProp { lr, momentum, nesterov: true, ..Self::OPTAX }),
            ("article", Self::ARTICLE),
            ("maximize, started at one", RmsProp { maximize: true, initial_scale: 1.0, ..Self::PYTORCH }),
            ("small alpha", RmsProp { alpha: 0.45, centered: true, eps: 1e-3, ..Self::ARTICLE }),
        ]
    }
}

impl RmsProp {
    #[inline(always)]
    fn has_l2(&self) -> bool {
        self.weight_decay > 0.0 && self.decay == Decay::L2
    }

    #[inline(always)]
    fn has_decay(&self) -> bool {
        self.weight_decay > 0.0 && self.decay != Decay::L2
    }

    /// Whether `eps` stands inside the root. Without a branch, which would keep the CPU's loop from becoming lanes.
    #[inline(always)]
    fn has_root(&self) -> bool {
        let with_momentum = (self.epsilon == RmsPropEpsilon::InsideWithMomentum) & self.has_momentum();
        (self.epsilon == RmsPropEpsilon::Inside) | with_momentum
    }

    #[inline(always)]
    fn has_momentum(&self) -> bool {
        self.momentum > 0.0
    }

    /// What the root is taken of, as a formula.
    fn square(&self) -> &'static str {
        match (self.centered, self.clamp_centered) {
            (false, _) => "v",
            (true, false) => "v - a^2",
            (true, true) => "max(v - a^2, 0)",
        }
    }
}
