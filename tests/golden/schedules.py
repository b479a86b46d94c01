"""Regenerates the learning-rate sequences of this folder with the real frameworks.

    python schedules.py --check      rerun every sequence and compare with the files here
    python schedules.py --out DIR    write the files into DIR

`lr_sequences` holds a sequence of each kind, `lr_variants` arguments that are less usual. README.md describes the files
and the tolerance; requirements.txt lists the packages.
"""

import argparse
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import torch  # before TensorFlow: the other way round they refuse to load
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent
SCHEMA = "wgpu-optim-golden/1"
LIMIT = 1e-12
# Recorded through Keras's JAX backend, which rounds the decay factor to float32 (0.1 is stored as 0.1000000015). The
# TensorFlow backend does not: `keras_cosine_warmup_f64` among the variants.
LIMITS = {"lr/keras_cosine_warmup": 2e-7}
SEMANTICS = (
    "lr[t] = rate used by update number t, from 0; scheduler.step() is called after each optimizer step; plateau: "
    "scheduler.step(plateau_metric[t]) after update t; beta1/* = Adam's beta1 and momentum/* = RMSprop's momentum, "
    "where the scheduler moves it; all float64"
)


# --- the sequences -------------------------------------------------------------------------------


def own(kind, base_lr=0.01, **args):
    """A schedule over the optimizer's own lr. `steps` and `optimizer` say how it is run; the rest is its arguments."""
    run = {key: args.pop(key) for key in ("steps", "optimizer") if key in args}
    return {"kind": kind, "args": args, "base_lr": base_lr} | run


def bringing(kind, **args):
    """A schedule that brings its own lr."""
    run = {key: args.pop(key) for key in ("steps",) if key in args}
    return {"kind": kind, "args": args} | run


def cyclic(**args):
    """CyclicLR brings a base_lr, which becomes the optimizer's."""
    run = {key: args.pop(key) for key in ("steps", "optimizer") if key in args}
    return {"kind": "torch.CyclicLR", "args": args, "base_lr": args["base_lr"]} | run


def chain(milestones, *parts, **rest):
    """SequentialLR over parts of (kind, arguments)."""
    return own("torch.SequentialLR", milestones=milestones, schedulers=[[kind, args] for kind, args in parts], **rest)


SEQUENCES = {
    "constant": own("torch.ConstantLR", factor=0.5, total_iters=5),
    "cosine": own("torch.CosineAnnealingLR", T_max=50, eta_min=1e-5),
    "cosine_restarts": own("torch.CosineAnnealingWarmRestarts", T_0=10, T_mult=2, eta_min=1e-5),
    "cyclic_triangular2": cyclic(base_lr=1e-3, max_lr=0.01, step_size_up=7, mode="triangular2", cycle_momentum=False),
    "exponential": own("torch.ExponentialLR", gamma=0.95),
    "linear_warmup": own("torch.LinearLR", start_factor=0.1, end_factor=1.0, total_iters=10),
    "multistep": own("torch.MultiStepLR", milestones=[8, 20, 33], gamma=0.3),
    "onecycle_cos": own("torch.OneCycleLR", max_lr=0.1, total_steps=60),
    "onecycle_linear": own("torch.OneCycleLR", max_lr=0.1, total_steps=60, anneal_strategy="linear"),
    "plateau": own("torch.ReduceLROnPlateau", factor=0.5, patience=3),
    "polynomial": own("torch.PolynomialLR", power=2.0, total_iters=40),
    "step": own("torch.StepLR", step_size=10, gamma=0.5),
    "warmup_then_cosine": own("torch.Sequential", start_factor=0.1, warmup=5, T_max=55, eta_min=0.0),
    "keras_cosine_warmup": bringing(
        "keras.CosineDecay", initial_learning_rate=0.0, decay_steps=50, alpha=0.1, warmup_target=0.01, warmup_steps=8
    ),
    "keras_exponential": bringing(
        "keras.ExponentialDecay", initial_learning_rate=0.01, decay_steps=20, decay_rate=0.5
    ),
    "keras_inverse_time": bringing(
        "keras.InverseTimeDecay", initial_learning_rate=0.01, decay_steps=10, decay_rate=0.5
    ),
    "optax_cosine": bringing("optax.cosine_decay_schedule", init_value=0.01, decay_steps=50, alpha=0.1),
    "optax_cosine_onecycle": bringing("optax.cosine_onecycle_schedule", transition_steps=60, peak_value=0.1),
    "optax_exponential_staircase": bringing(
        "optax.exponential_decay", init_value=0.01, transition_steps=10, decay_rate=0.5, staircase=True
    ),
    "optax_warmup_cosine": bringing(
        "optax.warmup_cosine_decay_schedule",
        init_value=0.0, peak_value=0.01, warmup_steps=8, decay_steps=60, end_value=1e-4,
    ),
}

