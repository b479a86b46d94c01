"""Runs a case in its framework.

Every runner takes (case, inputs, dtype) with dtype "float32" or "float64" and returns
(tensors, hyperparameters). The tensors are `param/NAME` after each step, `state/SLOT/NAME` after the
last one, `extra/...`, and `scaler/...`, which must not depend on the dtype.

The imports sit inside the functions because TensorFlow alone takes seconds to load.
"""

import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def run(case, inputs, dtype):
    """Runs the case and returns (tensors, hyperparameters as the framework reports them)."""
    trajectory = {name: [] for name in case.shapes}
    tensors, hyperparameters = RUNNERS[case.framework](case, inputs, dtype, trajectory)
    tensors |= {f"param/{name}": np.stack(steps) for name, steps in trajectory.items()}
    return tensors, hyperparameters


# --- PyTorch -------------------------------------------------------------------------------------


def run_torch(case, inputs, dtype, trajectory):
    import torch

    # More threads could only change the order of work, which no update rule depends on.
    torch.set_num_threads(1)
    kind = getattr(torch, dtype)
    params = {n: torch.tensor(a, dtype=kind, requires_grad=True) for n, a in inputs.param0.items()}
    optimizer = getattr(torch.optim, case.optimizer)(torch_groups(case, params), **case.kwargs)
    for name, param in params.items():
        if inputs.state0:
            optimizer.state[param] = torch_state0(torch, inputs, name, kind)
    schedule = torch_schedule(torch, case, optimizer)
    scaler = torch_scaler(torch, case)
    used, norms, trace = {"lr": [], "beta1_or_momentum": []}, [], []
    for step in range(case.steps):
        for name, param in params.items():
            gradient = torch.tensor(inputs.grad[name][step], dtype=kind)
            param.grad = None if inputs.is_none(name, step) else gradient
        record_settings(optimizer.param_groups[0], used)
        if "clip_norm" in case.features:
            norms.append(torch.nn.utils.clip_grad_norm_(params.values(), case.features["clip_norm"]))
        if scaler:
            trace.append(scaled_step(scaler, optimizer))
        else:
            optimizer.step()
        if schedule:
            schedule.step()
        for name, param in params.items():
            trajectory[name].append(param.detach().numpy().copy())
    tensors = torch_states(optimizer, params)
    if schedule:
        tensors |= {f"extra/{key}": np.array(values, np.float64) for key, values in used.items()}
    if norms:
        tensors["extra/total_norm"] = np.array([norm.item() for norm in norms], np.float64)
    if scaler:
        tensors |= scaler_trace(trace)
    return tensors, [plain(group) for group in optimizer.param_groups]


def torch_groups(case, params):
    """The parameters as one list, or as the groups the case describes."""
    groups = case.features.get("groups")
    if not groups:
        return list(params.values())
    return [group_settings(g) | {"params": [params[n] for n in g["names"]]} for g in groups]


def group_settings(group):
    return {key: value for key, value in group.items() if key != "names"}


def torch_state0(torch, inputs, name, kind):
    """The restored state; torch keeps the step count in float32 whatever the parameter type is."""
    state = {slot: torch.tensor(values[name], dtype=kind) for slot, values in inputs.state0.items()}
    state["step"] = state["step"].to(torch.float32)
    return state


def torch_schedule(torch, case, optimizer):
    """The learning-rate schedule of the case, or None."""
    settings = dict(case.features.get("sched", {}))
    kind = settings.pop("kind", None)
    schedules = torch.optim.lr_scheduler
    if kind == "onecycle":
        return schedules.OneCycleLR(optimizer, **settings)
    if kind == "step":
        return schedules.StepLR(optimizer, **settings)
    if kind == "warmup_cosine":
        return warmup_cosine(schedules, optimizer, **settings)
    return None


def warmup_cosine(schedules, optimizer, start_factor, warmup, T_max, eta_min):
    rise = schedules.LinearLR(optimizer, start_factor=start_factor, total_iters=warmup)
    fall = schedules.CosineAnnealingLR(optimizer, T_max=T_max, eta_min=eta_min)
    return schedules.SequentialLR(optimizer, [rise, fall], milestones=[warmup])


