"""Regenerates the reference trajectories of this folder with the real frameworks.

    python generate.py --check                   rerun every case and compare with the files here
    python generate.py --check --only REGEX      the same for the cases whose name matches
    python generate.py --out DIR                 write the files into DIR, from the inputs stored here
    python generate.py --out DIR --fresh SEED    write them from newly drawn inputs

`--check` prints a table and exits with 1 when anything disagrees. README.md describes the files and
the tolerance; requirements.txt lists the packages.
"""

import argparse
import json
import re
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import frameworks
from cases import CASES, EQUATIONS, PACKAGES
from inputs import CLASSES, PROFILES, draw, from_tensors

HERE = Path(__file__).resolve().parent
SCHEMA = "wgpu-optim-golden/1"

# Fields that must come out the same; the others are measurements or wording.
COMPARED_FIELDS = [
    "schema", "case", "framework", "framework_versions", "optimizer", "constructor_kwargs",
    "all_hyperparameters", "canonical", "features", "families", "shapes", "steps",
    "gradient_profile", "gradient_classes", "input_dtype",
]
STATE_LIMIT = {"f32": 1e-5, "f64": 1e-12}


# --- making a file -------------------------------------------------------------------------------


def build(case, inputs):
    """Runs the case in each of its families and returns (tensors, metadata)."""
    tensors, reported = inputs.tensors(), None
    for family in case.families:
        result, hyperparameters = frameworks.run(case, inputs, family.replace("f", "float"))
        # The settings are reported from the float32 run, as the frameworks ship.
        reported = reported or hyperparameters
        for key, array in result.items():
            add(tensors, family, key, np.asarray(array, order="C"))
    return tensors, metadata(case, tensors, reported)


def add(tensors, family, key, array):
    """Stores an array under its family; what the scaler did is stored once, and must be the same in each."""
    kind, rest = key.split("/", 1)
    if kind != "scaler":
        tensors[f"{kind}_{family}/{rest}"] = array
    elif not np.array_equal(tensors.setdefault(key, array), array):
        raise ValueError(f"{key} is {array} in {family}, and {tensors[key]} in the family before")


def metadata(case, tensors, hyperparameters):
    """The description stored in the header of the file."""
    return {
        "schema": SCHEMA,
        "case": case.name,
        "framework": case.framework,
        "framework_versions": {name: version(name) for name in PACKAGES[case.framework]},
        "optimizer": case.optimizer,
        "constructor_kwargs": case.kwargs,
        "all_hyperparameters": hyperparameters,
        "canonical": case.canonical,
        "equation": EQUATIONS[case.key],
        "features": case.features,
        "shapes": case.shapes,
        "steps": case.steps,
        "families": case.families,
        "input_dtype": "float32",
        "compute_dtype": {f: f"{f.replace('f', 'float')} by the framework" for f in case.families},
        "gradient_profile": case.profile,
        "gradient_classes": {str(CLASSES.index(name)): name for name in PROFILES[case.profile]},
        "f32_vs_f64_params": family_distance(case, tensors),
        "f32_vs_f64_state_max_rel": state_distance(case, tensors),
    }


def family_distance(case, tensors):
    """How far the float32 run strays from the float64 run, or None without the latter."""
    if "f64" not in case.families:
        return None
    found = {"max_abs": 0.0, "last_step_max_abs": 0.0, "max_rel": 0.0, "max_ulp": 0.0}
    for name in case.shapes:
        for key, value in tensor_distance(tensors, name).items():
            found[key] = max(found[key], float(value))
    return found


def tensor_distance(tensors, name):
    """The same for one parameter; values below 1e-3 are left out of the relative distance."""
    exact = tensors[f"param_f64/{name}"]
    error = np.abs(tensors[f"param_f32/{name}"] - exact)
    size, _ = size_and_path(tensors[f"param0/{name}"], exact)
    relative = error / np.where(np.abs(exact) < 1e-3, np.inf, np.abs(exact))
    return {
        "max_abs": error.max(),
        "last_step_max_abs": error[-1].max(),
        "max_rel": relative.max(),
        "max_ulp": (error / ulp32(size)).max(),
    }


def state_distance(case, tensors):
    """The largest relative difference of each state slot, leaving out what float32 holds as subnormal."""
    if "f64" not in case.families:
        return None
    found = {}
    for key in tensors:
        if key.startswith("state_f64/"):
            exact, single = tensors[key], tensors[key.replace("_f64", "_f32")].astype(np.float64)
            size = np.where(np.abs(exact) < 1e-37, np.inf, np.abs(exact))
            slot = key.split("/")[1]
            found[slot] = max(found.get(slot, 0.0), float((np.abs(single - exact) / size).max()))
    return found


# --- comparing with the stored file --------------------------------------------------------------


def size_and_path(start, trajectory):
    """s_t and D_t of the tolerance rule: the largest magnitude and the distance covered so far."""
    points = np.concatenate([start[None].astype(np.float64), trajectory.astype(np.float64)])
    size = np.maximum.accumulate(np.abs(points))[1:]
    return np.maximum(size, 1e-6), np.cumsum(np.abs(np.diff(points, axis=0)), axis=0)


def ulp32(values):
    """The spacing of float32 numbers around the values."""
    return np.spacing(values.astype(np.float32)).astype(np.float64)


def worst_ratio(actual, expected, limit):
    """The largest error in units of its limit; infinite when NaN or inf sit in other places."""
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
        return np.inf
    error, limit = np.abs(actual - expected)[finite], np.broadcast_to(limit, finite.shape)[finite]
    # An error of zero passes even where the limit is zero.
    ratio = np.where(error == 0, 0.0, error / np.where(limit == 0, np.finfo(float).tiny, limit))
    return float(np.nan_to_num(ratio, nan=np.inf).max(initial=0.0))


