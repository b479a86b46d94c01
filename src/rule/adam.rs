//! Adam and AdamW: the exponential averages of the gradient and of its square, bias-corrected.

use super::{Correction, Decay, Range, Rule, Slots, Value, scalars, settings, words};
use crate::Error;
use crate::rule::settings::{gradient_line, number, plus};
use crate::wgsl::{Real, select, sqrt};

/// Adam's settings.
///
/// With `t` the 1-based step, `g` the gradient (negated by `maximize`, plus `weight_decay * p` for
/// [`Decay::L2`]), `bc1 = 1 - beta1^t` and `bc2 = 1 - beta2^t`:
///
/// ```text
/// m = m + (1 - beta1) * (g - m)              exp_avg
/// v = beta2 * v + (1 - beta2) * g^2          exp_avg_sq
/// p = p - lr * (m / bc1) / (sqrt(v / bc2 + eps_root) + eps)
/// ```
///
/// [`AdamEpsilon`] moves eps, `amsgrad` puts the running maximum of `v` in its place, and `nesterov` looks one
/// step ahead: `beta1 * m / (1 - beta1^(t+1)) + (1 - beta1) * g / bc1` in place of `m / bc1`.
///
/// The default is [`Adam::PYTORCH`]. Cost: 28 bytes moved per `f32` element, 36 with `amsgrad`.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    /// The learning rate, `>= 0`.
    pub lr: f64,
    /// The decay of the first moment, in `[0, 1)`. PyTorch's `betas[0]`, Keras's `beta_1`, optax's `b1`.
    pub beta1: f64,
    /// The decay of the second moment, in `[0, 1)`. PyTorch's `betas[1]`, Keras's `beta_2`, optax's `b2`.
    pub beta2: f64,
    /// Keeps the denominator from zero, `>= 0`. With 0 an element whose gradients were all zero becomes NaN, as
    /// it does in PyTorch.
    pub eps: f64,
    /// Added inside the root, to the corrected second moment, `>= 0` (optax's `eps_root`).
    pub eps_root: f64,
    /// Where `eps` stands.
    pub epsilon: AdamEpsilon,
    /// The strength of the decay, `>= 0`; 0 is none.
    pub weight_decay: f64,
    /// Where the decay enters.
    pub decay: Decay,
    /// Divide by the largest second moment so far. Keeps the slot `max_exp_avg_sq`.
    pub amsgrad: bool,
    /// Which second moment that maximum is taken over.
    pub amsgrad_over: AmsgradOver,
    /// Look one step ahead with the first moment, as optax does (this is not PyTorch's NAdam).
    pub nesterov: bool,
    /// Go up the gradient.
    pub maximize: bool,
}

words! {
    /// Where Adam's `eps` stands.
    pub enum AdamEpsilon {
        /// `sqrt(v / bc2) + eps`: PyTorch, optax, the article.
        Outside = "outside",
        /// `sqrt(v / bc2 + eps)`.
        Inside = "inside",
        /// `lr * sqrt(bc2) / bc1 * m / (sqrt(v) + eps)`: Keras. The article calls it epsilon-hat; it is
        /// [`Outside`](AdamEpsilon::Outside) with `eps / sqrt(bc2)`.
        Hat = "hat",
    }
}

words! {
    /// The second moment that AMSGrad's maximum is taken over.
    pub enum AmsgradOver {
        /// `v`, before its bias is corrected: PyTorch, Keras.
        Raw = "raw",
        /// `v / bc2`: optax.
        Corrected = "corrected",
    }
}

impl Adam {
    /// `torch.optim.Adam`: lr 1e-3, betas (0.9, 0.999), eps 1e-8 outside the root, decay as L2.
    /// Source: PyTorch 2.15, `torch/optim/adam.py`.
    pub const PYTORCH: Self = Self {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        eps_root: 0.0,
        epsilon: AdamEpsilon::Outside,
        weight_decay: 0.0,
        decay: Decay::L2,
        amsgrad: false,
        amsgrad_over: AmsgradOver::Raw,
        nesterov: false,
        maximize: false,
    };

    /// `keras.optimizers.Adam`: eps 1e-7 as epsilon-hat, decoupled decay.
    /// `p -= lr * sqrt(bc2) / bc1 * m / (sqrt(v) + eps)`. Source: Keras 3.15, `optimizers/adam.py`.
    /// Keras counts steps for all tensors together; here each has its own count, which only a tensor that was left out
    /// of a step can tell.
    pub const KERAS: Self = Self { eps: 1e-7, epsilon: AdamEpsilon::Hat, decay: Decay::Decoupled, ..Self::PYTORCH };

