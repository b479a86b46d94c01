"""Starting parameters and gradients of a case, taken from its file or drawn anew."""

import zlib
from dataclasses import dataclass, field

import numpy as np

# The position in this list is the number that `class/*` stores.
CLASSES = [
    "normal", "zero", "sometimes_zero", "huge", "tiny", "denormal", "sq_underflow",
    "flip", "const", "small", "burst", "late", "grow",
]
SUBNORMAL = {"denormal", "sq_underflow"}
MILD = {"normal", "zero", "sometimes_zero", "flip", "const", "small", "late"}
PROFILES = {
    "full": CLASSES,
    "nodenorm": [c for c in CLASSES if c not in SUBNORMAL],
    "mild": [c for c in CLASSES if c in MILD],
}
SCALES = {"huge": 1e4, "tiny": 1e-12, "denormal": 1e-40, "sq_underflow": 1e-21, "small": 1e-3}
# Where a value that is not finite goes: into the middle of a tensor of its own.
BAD_TENSORS = {"inf": "n4", "nan": "n65", "-inf": "n255"}


@dataclass
class Inputs:
    """What every framework is given; arrays are float32 and keyed by tensor name."""

    param0: dict
    grad: dict
    classes: dict
    none: dict = field(default_factory=dict)
    state0: dict = field(default_factory=dict)

    def tensors(self):
        """The inputs under the keys of the file."""
        named = {"param0": self.param0, "grad": self.grad, "class": self.classes, "grad_is_none": self.none}
        named |= {f"state0/{slot}": values for slot, values in self.state0.items()}
        return {f"{key}/{n}": a for key, values in named.items() for n, a in values.items()}

    def is_none(self, name, step):
        """Whether the tensor goes without a gradient at this step."""
        return name in self.none and bool(self.none[name][step])


def strip(tensors, prefix):
    """The tensors below a prefix, without it."""
    return {key[len(prefix):]: a for key, a in tensors.items() if key.startswith(prefix)}


def from_tensors(tensors):
    """Reads the inputs back from the tensors of a case file."""
    state0 = {}
    for key, array in strip(tensors, "state0/").items():
        slot, name = key.split("/")
        state0.setdefault(slot, {})[name] = array
    return Inputs(
        strip(tensors, "param0/"), strip(tensors, "grad/"), strip(tensors, "class/"),
        strip(tensors, "grad_is_none/"), state0,
    )


def draw(case, seed):
    """Draws inputs of the kind the case asks for; the name goes into the seed so that cases differ."""
    rng = np.random.default_rng([seed, zlib.crc32(case.name.encode())])
    inputs = Inputs({}, {}, {})
    for name, shape in case.shapes.items():
        draw_tensor(rng, case, name, shape, inputs)
    if case.features.get("none_grads"):
        drop_gradients(rng, case, inputs)
    if case.features.get("edge"):
        insert_extremes(inputs.grad["n64"])
    if "scaler" in case.features:
        insert_overflows(inputs.grad, case.features["scaler"]["bad"])
    if "state0_step" in case.features:
        inputs.state0 = draw_state(rng, case)
    return inputs


def draw_tensor(rng, case, name, shape, inputs):
    """Draws one parameter and its gradients."""
    classes = draw_classes(rng, PROFILES[case.profile], int(np.prod(shape)))
    grad = np.stack([element_gradient(rng, CLASSES[c], case.steps) for c in classes], axis=1)
    param = rng.normal(0.0, 0.5, len(classes))
    # A subnormal gradient on a zero parameter would make the result depend on flush-to-zero.
    zero = (rng.random(len(classes)) < 1 / 16) & ~np.isin(classes, [CLASSES.index(c) for c in SUBNORMAL])
    param[zero] = 0.0
    inputs.classes[name] = classes
    inputs.param0[name] = param.astype(np.float32).reshape(shape)
    grad *= step_scales(case)[:, None]
    inputs.grad[name] = grad.astype(np.float32).reshape([case.steps, *shape])


def step_scales(case):
    """What the gradients of each step are multiplied by."""
    cycle = case.features.get("gscale", [1.0])
    scales = [cycle[step % len(cycle)] for step in range(case.steps)]
    if "scaler" in case.features:
        scales = list(loss_scales(case.steps, **case.features["scaler"]))
    return np.array(scales)


def loss_scales(steps, init_scale, growth_factor, backoff_factor, growth_interval, bad):
    """The scale that the loss of each step is multiplied by, where the steps in `bad` overflow."""
    scale, clean = init_scale, 0
    for step in range(steps):
        yield scale
        clean = 0 if str(step) in bad else clean + 1
        if clean == 0:
            scale *= backoff_factor
        elif clean == growth_interval:
            scale, clean = scale * growth_factor, 0


def insert_overflows(grad, bad):
    for step, value in bad.items():
        flat = grad[BAD_TENSORS[value]][int(step)].reshape(-1)
        flat[len(flat) // 2] = float(value)


def draw_classes(rng, names, count):
    """Deals the classes like shuffled decks, so that each is equally frequent."""
    numbers = [CLASSES.index(name) for name in names]
    decks = [rng.permutation(numbers) for _ in range(-(-count // len(numbers)))]
    return np.concatenate(decks)[:count].astype(np.uint8)


def element_gradient(rng, kind, steps):
    """The gradients that one element receives over the run."""
    normal = rng.normal(size=steps)
    t = np.arange(steps)
    if kind == "zero":
        return np.zeros(steps)
    if kind == "sometimes_zero":
        return np.where(rng.random(steps) < 0.5, 0.0, normal)
    if kind == "flip":
        return normal[0] * (-1.0) ** t
    if kind == "const":
        return np.full(steps, normal[0])
    if kind == "late":
        return np.where(t < steps // 2, 0.0, normal)
    if kind == "grow":
        return normal[0] * np.logspace(-4, 3, steps)
    if kind == "burst":
        return normal * np.where(t == rng.integers(steps), 1e4, 1e-2)
    return normal * SCALES.get(kind, 1.0)


def drop_gradients(rng, case, inputs):
    """Takes a quarter of the gradients away; the file holds zeros there."""
    for name, grad in inputs.grad.items():
        inputs.none[name] = (rng.random(case.steps) < 0.25).astype(np.uint8)
        grad[inputs.none[name] == 1] = 0.0


def insert_extremes(grad):
    """Puts in values that are not finite, or whose square is not, from the third step or throughout."""
    flat = grad.reshape(len(grad), -1)
    flat[2, :5] = [np.inf, -np.inf, np.nan, 1e20, -3e38]
    flat[:, 5] = 1e19
    flat[:, 6] = 2e19


def draw_state(rng, case):
    """Moments of a run that is under way; the second is never below the square of the first."""
    state = {"exp_avg": {}, "exp_avg_sq": {}, "step": {}}
    for name, shape in case.shapes.items():
        mean = rng.normal(0.0, 0.3, shape)
        state["exp_avg"][name] = mean.astype(np.float32)
        state["exp_avg_sq"][name] = (mean**2 + rng.normal(0.0, 0.5, shape) ** 2 + 1e-3).astype(np.float32)
        state["step"][name] = np.array(case.features["state0_step"], np.float32)
    return state
