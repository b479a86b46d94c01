"""The protocol's side of the Python peers: options, starting values, and the loop over stdin."""

import argparse
import json
import os
import sys
import time


def options(variants):
    parser = argparse.ArgumentParser()
    parser.add_argument("--rule", required=True)
    parser.add_argument("--lengths", required=True, metavar="FILE")
    parser.add_argument("--variant", default=variants[0], choices=variants)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    with open(args.lengths) as file:
        args.lengths = [int(line) for line in file if line.strip()]
    # Before the framework is imported, which reads it once.
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    return args


def no_rule(what):
    print(what, file=sys.stderr)
    sys.exit(3)


def cpu(threads):
    return f"CPU, {threads} thread{'' if threads == 1 else 's'}"


def start(tensor, length):
    """Parameter and gradient of one tensor, computed in f64 and rounded once; both repeat themselves."""
    import numpy

    p = 0.01 * ((numpy.arange(97) + 31 * tensor) % 97 - 48.0)
    g = 0.001 * ((numpy.arange(89) + 17 * tensor) % 89 - 44.5)
    return numpy.resize(p.astype(numpy.float32), length), numpy.resize(g.astype(numpy.float32), length)


def serve(args, name, version, device, step, synchronize, read):
    """`step()` takes one step, `read(t, i)` is element i of tensor t."""
    if args.check:
        for _ in range(3):
            step()
        values = [[float(read(t, i)) for i in (0, n // 2, n - 1)] for t, n in enumerate(args.lengths)]
        print(json.dumps(values))
        return
    for _ in range(2):
        step()
    synchronize()
    print(json.dumps({"name": name, "version": version, "device": device}), flush=True)
    for line in sys.stdin:
        steps = int(line)
        synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        synchronize()
        print(f"{time.perf_counter() - began:.9f}", flush=True)
