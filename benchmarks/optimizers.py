"""What an optimizer step costs over torch's fused AdamW, eager and compiled, each rule beside its nearest peer.

Usage: python benchmarks/optimizers.py [--blocks 60] [--no-compile] [--only muon] [--json]

One step on given gradients, of 5.07 M float32 parameters in the shapes of a small GPT (width 256, 6 layers): 26 matrices
and 50 vectors. Everything takes its turn in every block; a row is the ratio of its time to the reference's in the same
block, and its share of the bandwidth is bytes that the formula has to move (each tensor it reads or writes, once) in
its time, over those of a plain copy in the same block. Muon takes the matrices alone, its ratios are to torch.optim.Muon's
step; what they are depends on whether the CPU has instructions for bfloat16, so they are measured a second time with
these switched off (ONEDNN_MAX_CPU_ISA).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import regimes as rg

Step = Callable[[], Any]
WIDTH, LAYERS = 256, 6
VECTORS = [WIDTH] * 6 + [3 * WIDTH, 4 * WIDTH]  # two norms, biases of the four layers


def shapes() -> list[tuple[int, ...]]:
    """Embeddings, blocks and the last norm; the head is tied."""
    matrices = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
    block = [*matrices, *[(size,) for size in VECTORS]]
    return [(1024, WIDTH), (256, WIDTH), *(block * LAYERS), (WIDTH,), (WIDTH,)]


def given(matrices: bool = False) -> dict[str, nn.Parameter]:
    """Parameters with a gradient each; the same ones on every call."""
    draw = torch.Generator().manual_seed(0)
    wanted = [shape for shape in shapes() if len(shape) == 2] if matrices else shapes()
    found = {f"p{place}": nn.Parameter(torch.randn(shape, generator=draw)) for place, shape in enumerate(wanted)}
    for p in found.values():
        p.grad = 0.1 * torch.randn(p.shape, generator=draw)
    return found


class Gradients:
    """An evaluate that has been made: what a rule's step costs without the model."""

    def __init__(self, gradients: tuple[Tensor, ...], compiled: bool) -> None:
        self.gradients, self.compiled = gradients, compiled
        self.captured, self.mass = {"sampled_gradients": gradients}, 1.0

    def __call__(self, **asked: Any) -> Gradients:
        """Return itself."""
        return self

    def log(self, name: str, value: float) -> None:
        """Nobody keeps it."""


def ours(rule: Any, compiled: bool = False, matrices: bool = False) -> Step:
    """A step of a rule of ours, at a rate that changes with every one."""
    parameters = given(matrices)
    evaluate = Gradients(tuple(p.grad for p in parameters.values() if p.grad is not None), compiled)
    state, number = rule.init(parameters), 0

    def step() -> None:
        nonlocal state, number
        number += 1
        state = rule.with_values({"lr": rule.lr * (1 - number / 1e6)}).step(state, parameters, evaluate)

    return step


def torchs(make: Callable[[list[nn.Parameter]], Any], matrices: bool = False) -> Step:
    """A step of a torch optimizer."""
    step: Step = make(list(given(matrices).values())).step
    return step


def copied() -> Step:
    """A plain copy of all parameters, flat: the bandwidth of the machine."""
    count = sum(torch.Size(shape).numel() for shape in shapes())
    source, target = torch.randn(count), torch.empty(count)
    return lambda: target.copy_(source)


#: Our rules: the rule, and how often it has to touch each parameter's tensors (p, g, slots; read and written).
RULES: dict[str, tuple[Any, int]] = {
    "SGD": (rg.SGD(lr=1e-4, momentum=0.9), 5),
    "AdamW": (rg.AdamW(lr=1e-4), 7),
    "Lion": (rg.Lion(lr=1e-4), 5),
    "Lion, decay": (rg.Lion(lr=1e-4, weight_decay=0.1), 5),
    "SGDSaI": (rg.SGDSaI(lr=1e-4), 5),
    # Its part of every step: the curvature is read on the first alone.
    "Sophia": (rg.Sophia(lr=1e-4, update_every=10**9), 6),
    "ScheduleFreeSGD": (rg.ScheduleFreeSGD(lr=1e-3), 5),
    "ScheduleFreeAdamW": (rg.ScheduleFreeAdamW(lr=1e-4), 7),
    "ScheduleFreeAdamW, decay": (rg.ScheduleFreeAdamW(lr=1e-4, weight_decay=0.1), 7),
}


