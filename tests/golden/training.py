"""Trains the digits network of mlp_digits_64_32_10.safetensors again with PyTorch.

    python training.py --check      train, and compare with the file here
    python training.py --out DIR    train, and write the file into DIR

Images, labels and starting weights are those of the file here. `--check` exits with 1 when anything disagrees.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from frameworks import article_rmsprop

HERE = Path(__file__).resolve().parent
NAME = "mlp_digits_64_32_10.safetensors"
STEPS = 200
KEPT = (1, 10, 50, 200)


class Article:
    """The textbook's RMSprop, which torch does not have."""

    def __init__(self, params, **settings):
        self.params, self.settings = list(params), settings
        self.state = [{} for _ in self.params]

    def step(self):
        for param, state in zip(self.params, self.state):
            value, grad = param.detach().numpy(), param.grad.numpy()
            param.data = torch.from_numpy(article_rmsprop(value, grad, state, None, **self.settings))


RUNS = {
    "adam": lambda params: torch.optim.Adam(params, lr=0.01),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.001),
    "rmsprop_article": lambda params: Article(params, lr=0.001, gamma=0.9, eps=1e-8),
}


def forward(params, x):
    hidden = torch.relu(x @ params["w1"].T + params["b1"])
    return hidden @ params["w2"].T + params["b2"]


def losses(stored, make, kind, on_step):
    """Trains, and returns (losses, accuracies) before each step and after the last."""
    params = {n: torch.tensor(stored[f"init/{n}"], dtype=kind, requires_grad=True) for n in ("w1", "b1", "w2", "b2")}
    x, y = torch.tensor(stored["x"], dtype=kind), torch.tensor(stored["y"])
    optimizer, curve = make(params.values()), []
    for step in range(STEPS + 1):
        logits = forward(params, x)
        loss = torch.nn.functional.cross_entropy(logits, y)
        curve.append((loss.item(), (logits.argmax(1) == y).double().mean().item()))
        for param in params.values():
            param.grad = None
        loss.backward()
        on_step(step, params)
        if step < STEPS:
            optimizer.step()
    return np.array(curve).T


def build(stored):
    """Every tensor of the file."""
    made = {name: stored[name] for name in stored if name.startswith("init/") or name in ("x", "y")}
    for run, make in RUNS.items():
        made[f"loss_f32/{run}"], made[f"acc_f32/{run}"] = losses(stored, make, torch.float32, keep_single(made, run))
        made[f"loss_f64/{run}"], _ = losses(stored, make, torch.float64, keep_double(made, run))
    return made


def keep_single(made, run):
    def on_step(step, params):
        if step in KEPT:
            weights = {f"weights_f32_step{step}/{run}/{n}": p.detach().numpy().copy() for n, p in params.items()}
            made.update(weights)

    return on_step


def keep_double(made, run):
    def on_step(step, params):
        if step == 0:
            made.update({f"grad0_f64/{n}": p.grad.numpy().copy() for n, p in params.items()})
        if step == STEPS:
            made.update({f"weights_f64_final/{run}/{n}": p.detach().numpy().copy() for n, p in params.items()})

    return on_step


def check(made, stored):
    """Prints the largest difference of each tensor, relative to its largest value, and returns those above a limit."""
    failed = sorted(made.keys() ^ stored.keys())
    for key in sorted(made.keys() & stored.keys()):
        single = "f32" in key
        # In float32 the order of additions is not told, and 200 steps of Adam carry its rounding far.
        limit = (1e-2 if "step200" in key else 1e-3 if "weights" in key else 1e-4) if single else 1e-9
        # A row on the edge between two classes may fall on either side.
        limit = 2 / len(stored["y"]) if key.startswith("acc") else limit
        expected = stored[key].astype(np.float64)
        same_shape = made[key].shape == expected.shape
        error = np.abs(made[key] - expected).max() / np.abs(expected).max() if same_shape else np.inf
        if made[key].dtype != stored[key].dtype or not error <= limit:
            failed.append(key)
        print(f"{key:42}{error:11.2e} of {limit:.0e}")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the file beside this script")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write the file into this folder")
    arguments = parser.parse_args()
    if not arguments.check and not arguments.out:
        parser.error("give --check or --out")
    torch.set_num_threads(1)
    stored = load_file(HERE / NAME)
    made = build(stored)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        save_file(made, arguments.out / NAME, metadata=metadata())
    failed = check(made, stored) if arguments.check else []
    if failed:
        print("FAILED:", ", ".join(failed))
    return 1 if failed else 0


def metadata():
    with safe_open(HERE / NAME, "np") as file:
        return {"golden": json.dumps(json.loads(file.metadata()["golden"]), sort_keys=True)}


if __name__ == "__main__":
    sys.exit(main())
