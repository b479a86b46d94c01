#!/usr/bin/env python3
"""Times an optimizer's step in several frameworks, in turn, and writes a CSV. README.md tells the protocol."""

import argparse
import csv
import json
import os
import platform
import re
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
COLUMNS = "what,path,device,rule,workload,tensors,elements,bytes,clock,samples,median_s,mad_s,share,note".split(",")
RULES = {"adam": 28, "rmsprop": 20}  # bytes that a fused step moves for each element
ARRAYS = {"adam": 4, "rmsprop": 3}  # f32 arrays that a peer keeps
BASELINE = "baseline-c"

# A peer that waits is stopped by a signal, because idle threads may spin or poll. After it goes on, a pause lets its
# threads come to rest before it is timed.
PAUSE_S = 0.02

CHECK_LENGTHS = [1, 49, 89, 4099, 300007]
CHECK_STEPS = 3
CHECK_TOLERANCE = 1e-5  # of the update


class Failure(Exception):
    """A peer that does not go on, and why."""


class NoRule(Failure):
    pass


class Spec:
    """One peer: its name, the command that starts it, and what it takes of the memory."""

    def __init__(self, name, argv, variant="", factor=2.0, base_gib=0.1, ours=None, missing=None):
        self.name, self.argv, self.variant = name, argv, variant
        self.factor, self.base_gib = factor, base_gib  # times the arrays that it must keep; besides them
        self.ours = ours  # "cpu" or "gpu" for wgpu-optim itself
        self.missing = missing

    def command(self, rule, lengths, workload, args):
        if self.ours:
            command = self.argv + ["--rule", rule, "--workload", workload["name"], "--path", self.ours]
            return command + (["--adapter", args.adapter] if args.adapter and self.ours == "gpu" else [])
        command = self.argv + ["--rule", rule, "--lengths", lengths, "--threads", str(args.threads)]
        return command + (["--variant", self.variant] if self.variant else [])

    def gib(self, rule, elements):
        return self.base_gib + self.factor * ARRAYS[rule] * 4 * elements / 2**30


def specs(args):
    python = lambda script, *rest: [args.python, os.path.join(HERE, script), *rest]
    cargo = lambda name: os.path.join(
        os.environ.get("CARGO_TARGET_DIR", os.path.join(HERE, name, "target")), "release", f"peer-{name}"
    )
    known = [Spec(BASELINE, [os.path.join(HERE, "baseline")], factor=1)]
    for variant, factor in [("fused", 1), ("foreach", 2), ("for-loop", 2), ("compile", 1)]:
        known.append(Spec(f"pytorch-{variant}", python("pytorch.py"), variant, factor, base_gib=0.7))
    if args.cuda:
        for variant in ["fused", "foreach", "for-loop", "compile"]:
            command = python("pytorch.py", "--device", "cuda")
            known.append(Spec(f"pytorch-{variant}@cuda", command, variant, factor=0, base_gib=2))
    known.append(Spec("optax", python("optax_peer.py"), factor=1.5, base_gib=0.5))
    for name, variants, factor in [("burn", ["flex", "ndarray", "wgpu"], 2), ("candle", [""], 4.5)]:
        missing = None if os.path.exists(cargo(name)) else "it is not built (--build)"
        for variant in variants:
            full = f"{name}-{variant}" if variant else name
            known.append(Spec(full, [cargo(name)], variant, factor, base_gib=0.3, missing=missing))
    for path in ["cpu", "gpu"]:
        missing = None if args.binary else "no --binary"
        command = [args.binary, "bench", "--in-turn"]
        known.append(Spec(f"wgpu-optim-{path}", command, factor=1.2, base_gib=0.3, ours=path, missing=missing))
    return known