ONE_CYCLE = "torch.OneCycleLR"
VARIANTS = {
    "constant_default": own("torch.ConstantLR"),
    "constant_one_step": own("torch.ConstantLR", factor=0.7, total_iters=1),
    "cosine_back_up": own("torch.CosineAnnealingLR", T_max=17, eta_min=1e-3, steps=120),
    "cosine_one_step": own("torch.CosineAnnealingLR", T_max=1, eta_min=1e-3),
    "cosine_up": own("torch.CosineAnnealingLR", T_max=40, eta_min=0.02),
    "cosine_long": own("torch.CosineAnnealingLR", T_max=900, eta_min=1e-5, steps=1000),
    "cosine_to_zero": own("torch.CosineAnnealingLR", T_max=100, steps=220),
    "restarts_alike": own("torch.CosineAnnealingWarmRestarts", T_0=7),
    "restarts_by_three": own("torch.CosineAnnealingWarmRestarts", T_0=2, T_mult=3, eta_min=1e-4, steps=300),
    "restarts_each_step": own("torch.CosineAnnealingWarmRestarts", T_0=1),
    "cyclic_default": cyclic(base_lr=1e-3, max_lr=0.1),
    "cyclic_lopsided": cyclic(base_lr=1e-3, max_lr=0.1, step_size_up=3, step_size_down=11, steps=120),
    "cyclic_halving": cyclic(base_lr=1e-3, max_lr=0.1, step_size_up=4, mode="triangular2", steps=120),
    "cyclic_exp_range": cyclic(base_lr=1e-3, max_lr=0.1, step_size_up=9, mode="exp_range", gamma=0.97, steps=120),
    "cyclic_rmsprop": cyclic(
        base_lr=1e-3, max_lr=0.1, step_size_up=5, base_momentum=0.5, max_momentum=0.99, optimizer="RMSprop"
    ),
    "exponential_up": own("torch.ExponentialLR", gamma=1.1, steps=200),
    "exponential_long": own("torch.ExponentialLR", gamma=0.999, steps=1000),
    "linear_default": own("torch.LinearLR"),
    "linear_down": own("torch.LinearLR", start_factor=1.0, end_factor=0.05, total_iters=37),
    "linear_long": own("torch.LinearLR", start_factor=1e-3, total_iters=900, steps=1000),
    "multistep_repeated": own("torch.MultiStepLR", milestones=[0, 5, 5, 5, 21, 40, 40], gamma=0.5),
    "onecycle_three_phase": own(ONE_CYCLE, max_lr=0.1, total_steps=60, three_phase=True),
    "onecycle_three_phase_linear": own(
        ONE_CYCLE, max_lr=0.1, total_steps=60, three_phase=True, anneal_strategy="linear", pct_start=0.45
    ),
    "onecycle_three_phase_late": own(ONE_CYCLE, max_lr=0.1, total_steps=60, three_phase=True, pct_start=0.8),
    "onecycle_down_only": own(ONE_CYCLE, max_lr=0.1, total_steps=60, pct_start=0.0),
    "onecycle_up_only": own(ONE_CYCLE, max_lr=0.1, total_steps=60, pct_start=1.0),
    "onecycle_odd": own(
        ONE_CYCLE, max_lr=0.3, total_steps=59, steps=59, pct_start=0.37, div_factor=7.0, final_div_factor=33.0,
        base_momentum=0.1, max_momentum=0.9,
    ),
    "onecycle_rmsprop": own(ONE_CYCLE, max_lr=0.1, total_steps=60, optimizer="RMSprop"),
    "onecycle_still_momentum": own(ONE_CYCLE, max_lr=0.1, total_steps=60, cycle_momentum=False),
    "onecycle_long": own(ONE_CYCLE, max_lr=0.1, total_steps=1000, steps=1000),
    "polynomial_default": own("torch.PolynomialLR"),
    "polynomial_root": own("torch.PolynomialLR", power=0.5, total_iters=50),
    "polynomial_cube": own("torch.PolynomialLR", power=3.0, total_iters=900, steps=1000),
    "polynomial_flat": own("torch.PolynomialLR", power=0.0, total_iters=20),
    "step_default": own("torch.StepLR", step_size=7),
    "step_each": own("torch.StepLR", step_size=1, gamma=0.9),
    "chain_of_four": chain(
        [5, 20, 41],
        ("torch.LinearLR", {"start_factor": 0.2, "total_iters": 5}),
        ("torch.ConstantLR", {"factor": 1.0}),
        ("torch.CosineAnnealingWarmRestarts", {"T_0": 4, "T_mult": 2, "eta_min": 1e-4}),
        ("torch.ExponentialLR", {"gamma": 0.9}),
    ),
    "chain_cut_short": chain(
        [7, 30],
        ("torch.PolynomialLR", {"total_iters": 20, "power": 2.0}),
        ("torch.MultiStepLR", {"milestones": [0, 3, 9], "gamma": 0.5}),
        ("torch.StepLR", {"step_size": 4, "gamma": 0.7}),
    ),
    # The lr that the one-cycle starts from is the optimizer's own, because PyTorch hands it on to the next.
    "chain_after_onecycle": chain(
        [25],
        (ONE_CYCLE, {"max_lr": 0.25, "total_steps": 40}),
        ("torch.LinearLR", {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 9}),
        base_lr=0.01,
    ),
    "plateau_max": own("torch.ReduceLROnPlateau", mode="max", factor=0.3, patience=1, cooldown=3, min_lr=1e-4),
    "plateau_abs": own("torch.ReduceLROnPlateau", threshold_mode="abs", threshold=0.02, patience=0, eps=1e-4),
    "plateau_max_abs": own("torch.ReduceLROnPlateau", mode="max", threshold_mode="abs", threshold=0.0, patience=2),
    "wsd_default": own("transformers.get_wsd_schedule", num_warmup_steps=8, num_stable_steps=30, num_decay_steps=15),
    "wsd_roots": own(
        "transformers.get_wsd_schedule", num_warmup_steps=10, num_stable_steps=20, num_decay_steps=20,
        warmup_type="1-sqrt", decay_type="1-sqrt", min_lr_ratio=0.1,
    ),
    "wsd_cosines": own(
        "transformers.get_wsd_schedule", num_warmup_steps=10, num_stable_steps=0, num_decay_steps=40,
        warmup_type="cosine", num_cycles=1.5, min_lr_ratio=0.01,
    ),
    "wsd_lines": own(
        "transformers.get_wsd_schedule", num_warmup_steps=0, num_stable_steps=25, num_decay_steps=25,
        decay_type="linear", min_lr_ratio=0.3,
    ),
    "keras_cosine_warmup_f64": SEQUENCES["keras_cosine_warmup"],
    "keras_cosine": bringing("keras.CosineDecay", initial_learning_rate=0.03, decay_steps=45),
    "keras_cosine_from": bringing(
        "keras.CosineDecay", initial_learning_rate=0.03, decay_steps=40, warmup_target=0.01, alpha=1.5, warmup_steps=9
    ),
    "keras_exponential_staircase": bringing(
        "keras.ExponentialDecay", initial_learning_rate=0.01, decay_steps=7, decay_rate=0.8, staircase=True
    ),
    "keras_inverse_time_staircase": bringing(
        "keras.InverseTimeDecay", initial_learning_rate=0.01, decay_steps=7, decay_rate=1.3, staircase=True
    ),
    "optax_cosine_cubed": bringing(
        "optax.cosine_decay_schedule", init_value=0.02, decay_steps=50, alpha=0.01, exponent=3.0
    ),
    "optax_exponential_late": bringing(
        "optax.exponential_decay",
        init_value=0.01, transition_steps=9, decay_rate=0.4, transition_begin=13, end_value=1e-3,
    ),
    "optax_exponential_up": bringing(
        "optax.exponential_decay", init_value=0.01, transition_steps=9, decay_rate=1.7, end_value=0.1
    ),
    "optax_onecycle_odd": bringing(
        "optax.cosine_onecycle_schedule",
        transition_steps=47, peak_value=0.2, pct_start=0.33, div_factor=5.0, final_div_factor=50.0,
    ),
    "optax_onecycle_down_only": bringing(
        "optax.cosine_onecycle_schedule", transition_steps=40, peak_value=0.2, pct_start=0.0
    ),
    "optax_warmup_cosine_squared": bringing(
        "optax.warmup_cosine_decay_schedule",
        init_value=0.02, peak_value=0.01, warmup_steps=11, decay_steps=50, end_value=1e-3, exponent=2.0,
    ),
    "optax_no_warmup": bringing(
        "optax.warmup_cosine_decay_schedule", init_value=0.5, peak_value=0.01, warmup_steps=0, decay_steps=50
    ),
}

