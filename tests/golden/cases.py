"""The list of cases: which optimizer is run, with which settings, on which kind of gradients."""

from dataclasses import dataclass, field

# A name gives the element count. The sizes sit around multiples of 4 and 64, where a GPU kernel has its edges.
TINY = {"n1": [1], "n3": [3], "n5": [5]}
SMALL = TINY | {"n4": [2, 2], "n63": [7, 9], "n64": [8, 8], "n65": [5, 13], "n255": [15, 17]}
LARGE = SMALL | {"n1000": [10, 10, 10], "n4097": [17, 241]}

PACKAGES = {
    "torch": ["torch"],
    "keras-tf": ["keras", "tensorflow-cpu"],
    "tfk-legacy": ["tensorflow-cpu", "tf_keras"],
    "optax": ["jax", "jaxlib", "optax"],
    "article": ["numpy"],
}

AFTER = "outside_after_bias_correction"
BEFORE = "outside_before_bias_correction"
INSIDE = "inside_sqrt"
OUTSIDE = "outside_sqrt"


def adam(eps_placement, eps=1e-8, **rest):
    """The settings common to every Adam, in this project's own names."""
    base = {"algo": "adam", "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0}
    return base | {"eps": eps, "eps_placement": eps_placement} | rest


def rmsprop(eps_placement, alpha, eps=1e-8, **rest):
    """The settings common to every RMSprop, in this project's own names."""
    base = {"algo": "rmsprop", "lr": 1e-3, "alpha": alpha, "centered": False, "momentum": 0.0}
    return base | {"eps": eps, "eps_placement": eps_placement} | rest


L2 = {"maximize": False, "wd_mode": "l2", "weight_decay": 0.0}
DECOUPLED = L2 | {"wd_mode": "decoupled"}

# What each optimizer does when nothing is passed to it.
DEFAULTS = {
    ("torch", "Adam"): adam(AFTER, amsgrad=False, **L2),
    ("torch", "AdamW"): adam(AFTER, amsgrad=False, **DECOUPLED | {"weight_decay": 0.01}),
    ("torch", "RMSprop"): rmsprop(OUTSIDE, 0.99, momentum_form="lr_outside", **L2 | {"lr": 1e-2}),
    ("keras-tf", "Adam"): adam(BEFORE, 1e-7, amsgrad=False, **DECOUPLED),
    ("keras-tf", "RMSprop"): rmsprop(INSIDE, 0.9, 1e-7, momentum_form="lr_inside", **DECOUPLED),
    ("tfk-legacy", "RMSprop"): rmsprop(OUTSIDE, 0.9, 1e-7, momentum_form="lr_inside", **DECOUPLED),
    ("optax", "adam"): adam(AFTER, eps_root=0.0, nesterov=False, wd_mode="decoupled"),
    ("optax", "adamw"): adam(AFTER, eps_root=0.0, nesterov=False, wd_mode="decoupled", weight_decay=1e-4),
    ("optax", "rmsprop"): rmsprop(INSIDE, 0.9, initial_scale=0.0, momentum_form="lr_inside", nesterov=False),
    ("article", "adam"): adam(AFTER),
    ("article", "rmsprop"): rmsprop(INSIDE, 0.9, weight_decay=0.0),
}

MOMENTS = "m = b1*m + (1-b1)*g; v = b2*v + (1-b2)*g^2"
TORCH_ADAM = f"{MOMENTS}; amsgrad: v = running maximum of v; p -= lr/(1-b1^t) * m/(sqrt(v)/sqrt(1-b2^t) + eps)"
AVERAGE = "s = a*s + (1-a)*g^2; centered: c = a*c + (1-a)*g, d = s - c^2, else d = s"
BUFFER = "momentum: buf = mu*buf + u, u = buf"

EQUATIONS = {
    ("torch", "Adam"): f"maximize: g = -g; g += wd*p; {TORCH_ADAM}",
    ("torch", "AdamW"): f"maximize: g = -g; p *= 1 - lr*wd; {TORCH_ADAM}",
    ("torch", "RMSprop"): (
        f"maximize: g = -g; g += wd*p; {AVERAGE}; u = g/(sqrt(d) + eps); {BUFFER}; p -= lr*u"
    ),
    ("keras-tf", "Adam"): (
        f"p -= lr*wd*p; {MOMENTS}; amsgrad: v = running maximum of v; "
        "p -= lr*sqrt(1-b2^t)/(1-b1^t) * m/(sqrt(v) + eps)"
    ),
    ("keras-tf", "RMSprop"): f"{AVERAGE}; u = lr*g/sqrt(d + eps); {BUFFER}; p -= u",
    ("tfk-legacy", "RMSprop"): (
        f"{AVERAGE}; without momentum: p -= lr*g/(sqrt(d) + eps); "
        "with: buf = mu*buf + lr*g/sqrt(d + eps), p -= buf"
    ),
    ("optax", "adam"): (
        f"{MOMENTS}; h = m/(1-b1^t), nesterov: h = b1*m/(1-b1^(t+1)) + (1-b1)*g/(1-b1^t); "
        "p -= lr*h/(sqrt(v/(1-b2^t) + eps_root) + eps)"
    ),
    ("optax", "adamw"): f"{MOMENTS}; p -= lr*(m/(1-b1^t)/(sqrt(v/(1-b2^t) + eps_root) + eps) + wd*p)",
    ("optax", "rmsprop"): (
        f"{AVERAGE}; u = lr*g/sqrt(d + eps), eps outside: u = lr*g/(sqrt(d) + eps); {BUFFER}; p -= u"
    ),
    ("article", "adam"): f"{MOMENTS}; p -= lr * m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps)",
    ("article", "rmsprop"): "E = a*E + (1-a)*g^2; p -= lr*g/sqrt(E + eps)",
}

# Every framework calls the same settings by other names.
RENAMED = {"learning_rate": "lr", "epsilon": "eps", "gamma": "alpha"}


@dataclass(frozen=True)
class Case:
    """One optimizer run."""

    name: str
    framework: str
    optimizer: str
    kwargs: dict = field(default_factory=dict)
    steps: int = 12
    shapes: dict = field(default_factory=lambda: SMALL)
    profile: str = "full"
    features: dict = field(default_factory=dict)

    @property
    def key(self):
        return self.framework, self.optimizer

    @property
    def canonical(self):
        """The settings under names that do not depend on the framework."""
        settings = dict(DEFAULTS[self.key])
        for name, value in self.kwargs.items():
            settings |= canonical_setting(name, value)
        return settings

    @property
    def families(self):
        """Overflow happens at other values in float64, so the edge case has no float64 reference."""
        return ["f32"] if self.features.get("edge") else ["f32", "f64"]

    @property
    def float32_bias_correction(self):
        """Keras and optax form 1 - beta^t in float32, which costs a relative 1e-5."""
        return self.framework in ("keras-tf", "optax") and self.canonical["algo"] == "adam"


def canonical_setting(name, value):
    """Translates one constructor argument."""
    if name == "betas":
        return {"beta1": value[0], "beta2": value[1]}
    if name == "eps_in_sqrt":
        return {"eps_placement": INSIDE if value else OUTSIDE}
    if name == "fused":
        # It selects an implementation of the same rule.
        return {}
    return {RENAMED.get(name, name): value}


def torch_adam(name, *, optimizer="Adam", steps=12, shapes=SMALL, profile="full", features=None, **kwargs):
    return Case(f"torch_{name}", "torch", optimizer, kwargs, steps, shapes, profile, features or {})


def torch_adamw(name, **rest):
    return torch_adam(name, optimizer="AdamW", **rest)


def torch_rmsprop(name, **rest):
    return torch_adam(name, optimizer="RMSprop", **rest)


GROUPS = [
    {"names": ["n1", "n63"], "lr": 0.01, "weight_decay": 0.05},
    {"names": ["n3", "n64", "n255"], "lr": 0.0003},
    {"names": ["n4", "n5", "n65"], "betas": [0.7, 0.9], "eps": 0.0001, "weight_decay": 0.2},
]
WARMUP_COSINE = {"kind": "warmup_cosine", "start_factor": 0.1, "warmup": 4, "T_max": 8, "eta_min": 1e-5}
ONE_CYCLE = {"kind": "onecycle", "max_lr": 0.05, "total_steps": 12}
STEP_DECAY = {"kind": "step", "step_size": 3, "gamma": 0.5}
# Gradients of which some are long enough to be clipped.
LONG_AND_SHORT = {"gscale": [1.0, 0.001, 0.05, 10.0]}
SCALER = {"init_scale": 1024.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 3}
# `bad` puts a value that is not finite into the gradient of a step, the first being 0.
SCALED = {"scaler": SCALER | {"bad": {"2": "inf", "6": "nan", "7": "-inf"}}}


def keras_adam_clipped(name, **clip):
    """Keras clips by a setting of the optimizer."""
    settings = {"learning_rate": 1e-2} | clip
    return Case(f"keras_{name}", "keras-tf", "Adam", settings, profile="mild", features=LONG_AND_SHORT)


def keras_adam_averaged(name, **settings):
    return Case(f"keras_{name}", "keras-tf", "Adam", {"learning_rate": 1e-2, "use_ema": True} | settings)


CASES = [
    Case("article_adam", "article", "adam", {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
    Case("article_rmsprop", "article", "rmsprop", {"lr": 1e-3, "gamma": 0.9, "eps": 1e-8}),
    Case("keras_adam_amsgrad", "keras-tf", "Adam", {"amsgrad": True}),
    keras_adam_clipped("adam_clipnorm1", clipnorm=1.0),
    keras_adam_clipped("adam_clipvalue0.5", clipvalue=0.5),
    Case("keras_adam_default", "keras-tf", "Adam"),
    keras_adam_averaged("adam_ema_overwrite3", ema_momentum=0.9, ema_overwrite_frequency=3),
    keras_adam_clipped("adam_global_clipnorm1", global_clipnorm=1.0),
    keras_adam_averaged("adam_use_ema", ema_momentum=0.9),
    Case("keras_adam_wd0.1", "keras-tf", "Adam", {"weight_decay": 0.1}),
    Case("keras_rmsprop_centered", "keras-tf", "RMSprop", {"centered": True}),
    Case("keras_rmsprop_default", "keras-tf", "RMSprop"),
    Case("keras_rmsprop_eps1e-8", "keras-tf", "RMSprop", {"epsilon": 1e-8}),
    Case("keras_rmsprop_momentum0.9", "keras-tf", "RMSprop", {"momentum": 0.9}),
    Case("optax_adam_default", "optax", "adam", {"learning_rate": 1e-3}),
    Case("optax_adam_eps_root1e-8", "optax", "adam", {"learning_rate": 1e-3, "eps_root": 1e-8}),
    Case("optax_adam_nesterov", "optax", "adam", {"learning_rate": 1e-3, "nesterov": True}),
    Case("optax_adamw_default", "optax", "adamw", {"learning_rate": 1e-3}),
    Case("optax_rmsprop_centered", "optax", "rmsprop", {"learning_rate": 1e-3, "centered": True}),
    Case("optax_rmsprop_default", "optax", "rmsprop", {"learning_rate": 1e-3}),
    Case("optax_rmsprop_eps_outside", "optax", "rmsprop", {"learning_rate": 1e-3, "eps_in_sqrt": False}),
    Case("optax_rmsprop_momentum0.9", "optax", "rmsprop", {"learning_rate": 1e-3, "momentum": 0.9}),
    Case("tfkeras_legacy_rmsprop_default", "tfk-legacy", "RMSprop"),
    torch_adam("adam_amsgrad", amsgrad=True),
    torch_adam("adam_betas", betas=[0.8, 0.95]),
    torch_adam("adam_clip_grad_norm1", lr=1e-2, profile="mild", features={"clip_norm": 1.0} | LONG_AND_SHORT),
    torch_adam("adam_default", steps=8, shapes=LARGE),
    torch_adam("adam_edge_nonfinite", lr=1e-2, steps=5, features={"edge": True}),
    torch_adam("adam_eps1e-3", eps=1e-3),
    torch_adam("adam_fused", fused=True),
    torch_adam("adam_fused_gradscaler", lr=1e-2, fused=True, profile="nodenorm", features=SCALED),
    torch_adam("adam_gradscaler", lr=1e-2, profile="nodenorm", features=SCALED),
    torch_adam("adam_long1000", lr=1e-3, steps=1000, shapes=TINY, profile="nodenorm"),
    torch_adam("adam_lr1e-2", lr=1e-2),
    torch_adam("adam_maximize", maximize=True),
    torch_adam("adam_none_grads", lr=1e-2, features={"none_grads": True}),
    torch_adam("adam_onecycle", lr=1e-2, features={"sched": ONE_CYCLE}),
    torch_adam("adam_param_groups", lr=1e-3, features={"groups": GROUPS}),
    torch_adam("adam_resume_step100000", lr=1e-2, features={"state0_step": 100000}),
    torch_adam("adam_sched_warmup_cosine", lr=1e-2, features={"sched": WARMUP_COSINE}),
    torch_adam("adam_wd0.1", weight_decay=0.1),
    torch_adamw("adamw_amsgrad", amsgrad=True),
    torch_adamw("adamw_default"),
    torch_adamw("adamw_maximize", maximize=True),
    torch_adamw("adamw_wd0.1", weight_decay=0.1, steps=6, shapes=LARGE),
    torch_rmsprop("rmsprop_alpha0.9", alpha=0.9),
    torch_rmsprop("rmsprop_centered", centered=True),
    torch_rmsprop("rmsprop_centered_momentum", centered=True, momentum=0.9),
    torch_rmsprop("rmsprop_default", steps=8, shapes=LARGE),
    torch_rmsprop("rmsprop_eps1e-3", eps=1e-3),
    torch_rmsprop("rmsprop_maximize", maximize=True),
    torch_rmsprop("rmsprop_momentum0.9", momentum=0.9),
    torch_rmsprop("rmsprop_sched_steplr_momentum", momentum=0.9, features={"sched": STEP_DECAY}),
    torch_rmsprop("rmsprop_wd0.1", weight_decay=0.1),
]
