"""State that crosses between PyTorch and wgpu-optim, both ways.

    python state_dict.py write          run each case in PyTorch, and write what tests/checkpoint/pytorch.rs goes on from
    python state_dict.py check DIR      go on in PyTorch from what that test has written to DIR, and compare

A case is 4 tensors in 2 groups, K steps, and AHEAD more. For each there are two files: NAME.safetensors, the state after K
steps as scripts/state_dict.py writes it, and NAME.run.safetensors with `param/ID` after K steps, `grad/ID` [AHEAD, ...] of
the steps that follow, and `param_f64/ID` [AHEAD, ...] after each of them: PyTorch in float64 from the same float32 state.

In a case of halves all of that is BF16, and there are `param_bf16/ID`, what PyTorch's fused kernel makes of it in bfloat16,
instead: every code counts. `check` then allows a device one code, and the CPU none.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "scripts"))
import state_dict  # noqa: E402  (the one of scripts, found there)

FOLDER = HERE / "state_dict"
K, AHEAD = 5, 3
# IDs 0 and 1 are in the first group, 2 and 3 in the second.
SHAPES = [[3, 5], [1], [17], [2, 2, 8]]
# (class, settings of the first group, of the second); lr as a scheduler would leave it.
CASES = {
    "adam": (torch.optim.Adam, {"lr": 0.1 + 0.2, "weight_decay": 0.1}, {"lr": 1e-3, "betas": (0.8, 0.95), "maximize": True}),
    "adamw_amsgrad": (torch.optim.AdamW, {"lr": 1e-2, "amsgrad": True}, {"lr": 3e-4, "eps": 1e-6, "weight_decay": 0.3}),
    "rmsprop_centered_momentum": (
        torch.optim.RMSprop,
        {"lr": 1e-2, "centered": True, "momentum": 0.9},
        {"lr": 2e-3, "alpha": 0.9, "momentum": 0.5, "weight_decay": 0.01},
    ),
}
# Parameters, gradients and state in bfloat16.
HALVES = {"adamw_bf16": (torch.optim.AdamW, {"lr": 1e-2, "fused": True}, {"lr": 3e-3, "weight_decay": 0.3, "fused": True})}


def build(case, params):
    """The optimizer of a case over tensors."""
    kind, first, second = (CASES | HALVES)[case]
    return kind([first | {"params": params[:2]}, second | {"params": params[2:]}])


def leaf(values, kind):
    return torch.tensor(np.asarray(values), dtype=kind, requires_grad=True)


def step(optimizer, params, grads):
    for param, grad in zip(params, grads):
        param.grad = None if grad is None else torch.tensor(grad, dtype=param.dtype)
    optimizer.step()


def follow(case, path, start, grads, kind):
    """The parameters after each of the steps that follow on a saved state, with all numbers of this type."""
    params = [leaf(values, kind) for values in start]
    optimizer = build(case, params)
    state_dict.load(optimizer, path)  # PyTorch casts the state to the type of the parameters.
    trajectory = [[] for _ in params]
    for t in range(len(grads[0])):
        step(optimizer, params, [grad[t] for grad in grads])
        for steps, param in zip(trajectory, params):
            steps.append(param.detach().numpy().copy())
    return [np.stack(steps) for steps in trajectory]


def write():
    FOLDER.mkdir(exist_ok=True)
    for seed, case in enumerate(CASES):
        draw = np.random.default_rng(seed)
        normal = lambda *shape: draw.standard_normal(shape).astype(np.float32)  # noqa: E731
        params = [leaf(normal(*shape), torch.float32) for shape in SHAPES]
        optimizer = build(case, params)
        for t in range(K):
            # ID 1 is without a gradient in some steps, and ID 3 of Adam in all: it has no state then.
            absent = {1: t % 2 == 1, 3: case == "adam"}
            step(optimizer, params, [None if absent.get(id) else normal(*shape) for id, shape in enumerate(SHAPES)])
        path = FOLDER / f"{case}.safetensors"
        state_dict.save(optimizer, path)
        start = [param.detach().numpy().copy() for param in params]
        grads = [normal(AHEAD, *shape) for shape in SHAPES]
        tensors = {}
        for id, after in enumerate(follow(case, path, start, grads, torch.float64)):
            tensors |= {f"param/{id}": start[id], f"grad/{id}": grads[id], f"param_f64/{id}": after}
        save_file(tensors, FOLDER / f"{case}.run.safetensors", {"torch": torch.__version__})
        print(f"{case}: {sum(param.numel() for param in params)} elements, steps {K} and {AHEAD}")


def follow_halves(case, path, start, grads):
    """The parameters after each of the steps that follow on a saved state, all in bfloat16."""
    params = [values.clone().requires_grad_() for values in start]
    optimizer = build(case, params)
    state_dict.load(optimizer, path)
    for group in optimizer.param_groups:
        group["fused"] = True  # How a step is executed: the other kernels round in its middle.
    slots = [slots for slots in optimizer.state.values()]
    kinds = {slot[name].dtype for slot in slots for name in slot if name != "step"}
    assert kinds == {torch.bfloat16}, kinds
    trajectory = [[] for _ in params]
    for t in range(AHEAD):
        for param, grad in zip(params, grads):
            param.grad = grad[t].clone()
        optimizer.step()
        for steps, param in zip(trajectory, params):
            steps.append(param.detach().clone())
    return [torch.stack(steps) for steps in trajectory]


def write_halves():
    for case in HALVES:
        draw = torch.Generator().manual_seed(7)
        normal = lambda *shape: torch.randn(*shape, generator=draw).bfloat16()  # noqa: E731
        params = [normal(*shape).requires_grad_() for shape in SHAPES]
        optimizer = build(case, params)
        for _ in range(K):
            for param, shape in zip(params, SHAPES):
                param.grad = normal(*shape)
            optimizer.step()
        path = FOLDER / f"{case}.safetensors"
        state_dict.save(optimizer, path)
        start = [param.detach().clone() for param in params]
        grads = [normal(AHEAD, *shape) for shape in SHAPES]
        tensors = {}
        for id, after in enumerate(follow_halves(case, path, start, grads)):
            tensors |= {f"param/{id}": start[id], f"grad/{id}": grads[id], f"param_bf16/{id}": after}
        save_torch(tensors, FOLDER / f"{case}.run.safetensors", {"torch": torch.__version__})
        print(f"{case}: {sum(param.numel() for param in params)} elements, steps {K} and {AHEAD}")


def check_halves(device, case, path, run):
    """Whether PyTorch went on as wgpu-optim did: to the code, and on a GPU to one."""
    shaped = lambda key, *sides: [run[f"{key}/{id}"].reshape(*sides, *shape) for id, shape in enumerate(SHAPES)]  # noqa: E731
    theirs = follow_halves(case, path, shaped("param"), shaped("grad", AHEAD))
    ours = shaped("param_bf16", AHEAD)
    apart = [(a.view(torch.int16).int() - b.view(torch.int16).int()).abs() for a, b in zip(ours, theirs)]
    worst, differ = max(int(each.max()) for each in apart), sum(int((each > 0).sum()) for each in apart)
    print(f"{device}-{case}: {differ} codes differ, by {worst} at most, after {AHEAD} steps in PyTorch {torch.__version__}")
    return worst <= (0 if device == "cpu" else 1)


def ulp(values):
    return np.spacing(np.abs(values).astype(np.float32)).astype(np.float64)


def worst(start, ours, theirs, lr):
    """The largest error in units of the tolerance of README.md, over all steps."""
    points = np.concatenate([start[None].astype(np.float64), theirs])
    size = np.maximum(np.maximum.accumulate(np.abs(points))[1:], 1e-6)
    path = np.cumsum(np.abs(np.diff(points, axis=0)), axis=0)
    t = np.arange(1, len(theirs) + 1).reshape(-1, *[1] * start.ndim)
    error = np.abs(ours.astype(np.float64) - theirs)
    return float((error / (1e-5 * lr + 2 * t * ulp(size) + 2e-6 * path)).max())


def check(folder):
    """NAME.run.safetensors there holds `param/ID`, `grad/ID`, and in `param_f32/ID` what wgpu-optim made of them."""
    failed, paths = False, sorted(Path(folder).glob("*.run.safetensors"))
    for path in paths:
        device_and_case = path.name.removesuffix(".run.safetensors")
        device, case = device_and_case.split("-", 1)
        if case in HALVES:
            failed |= not check_halves(device, case, Path(folder) / f"{device_and_case}.safetensors", load_torch(path))
            continue
        run = load_file(path)
        shaped = lambda key: [run[f"{key}/{id}"] for id in range(len(SHAPES))]  # noqa: E731
        start = [values.reshape(shape) for values, shape in zip(shaped("param"), SHAPES)]
        grads = [values.reshape(-1, *shape) for values, shape in zip(shaped("grad"), SHAPES)]
        ours = [values.reshape(-1, *shape) for values, shape in zip(shaped("param_f32"), SHAPES)]
        theirs = follow(case, Path(folder) / f"{device_and_case}.safetensors", start, grads, torch.float64)
        lrs = [settings["lr"] for settings in CASES[case][1:] for _ in range(2)]
        ratio = max(worst(*each) for each in zip(start, ours, theirs, lrs))
        failed |= not ratio <= 1
        print(f"{device_and_case}: {ratio:.3f} of the tolerance after {len(grads[0])} steps in PyTorch {torch.__version__}")
    if failed or not paths:
        sys.exit("too far apart" if paths else f"nothing to check in {folder}")


if __name__ == "__main__":
    if sys.argv[1:] == ["write"]:
        write()
        write_halves()
    elif len(sys.argv) == 3 and sys.argv[1] == "check":
        check(sys.argv[2])
    else:
        sys.exit(__doc__)
