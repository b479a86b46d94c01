"""Makes the files of this folder: a small trained network and gradients for it.

    python make.py                  writes params.safetensors and grads-00..07.safetensors
    python make.py --data           writes data.safetensors and start.safetensors
    python make.py --score FILE     prints loss and accuracy of the parameters in FILE

Needs numpy, scikit-learn and safetensors; --data needs torch, too.
"""

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent
SEED = 7
START_SEED = 1234
EPOCHS = 5
BATCH = 32
SGD_LR = 0.05
GRADIENT_FILES = 8
GRADIENT_BATCH = 256

# These repeat optim.toml, so the recorded gradients belong to the steps it takes.
LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8
WEIGHT_DECAY = {"fc1.weight": 0.01, "fc1.bias": 0.0, "fc2.weight": 0.01, "fc2.bias": 0.0}


def load_split():
    """Returns shuffled (training, held-out) pairs, pixels scaled from 0..16 to 0..1."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(x))
    x, y = x[order] / 16.0, y[order]
    return (x[:1500], y[:1500]), (x[1500:], y[1500:])


def initial_params(rng):
    """He initialisation, which suits the ReLU layer."""
    return {
        "fc1.weight": rng.normal(0.0, np.sqrt(2 / 64), (32, 64)),
        "fc1.bias": np.zeros(32),
        "fc2.weight": rng.normal(0.0, np.sqrt(2 / 32), (10, 32)),
        "fc2.bias": np.zeros(10),
    }


def forward(params, x):
    """Returns the hidden activations and the log-probabilities."""
    hidden = np.maximum(x @ params["fc1.weight"].T + params["fc1.bias"], 0.0)
    logits = hidden @ params["fc2.weight"].T + params["fc2.bias"]
    logits = logits - logits.max(axis=1, keepdims=True)
    return hidden, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def gradients(params, x, y):
    """Gradients of the mean cross-entropy over the rows of x."""
    hidden, log_prob = forward(params, x)
    d_logits = np.exp(log_prob)
    d_logits[np.arange(len(y)), y] -= 1.0
    d_logits /= len(y)
    d_hidden = (d_logits @ params["fc2.weight"]) * (hidden > 0)
    return {
        "fc1.weight": d_hidden.T @ x,
        "fc1.bias": d_hidden.sum(axis=0),
        "fc2.weight": d_logits.T @ hidden,
        "fc2.bias": d_logits.sum(axis=0),
    }


def score(params, x, y):
    """Returns (mean cross-entropy, share classified correctly)."""
    log_prob = forward(params, x)[1]
    return -log_prob[np.arange(len(y)), y].mean(), (log_prob.argmax(axis=1) == y).mean()


def train(params, x, y, rng):
    """Plain minibatch descent, stopped early so that the example has something left to improve."""
    for _ in range(EPOCHS):
        for rows in np.array_split(rng.permutation(len(x)), len(x) // BATCH):
            for name, grad in gradients(params, x[rows], y[rows]).items():
                params[name] -= SGD_LR * grad


def adamw_step(params, grads, m, v, t):
    """One AdamW step in place, as PyTorch defines it."""
    for name, g in grads.items():
        params[name] *= 1 - LR * WEIGHT_DECAY[name]
        m[name] += (1 - BETA1) * (g - m[name])
        v[name] += (1 - BETA2) * (g * g - v[name])
        denominator = np.sqrt(v[name] / (1 - BETA2**t)) + EPS
        params[name] -= LR * (m[name] / (1 - BETA1**t)) / denominator


def single(tensors):
    """The same tensors in float32, the type they are stored in."""
    return {name: np.ascontiguousarray(t, dtype=np.float32) for name, t in tensors.items()}


def double(tensors):
    """The same tensors in float64, the type this script computes in."""
    return {name: t.astype(np.float64) for name, t in tensors.items()}


def write_gradients(params, x, y, rng):
    """Follows the AdamW run of optim.toml and saves the gradient of each of its steps."""
    m = {name: np.zeros_like(p) for name, p in params.items()}
    v = {name: np.zeros_like(p) for name, p in params.items()}
    for step in range(GRADIENT_FILES):
        rows = rng.choice(len(x), GRADIENT_BATCH, replace=False)
        stored = single(gradients(params, x[rows], y[rows]))
        save_file(stored, HERE / f"grads-{step:02}.safetensors")
        adamw_step(params, double(stored), m, v, step + 1)


def report(label, params):
    """Prints how well the parameters do on the training and on the held-out digits."""
    for part, (x, y) in zip(("training", "held-out"), load_split()):
        loss, accuracy = score(params, x, y)
        print(f"{label}: {part} loss {loss:.4f}, accuracy {100 * accuracy:.1f} %")


def make():
    """Trains the network and writes every file."""
    rng = np.random.default_rng(SEED + 1)
    (x, y), _ = load_split()
    params = initial_params(rng)
    train(params, x, y, rng)
    stored = single(params)
    # PyTorch writes this map, and a reader has to cope with it.
    save_file(stored, HERE / "params.safetensors", metadata={"format": "pt"})
    params = double(stored)
    report("params.safetensors", params)
    write_gradients(params, x, y, rng)
    report(f"after {GRADIENT_FILES} AdamW steps", params)


def make_data():
    """Writes all images with their labels, and the weights that PyTorch starts such a network from."""
    import torch

    images, labels = load_digits(return_X_y=True)
    data = {"images": images.astype(np.uint8), "labels": labels.astype(np.uint8)}
    assert np.array_equal(data["images"], images), "a pixel is no whole number"
    save_file(data, HERE / "data.safetensors")
    torch.manual_seed(START_SEED)
    start = {}
    for name, layer in ("fc1", torch.nn.Linear(64, 32)), ("fc2", torch.nn.Linear(32, 10)):
        start |= {f"{name}.{part}": tensor.detach().numpy() for part, tensor in layer.named_parameters()}
    save_file(start, HERE / "start.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--score", metavar="FILE", help="score this parameter file and write nothing")
    parser.add_argument("--data", action="store_true", help="write data.safetensors and start.safetensors alone")
    arguments = parser.parse_args()
    if arguments.score:
        report(arguments.score, double(load_file(arguments.score)))
    elif arguments.data:
        make_data()
    else:
        make()


if __name__ == "__main__":
    main()