FILES = {"lr_sequences": SEQUENCES, "lr_variants": VARIANTS}
PACKAGES = ["keras", "optax", "torch", "transformers"]


# --- running them --------------------------------------------------------------------------------


def run(name, sequence, metric):
    """The tensors of one sequence."""
    framework = sequence["kind"].split(".")[0]
    if framework in ("torch", "transformers"):
        return run_torch(name, sequence, metric)
    steps = range(sequence.get("steps", 60))
    schedule = {"keras": keras_schedule, "optax": optax_schedule}[framework](sequence)
    return {f"lr/{name}": np.array([float(schedule(step)) for step in steps])}


def run_torch(name, sequence, metric):
    kind = sequence.get("optimizer", "Adam")
    optimizer = getattr(torch.optim, kind)([torch.zeros(1, requires_grad=True)], lr=sequence["base_lr"])
    scheduler = torch_scheduler(optimizer, sequence["kind"], sequence["args"])
    key, read = {
        "Adam": ("beta1", lambda group: group["betas"][0]),
        "RMSprop": ("momentum", lambda group: group["momentum"]),
    }[kind]
    group, lr, momentum = optimizer.param_groups[0], [], []
    for step in range(sequence.get("steps", 60)):
        lr.append(float(group["lr"]))
        momentum.append(float(read(group)))
        optimizer.step()
        if step + 1 < sequence.get("steps", 60):
            scheduler.step(*([metric[step]] if "Plateau" in sequence["kind"] else []))
    tensors = {f"lr/{name}": np.array(lr)}
    moved = any(value != momentum[0] for value in momentum)
    return tensors | ({f"{key}/{name}": np.array(momentum)} if moved else {})


