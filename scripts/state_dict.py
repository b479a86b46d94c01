"""Carries the state of a PyTorch optimizer to wgpu-optim and back, through a safetensors file.

    from state_dict import load, save

    save(optimizer, "run.safetensors")      # then Checkpoint::open("run.safetensors"), and load
    load(optimizer, "run.safetensors")      # written by save_pytorch, for an optimizer with the same parameters

    python state_dict.py run.pt run.safetensors     # a file of torch.save(optimizer.state_dict(), "run.pt")

The file holds the tensors `state.ID.SLOT`, F32 or of 16 bits as PyTorch has them, and `state.ID.step`, F32, and in its
metadata `param_groups` as JSON and `optimizer`, the name of the class. IDs count the parameters of all groups in order, as
in `state_dict()`.
"""

import json
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save(optimizer, path):
    """Writes the state of an optimizer."""
    save_dict(optimizer.state_dict(), path, type(optimizer).__name__)


def save_dict(state_dict, path, name=None):
    """Writes a `state_dict()`; without the name of the class, its settings tell which it is."""
    tensors = {}
    for id, slots in state_dict["state"].items():
        for slot, value in slots.items():
            # A step count may be a number, and on a device. What is of 16 bits stays so.
            halves = slot != "step" and value.dtype in (torch.bfloat16, torch.float16)
            value = torch.as_tensor(value, dtype=value.dtype if halves else torch.float32).detach().cpu()
            tensors[f"state.{id}.{slot}"] = value.contiguous().clone()
    metadata = {"format": "pt", "param_groups": json.dumps([plain(group) for group in state_dict["param_groups"]])}
    save_file(tensors, path, metadata | ({"optimizer": name} if name else {}))


def plain(group):
    """A group as JSON has it: an lr that is a tensor becomes its number."""
    return {key: value.item() if torch.is_tensor(value) else value for key, value in group.items()}


def load(optimizer, path):
    """Gives an optimizer the state, and the settings, in a file."""
    with safe_open(path, "pt") as file:
        name = (file.metadata() or {}).get("optimizer")
    if name not in (None, type(optimizer).__name__):
        raise ValueError(f"{path} is of {name}, the optimizer is {type(optimizer).__name__}")
    state_dict = load_dict(path)
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for id, slots in state_dict["state"].items():
        for slot, value in slots.items():
            # The file may know no shapes, only lengths.
            slots[slot] = value if slot == "step" else value.view_as(params[id])
    optimizer.load_state_dict(state_dict)


def load_dict(path):
    """The `state_dict()` in a file."""
    state = {}
    with safe_open(path, "pt") as file:
        groups = json.loads(file.metadata()["param_groups"])
        for key in file.keys():
            _, id, slot = key.split(".")
            state.setdefault(int(id), {})[slot] = file.get_tensor(key)
    for group in groups:
        if "betas" in group:
            group["betas"] = tuple(group["betas"])
    return {"state": state, "param_groups": groups}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    save_dict(torch.load(sys.argv[1], weights_only=True), sys.argv[2])