    /// `tf.keras.optimizers.legacy.Adam` (TensorFlow up to 2.10): [`KERAS`](Self::KERAS)'s formula and numbers.
    /// Source: tf_keras 2.21, `optimizers/legacy/adam.py`.
    pub const TF_KERAS_LEGACY: Self = Self::KERAS;

    /// `optax.adam`: eps 1e-8 outside the root and `eps_root` inside, AMSGrad over the corrected moment. There
    /// is no default lr: it must be given. Source: optax 0.2.8, `scale_by_adam`.
    pub const OPTAX: Self =
        Self { lr: f64::NAN, decay: Decay::Inside, amsgrad_over: AmsgradOver::Corrected, ..Self::PYTORCH };

    /// The textbook: `p -= lr * mhat / (sqrt(vhat) + eps)` with 0.9, 0.999, 1e-8, lr 0.001.
    /// Source: Kingma and Ba 2015, algorithm 1.
    pub const ARTICLE: Self = Self::PYTORCH;
}

/// AdamW's presets: [`Adam`] with decoupled decay, under the default strength of each framework.
#[derive(Debug)]
pub enum AdamW {}

impl AdamW {
    /// `torch.optim.AdamW`: `p *= 1 - lr * weight_decay` first, weight_decay 1e-2.
    /// Source: PyTorch 2.15, `torch/optim/adamw.py`.
    pub const PYTORCH: Adam = Adam { weight_decay: 1e-2, decay: Decay::Decoupled, ..Adam::PYTORCH };

    /// `keras.optimizers.AdamW`: weight_decay 4e-3. Source: Keras 3.15, `optimizers/adamw.py`.
    pub const KERAS: Adam = Adam { weight_decay: 4e-3, ..Adam::KERAS };

    /// `optax.adamw`: `p -= lr * (mhat / (sqrt(vhat + eps_root) + eps) + weight_decay * p)`, weight_decay 1e-4;
    /// lr must be given. Source: optax 0.2.8, `adamw`.
    pub const OPTAX: Adam = Adam { weight_decay: 1e-4, ..Adam::OPTAX };

    /// [`Adam::ARTICLE`] with decoupled decay, whose strength must be given.
    /// Source: Loshchilov and Hutter 2019, algorithm 2, with the schedule factor in lr.
    pub const ARTICLE: Adam = Adam { weight_decay: f64::NAN, decay: Decay::Decoupled, ..Adam::ARTICLE };
}

impl Default for Adam {
    fn default() -> Self {
        Self::PYTORCH
    }
}

scalars! {
    /// Adam's scalars for one step.
    pub struct AdamHyper {
        l2,
        beta1,
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        /// What the slot of the maximum holds, as a multiple of `v`.
        max_scale,
        /// Weights of `m` and `g` in the look-ahead, both over `1 / bc1`.
        nesterov_m,
        nesterov_g,
        /// `d = sqrt(w + root) + eps`, both beside the moment that the slot holds.
        root,
        eps,
        /// The share of `p` that decay takes off.
        decay,
        step_size,
    }
}