def check_param_f64(made, stored, name):
    """Float64 runs may differ by rounding only."""
    expected = stored[f"param_f64/{name}"]
    size, path = size_and_path(stored[f"param0/{name}"], expected)
    return worst_ratio(made[f"param_f64/{name}"], expected, 1e-12 * (size + path))


def check_param_f32(case, made, stored, name):
    """Float32 runs are held to the rule of README.md, against the float64 run where there is one."""
    expected = stored.get(f"param_f64/{name}", stored[f"param_f32/{name}"])
    size, path = size_and_path(stored[f"param0/{name}"], expected)
    step = np.arange(1, case.steps + 1).reshape([-1] + [1] * (expected.ndim - 1))
    r = 1e-5 if case.float32_bias_correction else 2e-6
    limit = 1e-5 * case.canonical["lr"] + 2 * step * ulp32(size) + r * path
    return worst_ratio(made[f"param_f32/{name}"], expected, limit)


def check_states(made, stored, family):
    """Final states, step counts and recorded settings, relative to the largest value of the array."""
    worst = 0.0
    for key, expected in stored.items():
        if key.startswith((f"state_{family}/", f"extra_{family}/")):
            largest = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
            worst = max(worst, worst_ratio(made[key], expected, STATE_LIMIT[family] * float(largest)))
    return worst


def differing_traces(made, stored):
    """What the scaler did, which has no roundings."""
    traces = [key for key in stored if key.startswith("scaler/")]
    return [key for key in traces if not np.array_equal(made[key], stored[key])]


def layout(tensors):
    """Names, types and shapes."""
    return {key: (array.dtype, array.shape) for key, array in tensors.items()}


def without_names(value):
    """Drops the running number that Keras appends to the names of its optimizers."""
    return {k: v for k, v in value.items() if k != "name"} if isinstance(value, dict) else value


def differing_fields(made, stored):
    """The metadata fields that disagree; JSON first, since it has no tuples."""
    made = json.loads(json.dumps(made))
    return [f for f in COMPARED_FIELDS if without_names(made[f]) != without_names(stored[f])]


def same_bits(made, stored):
    """How many of the computed arrays came out identical, and how many there are."""
    computed = [k for k in stored if k.startswith(("param_f", "state_", "extra_", "scaler/"))]
    return sum(made[k].tobytes() == stored[k].tobytes() for k in computed), len(computed)


def compare(case, made, made_metadata, path):
    """Returns one row of the table."""
    stored = load_file(path)
    if layout(made) != layout(stored):
        return {"name": case.name, "problem": "other tensors, types or shapes"}
    ratios = {"param f32": max(check_param_f32(case, made, stored, n) for n in case.shapes)}
    for family in case.families:
        ratios[f"state {family}"] = check_states(made, stored, family)
    if "f64" in case.families:
        ratios["param f64"] = max(check_param_f64(made, stored, n) for n in case.shapes)
    fields = differing_fields(made_metadata, read_metadata(path))
    problems = [key for key, ratio in ratios.items() if not ratio <= 1.0]
    problems += differing_traces(made, stored) + fields
    same, total = same_bits(made, stored)
    return {"name": case.name, "ratios": ratios, "same": f"{same}/{total}", "problem": ", ".join(problems)}


def read_metadata(path):
    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["golden"])


COLUMNS = ["param f64", "param f32", "state f64", "state f32"]


def print_table(rows):
    """Prints error / limit per case; anything above 1 has failed."""
    print(f"{'case':38}" + "".join(f"{c:>11}" for c in COLUMNS) + f"{'identical':>12}  result")
    for row in rows:
        ratios = row.get("ratios", {})
        cells = [f"{ratios[c]:.2e}" if c in ratios else "-" for c in COLUMNS]
        result = f"FAILED: {row['problem']}" if row["problem"] else "ok"
        print(f"{row['name']:38}" + "".join(f"{c:>11}" for c in cells) + f"{row.get('same', '-'):>12}  {result}")
    passed = sum(not row["problem"] for row in rows)
    print(f"{passed} of {len(rows)} cases agree (columns: largest error in units of its limit)")


# --- command line --------------------------------------------------------------------------------


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="REGEX", default="", help="take only the cases whose name matches")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write the files into this folder")
    parser.add_argument("--check", action="store_true", help="compare with the files beside this script")
    parser.add_argument("--fresh", metavar="SEED", type=int, help="draw new inputs")
    arguments = parser.parse_args()
    if arguments.check and arguments.fresh is not None:
        parser.error("--check needs the stored inputs, so it does not go with --fresh")
    if not arguments.check and not arguments.out:
        parser.error("give --check or --out")
    return arguments


def selected(pattern):
    """The matching cases, torch first: its libraries refuse to load once TensorFlow's are in."""
    chosen = [case for case in CASES if re.search(pattern, case.name)]
    return sorted(chosen, key=lambda case: case.framework != "torch")


def case_inputs(case, seed):
    """New inputs for a seed, otherwise those of the stored file."""
    if seed is not None:
        return draw(case, seed)
    return from_tensors(load_file(HERE / f"{case.name}.safetensors"))


def write(folder, case, tensors, description):
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(description, sort_keys=True)
    save_file(tensors, folder / f"{case.name}.safetensors", metadata={"golden": text})


def main():
    arguments, rows = parse_arguments(), []
    for case in selected(arguments.only):
        tensors, description = build(case, case_inputs(case, arguments.fresh))
        if arguments.out:
            write(arguments.out, case, tensors, description)
        if arguments.check:
            rows.append(compare(case, tensors, description, HERE / f"{case.name}.safetensors"))
    if arguments.check:
        print_table(rows)
    return 1 if any(row["problem"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