class Peer:
    """A running peer."""

    def __init__(self, spec, command, args):
        self.spec, self.args = spec, args
        self.per_sample = 1
        self.seconds = []  # one for each turn, of one step
        self.own_cpu = self.own_wall = 0.0
        self.rest = b""
        self.errors = tempfile.TemporaryFile()
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=environment(args)
            )
        except OSError as error:
            raise Failure(error.strerror) from None
        try:
            hello = json.loads(self.line(args.start_timeout))
            self.version, self.device = str(hello["version"]), str(hello["device"])
        except (ValueError, KeyError, TypeError):
            self.stop()
            raise Failure("its first line is not what the protocol asks for") from None
        except Failure:
            self.stop()
            raise
        self.cpu_before = self.cpu()
        self.cpu_end, self.peak_gib = self.cpu_before, 0.0

    def line(self, timeout):
        end = time.monotonic() + timeout
        out = self.process.stdout.fileno()
        while b"\n" not in self.rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                raise Failure(f"it said nothing for {timeout:.0f} s")
            data = os.read(out, 4096)
            if not data:
                code = self.process.wait()
                raise (NoRule if code == 3 else Failure)(why(code, self.errors))
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode()

    def sample(self, steps):
        """Seconds that this many steps took."""
        try:
            os.write(self.process.stdin.fileno(), b"%d\n" % steps)
        except OSError:
            pass  # it is gone: reading tells why
        line = self.line(self.args.sample_timeout)
        try:
            seconds = float(line)
        except ValueError:
            raise Failure("it answered with no number") from None
        if not 0 < seconds < float("inf"):
            raise Failure(f"it answered {seconds} s")
        return seconds

    def calibrate(self):
        """Chooses how many steps make a sample of the wanted length."""
        target = self.args.seconds_per_sample
        best = float("inf")
        for _ in range(8):
            best = min(best, self.sample(self.per_sample) / self.per_sample)
            wanted = max(1, round(target / best))
            if wanted <= 1.5 * self.per_sample:
                break
            # Not at once to the end: the first steps may be slow or disturbed, and a clock coarse.
            self.per_sample = min(wanted, 20 * self.per_sample)
        self.per_sample = wanted

    def turn(self):
        cpu, began = self.cpu(), time.monotonic()
        self.process.send_signal(signal.SIGCONT)
        time.sleep(PAUSE_S)
        self.seconds.append(self.sample(self.per_sample) / self.per_sample)
        self.process.send_signal(signal.SIGSTOP)
        self.own_cpu += self.cpu() - cpu
        self.own_wall += time.monotonic() - began

    def cpu(self):
        """CPU seconds that its threads have used; 0 where there is no /proc."""
        try:
            with open(f"/proc/{self.process.pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return 0.0

    def note_use(self):
        self.cpu_end = self.cpu()
        peak = re.search(r"VmHWM:\s+(\d+) kB", read(f"/proc/{self.process.pid}/status"))
        self.peak_gib = int(peak[1]) / 2**20 if peak else 0.0

    def stop(self):
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def why(code, errors):
    errors.seek(0)
    lines = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    if not lines:
        return ended
    return without_paths(lines[-1] if code == 3 else f"{ended}: {lines[-1]}")


def without_paths(text):
    return re.sub(r"(/[^\s/:'\"]+)+/", "", text)


def environment(args):
    env = dict(os.environ)
    for name in ["OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS"]:
        env[name] = str(args.threads)
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    return env


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def build(args):
    """The baseline always, which takes a second; the Rust peers when asked to."""
    source, binary = os.path.join(HERE, "baseline.c"), os.path.join(HERE, "baseline")
    flags = ["-O3", "-march=native", "-fopenmp", "-fno-math-errno"]
    subprocess.run(["gcc", *flags, source, "-o", binary, "-lm"], check=True)
    if args.build:
        for name in ["candle", "burn"]:
            print(f"building {name}", flush=True)
            subprocess.run(["cargo", "build", "--release", "--locked"], cwd=os.path.join(HERE, name), check=True)


def workloads(args):
    if args.workloads_json:
        with open(args.workloads_json) as file:
            known = json.load(file)
    elif args.binary:
        listed = subprocess.run([args.binary, "bench", "--list", "--json"], check=True, stdout=subprocess.PIPE)
        known = json.loads(listed.stdout)
    else:
        sys.exit("error: --binary or --workloads-json tells the workloads, and neither is given")
    by_name = {workload["name"]: workload for workload in known}
    if not args.workloads:
        return known
    unknown = [name for name in args.workloads if name not in by_name]
    if unknown:
        sys.exit(f"error: no workload {', '.join(unknown)}; there are {', '.join(by_name)}")
    return [by_name[name] for name in args.workloads]


def lengths_file(lengths, folder):
    path = os.path.join(folder, "lengths")
    with open(path, "w") as file:
        file.writelines(f"{length}\n" for length in lengths)
    return path


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def expected(rule, tensor, i):
    """An element before the steps and after, in f64."""
    p = start = f32(0.01 * ((i + 31 * tensor) % 97 - 48))
    g = f32(0.001 * ((i + 17 * tensor) % 89 - 44.5))
    m = v = 0.0
    for t in range(1, CHECK_STEPS + 1):
        if rule == "adam":
            m += (g - m) * (1 - 0.9)
            v += (g * g - v) * (1 - 0.999)
            p -= 1e-3 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
        else:
            v += (g * g - v) * (1 - 0.99)
            p -= 1e-2 * g / (v**0.5 + 1e-8)
    return start, p


def check(spec, rule, folder, args):
    """The largest error of the peer's update, as a share of the tolerance."""
    path = lengths_file(CHECK_LENGTHS, folder)
    with tempfile.TemporaryFile() as errors:
        try:
            done = subprocess.run(
                spec.command(rule, path, None, args) + ["--check"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                timeout=args.start_timeout,
                env=environment(args),
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"its check took longer than {args.start_timeout:.0f} s") from None
        except OSError as error:
            raise Failure(error.strerror) from None
        if done.returncode:
            raise (NoRule if done.returncode == 3 else Failure)(why(done.returncode, errors))
    try:
        values = json.loads(done.stdout.decode().strip().splitlines()[-1])
        got = [[float(x) for x in row] for row in values]
        if [len(row) for row in got] != [3] * len(CHECK_LENGTHS):
            raise ValueError
    except (ValueError, IndexError, TypeError):
        raise Failure("its check printed something else than three values for each tensor") from None
    worst = 0.0
    for tensor, n in enumerate(CHECK_LENGTHS):
        for i, x in zip((0, n // 2, n - 1), got[tensor]):
            start, end = expected(rule, tensor, i)
            # Each step rounds the parameter to f32, by half a unit in the last place.
            rounding = CHECK_STEPS * 2**-24 * max(abs(start), abs(end)) * 2
            error = abs(x - end) / (CHECK_TOLERANCE * abs(end - start) + rounding)
            worst = max(worst, error if error == error else float("inf"))
    return worst


def available_gib():
    found = re.search(r"MemAvailable:\s+(\d+) kB", read("/proc/meminfo"))
    return int(found[1]) / 2**20 if found else 8.0


def grouped(members, rule, elements, max_gib, notes, where):
    """Groups that fit the memory together, each with the baseline."""
    baseline, others = members[0], members[1:]
    groups, used = [[baseline]], baseline.gib(rule, elements)
    for spec in others:
        need = spec.gib(rule, elements)
        if baseline.gib(rule, elements) + need > max_gib:
            notes.append(f"{where}: {spec.name} left out: it would take some {need:.1f} GiB")
            continue
        if used + need > max_gib:
            groups.append([baseline])
            used = baseline.gib(rule, elements)
        groups[-1].append(spec)
        used += need
    return [group for group in groups if len(group) > 1] or groups[:1]


def run_group(group, rule, workload, path, args, notes, where, uses):
    """Starts the peers, takes their samples in turn, and gives back those that went through."""
    peers = []

    def leave(name, error):
        notes.append(f"{where}: {name} left out: {error}")
        print(f"  {notes[-1]}", flush=True)

    try:
        for spec in group:
            began = time.monotonic()
            peer = None
            try:
                peer = Peer(spec, spec.command(rule, path, workload, args), args)
                peer.calibrate()
                peer.process.send_signal(signal.SIGSTOP)
            except Failure as error:
                leave(spec.name, error)
                if peer:
                    peer.stop()
                continue
            peers.append(peer)
            started = time.monotonic() - began
            print(f"  {spec.name}: ready after {started:.0f} s, {peer.per_sample} steps a sample", flush=True)
        for peer in peers:
            peer.cpu_before = peer.cpu()
        began = time.monotonic()
        for turn in range(args.turns):
            first = turn % max(1, len(peers))
            for peer in peers[first:] + peers[:first]:
                try:
                    peer.turn()
                except Failure as error:
                    leave(peer.spec.name, error)
                    peer.stop()
                    peers = [other for other in peers if other is not peer]
        wall = time.monotonic() - began
        for peer in peers:
            peer.note_use()
            idle = max(0.0, peer.cpu_end - peer.cpu_before - peer.own_cpu) / max(1e-9, wall - peer.own_wall)
            busy = peer.own_cpu / max(1e-9, peer.own_wall)
            uses.append((where, peer.spec.name, busy, idle, peer.peak_gib))
            if idle > 0.05:
                notes.append(f"{where}: {peer.spec.name} used {idle:.2f} CPUs while others were timed")
        return [peer for peer in peers if len(peer.seconds) == args.turns]
    finally:
        for peer in peers:
            peer.stop()


def rows_of(groups, rule, workload):
    """Rows, the baseline's samples of all groups in one."""
    elements = sum(tensor["len"] for tensor in workload["tensors"])
    rows, baselines = [], []
    for peers in groups:
        baseline = next((peer for peer in peers if peer.spec.name == BASELINE), None)
        if baseline is None:
            continue
        baselines.append(baseline)
        for peer in peers:
            if peer is not baseline:
                shares = [ours / theirs for ours, theirs in zip(baseline.seconds, peer.seconds)]
                rows.append((peer, peer.seconds, statistics.median(shares)))
    if baselines:
        rows.insert(0, (baselines[0], [s for baseline in baselines for s in baseline.seconds], 1.0))
    for peer, seconds, share in rows:
        median = statistics.median(seconds)
        yield peer.spec.name, {
            "what": "step",
            "path": peer.spec.name.partition("@")[0],
            "device": peer.device,
            "rule": rule,
            "workload": workload["name"],
            "tensors": len(workload["tensors"]),
            "elements": elements,
            "bytes": RULES[rule] * elements,
            "clock": "wall",
            "samples": len(seconds),
            "median_s": f"{median:.6g}",
            "mad_s": f"{statistics.median(abs(s - median) for s in seconds):.3g}",
            "share": f"{share:.4f}",
            "note": "; ".join(filter(None, [peer.version, peer.spec.variant])),
        }


def machine(args, versions, notes, uses):
    """The machine in words, without its name."""
    info = read("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info)
    caches = []
    for index in range(8):
        folder = f"/sys/devices/system/cpu/cpu0/cache/index{index}/"
        if read(folder + "type").strip() in ("Data", "Unified"):
            caches.append(f"L{read(folder + 'level').strip()} {read(folder + 'size').strip()}")
    memory = re.search(r"MemTotal:\s+(\d+) kB", read("/proc/meminfo"))
    huge = re.search(r"\[(\w+)\]", read("/sys/kernel/mm/transparent_hugepage/enabled"))
    tool = lambda *command: first_line(command)
    yield f"date             {time.strftime('%Y-%m-%d', time.gmtime())}"
    yield f"cpu              {model[1] if model else platform.processor() or platform.machine()}"
    yield f"cores            {os.cpu_count()}"
    if caches:
        yield f"caches of core 0 {', '.join(caches)}"
    if memory:
        yield f"memory           {int(memory[1]) / 2**20:.1f} GiB"
    yield f"kernel           {platform.system()} {platform.release()}"
    yield f"huge pages       {huge[1] if huge else 'unknown'}"
    if hasattr(os, "getloadavg"):
        yield f"load             {os.getloadavg()[0]:.2f} at the end, over a minute"
    yield f"gcc              {tool('gcc', '--version')}"
    yield f"rustc            {tool('rustc', '--version')}"
    yield f"python           {tool(args.python, '--version')}"
    yield f"threads          {args.threads}"
    yield f"turns            {args.turns}, samples of {args.seconds_per_sample} s"
    for name, (version, device) in versions.items():
        yield f"peer             {name}: {version}; {device}"
    for note in notes:
        yield f"note             {note}"
    yield ""
    yield "CPUs that a peer kept busy in its own turn and in the others', and its peak memory:"
    for where, name, busy, idle, peak in uses:
        yield f"{where:<28} {name:<24} {busy:5.2f} {idle:6.3f} {peak:6.2f} GiB"


def first_line(command):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        return done.stdout.decode().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "not there"


def table(shares, columns):
    """Speed as a share of the baseline's, by peer, workload and rule."""
    head = [f"{workload}/{rule}" for workload, rule in columns]
    width = max([len(name) for name in shares] + [4])
    print("\nspeed, baseline-c = 1")
    print(" " * width, *(f"{name:>16}" for name in head))
    for name, row in shares.items():
        cells = (f"{float(row[column]):.3f}" if column in row else "-" for column in columns)
        print(f"{name:<{width}}", *(f"{cell:>16}" for cell in cells))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    listed = lambda text: [part for part in text.split(",") if part]
    add = parser.add_argument
    add("--out", required=True, metavar="FILE.csv", help="what was measured; the machine goes to FILE.txt")
    add("--rules", type=listed, default=list(RULES), metavar="LIST", help="adam,rmsprop")
    add("--workloads", type=listed, default=[], metavar="LIST", help="their names; all when not given")
    add("--workloads-json", metavar="FILE", help="workloads from a file, as `wgpu-optim bench --list --json` prints")
    add("--peers", type=listed, default=["all"], metavar="LIST", help="their names, or all")
    add("--turns", type=int, default=15)
    add("--seconds-per-sample", type=float, default=0.3, metavar="S")
    add("--threads", type=int, default=2)
    add("--binary", metavar="PATH", help="wgpu-optim")
    add("--adapter", metavar="NAME", help="for wgpu-optim's GPU path")
    add("--python", default=sys.executable, metavar="PATH", help="one that has requirements.txt installed")
    add("--cuda", action="store_true", help="PyTorch on CUDA as well, as pytorch-fused@cuda and so on")
    add("--max-gib", type=float, metavar="N", help="memory for the peers of a group; 0.7 of what is free")
    add("--build", action="store_true", help="build the Rust peers first")
    add("--start-timeout", type=float, default=900, metavar="S")
    add("--sample-timeout", type=float, default=300, metavar="S")
    args = parser.parse_args()
    unknown = [rule for rule in args.rules if rule not in RULES]
    if unknown:
        parser.error(f"no rule {', '.join(unknown)}")
    if args.turns < 1 or args.threads < 1 or args.seconds_per_sample <= 0:
        parser.error("turns, threads and seconds are to be positive")
    if not args.out.endswith(".csv"):
        parser.error("--out is to end in .csv")
    if args.binary:
        args.binary = os.path.abspath(args.binary)
    return args


def main():
    args = arguments()
    # So that the peers are let go as well, which may be stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    build(args)
    if hasattr(os, "sched_setaffinity"):
        # The peers inherit this bound. Some of their thread pools have no other.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    chosen = specs(args)
    names = [spec.name for spec in chosen]
    if "all" not in args.peers:
        unknown = [name for name in args.peers if name not in names]
        if unknown:
            sys.exit(f"error: no peer {', '.join(unknown)}; there are {', '.join(names)}")
        chosen = [spec for spec in chosen if spec.name in args.peers or spec.name == BASELINE]
    todo = workloads(args)
    notes, uses, versions, shares, columns = [], [], {}, {}, []
    disagreed = False
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5:
        notes.append(f"the load was {os.getloadavg()[0]:.1f} at the start: others were at work, and shares are rough")

    with tempfile.TemporaryDirectory() as folder:
        agreed = {}
        for rule in args.rules:
            print(f"checking {rule}", flush=True)
            agreed[rule] = []
            for spec in chosen:
                try:
                    if spec.missing:
                        raise Failure(spec.missing)
                    # Our own paths check themselves before they start.
                    worst = 0.0 if spec.ours else check(spec, rule, folder, args)
                except Failure as error:
                    notes.append(f"{rule}: {spec.name} left out: {error}")
                    print(f"  {notes[-1]}", flush=True)
                    continue
                if worst > 1:
                    disagreed = True
                    notes.append(f"{rule}: {spec.name} left out: its step differs, by {worst:.3g} of the tolerance")
                    print(f"  {notes[-1]}", flush=True)
                    continue
                found = "checks itself" if spec.ours else f"{worst:.2f} of the tolerance"
                print(f"  {spec.name}: {found}", flush=True)
                agreed[rule].append(spec)
            if not agreed[rule] or agreed[rule][0].name != BASELINE:
                sys.exit("error: baseline-c does not run, and there is nothing to compare with")

        with open(args.out, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            for workload in todo:
                lengths = [tensor["len"] for tensor in workload["tensors"]]
                path = lengths_file(lengths, folder)
                for rule in args.rules:
                    where = f"{workload['name']}/{rule}"
                    max_gib = args.max_gib or 0.7 * available_gib()
                    groups = grouped(agreed[rule], rule, sum(lengths), max_gib, notes, where)
                    done = []
                    for index, group in enumerate(groups):
                        print(f"{where}: group {index + 1} of {len(groups)}", flush=True)
                        done.append(run_group(group, rule, workload, path, args, notes, where, uses))
                    columns.append((workload["name"], rule))
                    for name, row in rows_of(done, rule, workload):
                        writer.writerow(row)
                        versions[name] = (row["note"], row["device"])
                        shares.setdefault(name, {})[columns[-1]] = row["share"]
                        print(f"  {name:<24} {float(row['median_s']) * 1e3:12.4f} ms  share {row['share']}", flush=True)
                    file.flush()

    with open(args.out[: -len(".csv")] + ".txt", "w") as file:
        file.writelines(f"{line}\n" for line in machine(args, versions, notes, uses))
    table(shares, columns)
    for note in notes:
        print(f"note: {note}")
    return 1 if disagreed or not shares else 0


if __name__ == "__main__":
    sys.exit(main())