def torch_scaler(torch, case):
    """The loss scaler of the case, or None. The stored gradients are scaled already, so there is no loss to scale."""
    settings = {key: value for key, value in case.features.get("scaler", {}).items() if key != "bad"}
    if not settings:
        return None
    scaler = torch.amp.GradScaler("cpu", **settings)
    scaler.scale(torch.tensor(1.0))  # makes the scale, which is put off until a loss comes
    return scaler


def scaled_step(scaler, optimizer):
    """One step of the optimizer, or none, and of the scaler: (scale before, scale after, whether there was none).

    A fused optimizer unscales by itself, so `unscale_` is not called here.
    """
    before = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    after = scaler.get_scale()
    return before, after, after < before


def scaler_trace(trace):
    before, after, found = zip(*trace)
    return {
        "scaler/scale_before": np.array(before, np.float64),
        "scaler/scale_after": np.array(after, np.float64),
        "scaler/found_inf": np.array(found, np.uint8),
    }


def record_settings(group, used):
    """Notes what the coming step uses; a one-cycle schedule moves beta1 or the momentum too."""
    used["lr"].append(float(group["lr"]))
    momentum = group["betas"][0] if "betas" in group else group["momentum"]
    used["beta1_or_momentum"].append(float(momentum))


def torch_states(optimizer, params):
    tensors = {}
    for name, param in params.items():
        for slot, value in optimizer.state[param].items():
            tensors[f"state/{slot}/{name}"] = value.detach().numpy().copy()
    return tensors


def plain(group):
    """A parameter group without its tensors."""
    return {key: value for key, value in group.items() if key != "params"}


# --- Keras 3 on TensorFlow -----------------------------------------------------------------------

KERAS_SLOTS = {
    "momentum": "_momentums",
    "velocity": "_velocities",
    "velocity_hat": "_velocity_hats",
    "average_gradient": "_average_gradients",
}
KERAS_FLOATS = {
    "Adam": ["learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay"],
    "RMSprop": ["learning_rate", "rho", "momentum", "epsilon", "weight_decay"],
}
KERAS_CHAIN_FLOATS = ["clipnorm", "global_clipnorm", "clipvalue", "ema_momentum"]


def run_keras(case, inputs, dtype, trajectory):
    import keras
    import tensorflow as tf

    keras.config.set_floatx(dtype)
    optimizer = keras_optimizer(keras, case, dtype)
    variables = {n: keras.Variable(a, dtype=dtype, name=n) for n, a in inputs.param0.items()}
    optimizer.build(list(variables.values()))
    averages = {name: [] for name in variables} if optimizer.use_ema else {}
    for step in range(case.steps):
        gradients = [tf.constant(inputs.grad[name][step], dtype) for name in variables]
        optimizer.apply(gradients, list(variables.values()))
        for name, variable in variables.items():
            trajectory[name].append(np.array(variable))
        for name, average in zip(averages, getattr(optimizer, "_model_variables_moving_average", [])):
            averages[name].append(np.array(average))
    tensors = keras_states(optimizer, variables)
    tensors |= {f"extra/ema/{name}": np.stack(steps) for name, steps in averages.items()}
    return tensors, keras_report(optimizer)


def keras_optimizer(keras, case, dtype):
    """Builds the optimizer, in the float64 run with float64 settings.

    TensorFlow turns a Python float into a float32 tensor before Keras casts it to the type of the
    variable, so 0.9 would reach a float64 run as 0.89999998.
    """
    build = getattr(keras.optimizers, case.optimizer)
    if dtype == "float32":
        return build(**case.kwargs)
    config = build(**case.kwargs).get_config() | case.kwargs
    # The default of the learning rate comes back rounded to the float type of its variable.
    config["learning_rate"] = case.canonical["lr"]
    floats = KERAS_FLOATS[case.optimizer] + KERAS_CHAIN_FLOATS
    exact = {k: np.float64(config[k]) for k in floats if config[k] is not None}
    return build(**case.kwargs | exact)


def keras_states(optimizer, variables):
    tensors = {
        "state/iterations/all": np.array(optimizer.iterations, np.int64),
        "extra/learning_rate_variable": np.array(optimizer.learning_rate, np.float64),
    }
    for slot, attribute in KERAS_SLOTS.items():
        # Keras leaves an empty list, or no list, for what the settings do not need.
        for name, value in zip(variables, getattr(optimizer, attribute, None) or []):
            tensors[f"state/{slot}/{name}"] = np.array(value)
    return tensors