impl Rule for Adam {
    const NAME: &'static str = "adam";
    const SLOTS: &'static [&'static str] = &["exp_avg", "exp_avg_sq", "max_exp_avg_sq"];
    const WGSL: &'static str = include_str!("../../shaders/rule/adam.wgsl");
    const PRESETS: &'static [(&'static str, &'static str, Self)] = &[
        ("adam", "pytorch", Adam::PYTORCH),
        ("adam", "keras", Adam::KERAS),
        ("adam", "tf-keras-legacy", Adam::TF_KERAS_LEGACY),
        ("adam", "optax", Adam::OPTAX),
        ("adam", "article", Adam::ARTICLE),
        ("adamw", "pytorch", AdamW::PYTORCH),
        ("adamw", "keras", AdamW::KERAS),
        ("adamw", "optax", AdamW::OPTAX),
        ("adamw", "article", AdamW::ARTICLE),
    ];

    const CYCLED: Option<&'static str> = Some("beta1");
    type Hyper<T: Real> = AdamHyper<T>;

    settings! {
        lr, beta1, beta2, eps, eps_root, epsilon, weight_decay, decay, amsgrad, amsgrad_over, nesterov, maximize,
    }

    fn check(&self) -> Result<(), Error> {
        let range = Range(Self::NAME);
        range.given("lr", self.lr)?;
        range.not_negative("lr", self.lr)?;
        range.share("beta1", self.beta1)?;
        range.share("beta2", self.beta2)?;
        range.epsilon("eps", self.eps)?;
        range.epsilon("eps_root", self.eps_root)?;
        range.given("weight_decay", self.weight_decay)?;
        range.not_negative("weight_decay", self.weight_decay)
    }

    fn structure(&self) -> Vec<(&'static str, Value)> {
        let mut settings = self.settings();
        settings.retain(|(name, _)| match *name {
            "amsgrad" | "nesterov" => true,
            "amsgrad_over" => self.amsgrad,
            _ => false,
        });
        settings
    }

    fn keeps(&self, slot: usize) -> bool {
        Self::SLOTS[slot] != "max_exp_avg_sq" || self.amsgrad
    }

    fn is_signed(slot: usize) -> bool {
        Self::SLOTS[slot] == "exp_avg"
    }

    fn switches(&self) -> Vec<(&'static str, bool)> {
        vec![
            ("HAS_MAXIMIZE", self.maximize),
            ("HAS_L2", self.has_l2()),
            ("HAS_DECAY", self.has_decay()),
            ("HAS_LOW_BETA1", self.has_low_beta1()),
            ("HAS_AMSGRAD", self.amsgrad),
            ("HAS_ROOT", self.has_root()),
            ("HAS_NESTEROV", self.nesterov),
        ]
    }

    fn scalars(&self) -> AdamHyper<f64> {
        let (root, eps) = match self.epsilon {
            AdamEpsilon::Outside | AdamEpsilon::Hat => (self.eps_root, self.eps),
            AdamEpsilon::Inside => (self.eps_root + self.eps, 0.0),
        };
        AdamHyper {
            l2: self.weight_decay_as(Decay::L2),
            beta1: self.beta1,
            one_minus_beta1: 1.0 - self.beta1,
            beta2: self.beta2,
            one_minus_beta2: 1.0 - self.beta2,
            max_scale: 1.0,
            nesterov_m: self.beta1,
            nesterov_g: 1.0 - self.beta1,
            root,
            eps,
            decay: self.lr * (self.weight_decay - self.weight_decay_as(Decay::L2)),
            step_size: self.lr,
        }
    }

    fn betas(&self) -> [f64; 2] {
        [self.beta1, self.beta2]
    }

    /// Both epsilons as they stand beside the second moment that the slot holds, and the root of its bias in the step
    /// size: `v * bias` overflows later than `v / bias`, and no lane multiplies for it.
    fn corrections(&self) -> Vec<(&'static str, Correction)> {
        let hat = self.epsilon == AdamEpsilon::Hat;
        let corrected = self.amsgrad && self.amsgrad_over == AmsgradOver::Corrected;
        let (root, eps) = match (corrected, hat) {
            (true, true) => (Correction::OverSecond, Correction::OverRootSecond),
            (false, false) => (Correction::TimesSecond, Correction::TimesRootSecond),
            _ => (Correction::None, Correction::None),
        };
        let step_size = if corrected { Correction::OverFirst } else { Correction::RootSecondOverFirst };
        vec![
            ("max_scale", if corrected { Correction::OverSecond } else { Correction::None }),
            ("nesterov_m", Correction::Ahead),
            ("root", root),
            ("eps", eps),
            ("step_size", step_size),
        ]
    }

    #[allow(non_snake_case, reason = "the shader's names for its switches")]
    #[inline(always)]
    fn update<T: Real>(&self, h: &AdamHyper<T>, p0: T, g0: T, [m0, v0, x0]: Slots<T>) -> (T, Slots<T>) {
        let HAS_MAXIMIZE = self.maximize;
        let HAS_L2 = self.has_l2();
        let HAS_DECAY = self.has_decay();
        let HAS_LOW_BETA1 = self.has_low_beta1();
        let HAS_AMSGRAD = self.amsgrad;
        let HAS_ROOT = self.has_root();
        let HAS_NESTEROV = self.nesterov;
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
        (p, [m, v, x])
    }

    fn formula(&self) -> Vec<String> {
        let (beta1, beta2) = (number(self.beta1), number(self.beta2));
        let mut lines = vec![gradient_line(self.maximize, self.weight_decay_as(Decay::L2))];
        lines.push(format!("m = m + (1 - {beta1}) * (g - m)"));
        lines.push(format!("v = {beta2} * v + (1 - {beta2}) * g^2"));
        lines.push(format!("bc1 = 1 - {beta1}^t, bc2 = 1 - {beta2}^t"));
        lines.extend(self.maximum_line());
        lines.extend(self.decay_line());
        lines.push(self.step_line());
        lines
    }

    fn cases() -> Vec<(&'static str, Self)> {
        let lr = 1e-3;
        vec![
            ("pytorch", Self::PYTORCH),
            ("pytorch adamw", Adam { lr: 0.05, weight_decay: 1.0, ..AdamW::PYTORCH }),
            ("keras", Self::KERAS),
            ("keras amsgrad adamw", Adam { amsgrad: true, ..AdamW::KERAS }),
            ("optax adamw", Adam { lr, ..AdamW::OPTAX }),
            ("optax eps_root", Adam { lr, eps_root: 1e-8, ..Self::OPTAX }),
            ("optax nesterov", Adam { lr, nesterov: true, ..Self::OPTAX }),
            ("optax amsgrad", Adam { lr, amsgrad: true, ..Self::OPTAX }),
            ("l2 amsgrad maximize", Adam { weight_decay: 0.1, amsgrad: true, maximize: true, ..Self::PYTORCH }),
            ("eps inside", Adam { epsilon: AdamEpsilon::Inside, ..Self::PYTORCH }),
            ("hat amsgrad corrected", Adam { amsgrad: true, amsgrad_over: AmsgradOver::Corrected, ..Self::KERAS }),
            ("small betas", Adam { beta1: 0.3, beta2: 0.25, eps: 1e-4, ..Self::PYTORCH }),
        ]
    }
}