def torch_scheduler(optimizer, kind, args):
    schedulers = torch.optim.lr_scheduler
    if kind == "torch.Sequential":
        warmup = schedulers.LinearLR(optimizer, start_factor=args["start_factor"], total_iters=args["warmup"])
        cosine = schedulers.CosineAnnealingLR(optimizer, T_max=args["T_max"], eta_min=args["eta_min"])
        return schedulers.SequentialLR(optimizer, [warmup, cosine], milestones=[args["warmup"]])
    if kind == "torch.SequentialLR":
        parts = [torch_scheduler(optimizer, *part) for part in args["schedulers"]]
        return schedulers.SequentialLR(optimizer, parts, milestones=args["milestones"])
    if kind.startswith("transformers."):
        from transformers import get_wsd_schedule

        return get_wsd_schedule(optimizer, **args)
    return getattr(schedulers, kind.removeprefix("torch."))(optimizer, **args)


def keras_schedule(sequence):
    import keras

    # A Python float would become a float32 tensor on its way.
    args = {key: np.float64(value) if isinstance(value, float) else value for key, value in sequence["args"].items()}
    return getattr(keras.optimizers.schedules, sequence["kind"].removeprefix("keras."))(**args)


def optax_schedule(sequence):
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    return getattr(optax, sequence["kind"].removeprefix("optax."))(**sequence["args"])


# --- files ---------------------------------------------------------------------------------------


def build(case, metric):
    tensors = {"plateau_metric": metric}
    # torch first: its libraries refuse to load once TensorFlow's are in.
    for name, sequence in sorted(FILES[case].items(), key=lambda item: "torch" not in item[1]["kind"]):
        tensors |= run(name, sequence, metric)
    return tensors


def metadata(case):
    return {
        "schema": SCHEMA,
        "case": case,
        "framework_versions": {name: version(name) for name in PACKAGES},
        "semantics": SEMANTICS,
        "steps": 60,
        "sequences": FILES[case],
    }


def stored_metadata(path):
    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["golden"])


def differences(case, made, path):
    """What disagrees with the stored file, in words, and the largest difference in units of its limit."""
    stored, worst, found = load_file(path), 0.0, []
    if stored_metadata(path)["sequences"] != json.loads(json.dumps(FILES[case])):
        found.append("other arguments")
    if {key: array.shape for key, array in made.items()} != {key: array.shape for key, array in stored.items()}:
        return worst, found + ["other tensors or lengths"]
    for key, expected in stored.items():
        difference = np.abs(made[key] - expected) / np.where(expected == 0, LIMIT, np.abs(expected))
        limit = LIMITS.get(key, LIMIT)
        worst = max(worst, float(np.nan_to_num(difference, nan=np.inf).max() / limit))
        if not difference.max() <= limit:
            found.append(key)
    return worst, found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", metavar="DIR", type=Path, help="write the files into this folder")
    parser.add_argument("--check", action="store_true", help="compare with the files beside this script")
    arguments, failed = parser.parse_args(), False
    if not arguments.check and not arguments.out:
        parser.error("give --check or --out")
    metric = load_file(HERE / "lr_sequences.safetensors")["plateau_metric"]
    for case in FILES:
        tensors = build(case, metric)
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            header = {"golden": json.dumps(metadata(case), sort_keys=True)}
            save_file(tensors, arguments.out / f"{case}.safetensors", metadata=header)
        if arguments.check:
            worst, found = differences(case, tensors, HERE / f"{case}.safetensors")
            failed = failed or bool(found)
            result = f"FAILED: {', '.join(found)}" if found else "ok"
            print(f"{case}: {len(tensors)} arrays, largest difference {worst:.2f} of its limit  {result}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