def keras_report(optimizer):
    """The configuration as JSON can hold it."""
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in optimizer.get_config().items()}


# --- the legacy optimizers of tf_keras -----------------------------------------------------------


def run_tfk_legacy(case, inputs, dtype, trajectory):
    import tensorflow as tf
    import tf_keras

    tf_keras.backend.set_floatx(dtype)
    optimizer = tf_keras.optimizers.legacy.RMSprop(**legacy_settings(tf, case, dtype))
    variables = {n: tf.Variable(a, dtype=dtype, name=n) for n, a in inputs.param0.items()}
    for step in range(case.steps):
        gradients = [tf.constant(inputs.grad[name][step], dtype) for name in variables]
        optimizer.apply_gradients(zip(gradients, variables.values()))
        for name, variable in variables.items():
            trajectory[name].append(variable.numpy())
    return legacy_states(optimizer, variables), keras_report(optimizer)


def legacy_settings(tf, case, dtype):
    """In the float64 run the settings are float64 tensors, for the same reason as in Keras."""
    if dtype == "float32":
        return case.kwargs
    exact = {"learning_rate": case.canonical["lr"], "rho": case.canonical["alpha"]}
    return case.kwargs | {name: tf.constant(value, tf.float64) for name, value in exact.items()}


def legacy_states(optimizer, variables):
    return {
        f"state/{slot}/{name}": optimizer.get_slot(variable, slot).numpy()
        for slot in optimizer.get_slot_names()
        for name, variable in variables.items()
    }


# --- optax ---------------------------------------------------------------------------------------


def run_optax(case, inputs, dtype, trajectory):
    import jax
    import optax

    # With 64-bit types enabled, JAX would form the scalars of a float32 run in float64.
    jax.config.update("jax_enable_x64", dtype == "float64")
    params = {name: jax.numpy.asarray(a, dtype) for name, a in inputs.param0.items()}
    optimizer = getattr(optax, case.optimizer)(**case.kwargs)
    state = optimizer.init(params)
    for step in range(case.steps):
        gradients = {name: jax.numpy.asarray(inputs.grad[name][step], dtype) for name in params}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for name, param in params.items():
            trajectory[name].append(np.array(param))
    return optax_states(state), None


def optax_states(state):
    """Collects the named parts of a chain of transformations."""
    tensors = {}
    for slot in getattr(state, "_fields", ()):
        value = getattr(state, slot)
        named = value if isinstance(value, dict) else {"all": value}
        tensors |= {f"state/{slot}/{name}": np.array(a) for name, a in named.items()}
    if not tensors and isinstance(state, tuple):
        for part in state:
            tensors |= optax_states(part)
    return tensors


# --- the published formulas ----------------------------------------------------------------------


def run_article(case, inputs, dtype, trajectory):
    tensors = {}
    step = {"adam": article_adam, "rmsprop": article_rmsprop}[case.optimizer]
    for name, start in inputs.param0.items():
        param, state = start.astype(dtype), {}
        for t, gradient in enumerate(inputs.grad[name].astype(dtype), start=1):
            param = step(param, gradient, state, t, **case.kwargs)
            trajectory[name].append(param)
        tensors |= {f"state/{slot}/{name}": value for slot, value in state.items()}
    return tensors, None


def article_adam(p, g, state, t, lr, beta1, beta2, eps):
    """Adam with the bias corrections applied to both moments."""
    state["m"] = beta1 * state.get("m", np.zeros_like(p)) + (1 - beta1) * g
    state["v"] = beta2 * state.get("v", np.zeros_like(p)) + (1 - beta2) * g**2
    m_hat = state["m"] / (1 - beta1**t)
    v_hat = state["v"] / (1 - beta2**t)
    return p - lr / (np.sqrt(v_hat) + eps) * m_hat


def article_rmsprop(p, g, state, t, lr, gamma, eps):
    """RMSprop with epsilon inside the square root; it has no use for the step number."""
    state["E_g2"] = gamma * state.get("E_g2", np.zeros_like(p)) + (1 - gamma) * g**2
    return p - lr / np.sqrt(state["E_g2"] + eps) * g


RUNNERS = {
    "torch": run_torch,
    "keras-tf": run_keras,
    "tfk-legacy": run_tfk_legacy,
    "optax": run_optax,
    "article": run_article,
}