impl Adam {
    #[inline(always)]
    fn has_l2(&self) -> bool {
        self.weight_decay_as(Decay::L2) > 0.0
    }

    #[inline(always)]
    fn has_decay(&self) -> bool {
        self.weight_decay > 0.0 && self.decay != Decay::L2
    }

    /// Whether something is added inside the root.
    #[inline(always)]
    fn has_root(&self) -> bool {
        self.eps_root > 0.0 || self.epsilon == AdamEpsilon::Inside
    }

    /// Whether `m` is interpolated from `g`'s end, which is then the nearer one.
    #[inline(always)]
    fn has_low_beta1(&self) -> bool {
        self.beta1 < 0.5
    }

    #[inline(always)]
    fn weight_decay_as(&self, decay: Decay) -> f64 {
        if self.decay == decay { self.weight_decay } else { 0.0 }
    }

    fn maximum_line(&self) -> Option<String> {
        let over = match self.amsgrad_over {
            AmsgradOver::Raw => "v",
            AmsgradOver::Corrected => "v / bc2",
        };
        self.amsgrad.then(|| format!("x = max(x, {over})"))
    }

    fn decay_line(&self) -> Option<String> {
        (self.decay == Decay::Decoupled && self.weight_decay > 0.0)
            .then(|| format!("p = p - {} * {} * p", number(self.lr), number(self.weight_decay)))
    }

    fn step_line(&self) -> String {
        let moment = match (self.amsgrad, self.amsgrad_over) {
            (false, _) => "v / bc2",
            (true, AmsgradOver::Raw) => "x / bc2",
            (true, AmsgradOver::Corrected) => "x",
        };
        let (root, eps) = match self.epsilon {
            AdamEpsilon::Outside => (plus(self.eps_root, ""), plus(self.eps, "")),
            AdamEpsilon::Inside => (plus(self.eps_root + self.eps, ""), String::new()),
            AdamEpsilon::Hat => (plus(self.eps_root, " / bc2"), plus(self.eps, " / sqrt(bc2)")),
        };
        let update = format!("{} / (sqrt({moment}{root}){eps})", self.direction());
        let lr = number(self.lr);
        if self.decay == Decay::Inside && self.weight_decay > 0.0 {
            format!("p = p - {lr} * ({update} + {} * p)", number(self.weight_decay))
        } else {
            format!("p = p - {lr} * {update}")
        }
    }

    fn direction(&self) -> String {
        if !self.nesterov {
            return "(m / bc1)".into();
        }
        let beta1 = number(self.beta1);
        format!("({beta1} * m / (1 - {beta1}^(t+1)) + (1 - {beta1}) * g / bc1)")
    }
}