def peers() -> dict[str, Callable[[list[nn.Parameter]], Any]]:
    """Peers by name: torch's own, and pytorch_optimizer's where it is installed."""
    found: dict[str, Callable[[list[nn.Parameter]], Any]] = {
        "torch SGD": lambda ps: torch.optim.SGD(ps, lr=1e-4, momentum=0.9, fused=True),
        "torch AdamW, foreach": lambda ps: torch.optim.AdamW(ps, lr=1e-4, foreach=True),
    }
    if find_spec("pytorch_optimizer") is None:
        print("without peers of Lion, SGD-SaI and schedule-free: pytorch_optimizer is not installed", file=sys.stderr)
        return found
    import pytorch_optimizer as package

    return found | {
        "pytorch_optimizer Lion": lambda ps: package.Lion(ps, lr=1e-4, weight_decay=0.0),
        "pytorch_optimizer SGDSaI": lambda ps: package.SGDSaI(ps, lr=1e-4),
        "pytorch_optimizer ScheduleFreeSGD": lambda ps: package.ScheduleFreeSGD(ps, lr=1e-3),
        "pytorch_optimizer ScheduleFreeAdamW": lambda ps: package.ScheduleFreeAdamW(ps, lr=1e-4),
    }


def contenders(compiled: bool) -> Iterator[tuple[str, Step]]:
    """Everything that is measured against torch's fused AdamW, that one and a copy first."""
    yield "torch AdamW, fused", torchs(lambda ps: torch.optim.AdamW(ps, lr=1e-4, fused=True))
    yield "copy", copied()
    for name, (rule, _) in RULES.items():
        yield name, ours(rule)
        if compiled and rule.elementwise and not rule.one_pass:
            yield f"{name}, compiled", ours(rule, compiled=True)
    for name, make in peers().items():
        yield name, torchs(make)


def muons() -> Iterator[tuple[str, Step]]:
    """Muon of ours and of torch, on the matrices alone; torch's first."""
    yield "torch Muon", torchs(torch.optim.Muon, matrices=True)
    yield "Muon", ours(rg.Muon(), matrices=True)
    yield "Muon, bfloat16", ours(rg.Muon(iteration_dtype="bfloat16"), matrices=True)


def measure(steps: Mapping[str, Step], blocks: int, per_block: int) -> dict[str, np.ndarray]:
    """Return seconds per step, block by block, everything in turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for block in range(blocks):
        for name in list(steps) if block % 2 else list(reversed(steps)):
            began = time.perf_counter()
            for _ in range(per_block):
                steps[name]()
            times[name].append((time.perf_counter() - began) / per_block)
    return {name: np.array(found) for name, found in times.items()}


def started(found: Iterator[tuple[str, Step]]) -> tuple[dict[str, Step], dict[str, float]]:
    """Make the first steps; return what is to be measured, and the seconds that first steps took."""
    steps, seconds = {}, {}
    for name, step in found:
        began = time.perf_counter()
        step()
        steps[name], seconds[name] = step, time.perf_counter() - began
        step()
    return steps, seconds


def told(ratios: np.ndarray) -> list[float]:
    """Least, median and largest."""
    return [float(ratios.min()), float(np.median(ratios)), float(ratios.max())]


def rows(times: dict[str, np.ndarray], seconds: dict[str, float], base: str) -> dict[str, Any]:
    """By name: milliseconds, the ratio to the base, of a compiled one the seconds of its first step."""
    found = {}
    for name, own in times.items():
        found[name] = {"ms": float(np.median(own)) * 1e3, "ratio": told(own / times[base])}
        if name.endswith("compiled"):
            found[name]["first_step_s"] = seconds[name]
        touched = RULES.get(name.removesuffix(", compiled"), (None, 0))[1]
        if "copy" in times and touched:
            found[name]["share_of_copy"] = told((touched / own) / (2 / times["copy"]))
    return found


def muon(blocks: int) -> dict[str, Any]:
    """Rows of Muon, in this process."""
    steps, seconds = started(muons())
    return rows(measure(steps, max(3, blocks // 12), 1), seconds, "torch Muon")


def without_bfloat16(blocks: int) -> dict[str, Any]:
    """The same rows where oneDNN is told that the CPU has AVX-512 and nothing for bfloat16."""
    command = [sys.executable, __file__, "--only", "muon", "--blocks", str(blocks), "--json"]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return {f"{name}, no bfloat16 instructions": row for name, row in json.loads(done.stdout)["rows"].items()}


def main() -> None:
    """Print the table, and JSON with --json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--only", choices=["muon"])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.only is None:
        steps, seconds = started(contenders(not args.no_compile))
        found = rows(measure(steps, args.blocks, 2), seconds, "torch AdamW, fused")
        found |= muon(args.blocks) | without_bfloat16(args.blocks)
    else:
        found = muon(args.blocks)
    if args.json:
        print(json.dumps({"parameters": sum(torch.Size(shape).numel() for shape in shapes()), "rows": found}))
        return
    for name, row in found.items():
        low, middle, high = row["ratio"]
        more = f"   first step {row['first_step_s']:.1f} s" if "first_step_s" in row else ""
        share = f"   {row['share_of_copy'][1]:4.0%} of a copy's bandwidth" if "share_of_copy" in row else ""
        print(f"{name:46s} {row['ms']:9.2f} ms   {middle:6.3f}x [{low:.3f}, {high:.3f}]{share}{more}")


if __name__ == "__main__":
    main()
