"""What two rules promise of their cost: MeZO the memory of a forward, SAM the time of two steps.

Usage: python benchmarks/rules.py [--rounds 60]

Memory is the peak of live tensor bytes, from torch's own allocator events, beyond what lay there before (parameters and
data), less the step's batch; the process's size says nothing of so small models. Time is the ratio of two interleaved
runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import regimes as rg

SIZES = (256, 512, 1024)


def peak(work: Callable[[], Any]) -> int:
    """Return the most bytes of tensors that were alive at once in `work`, beyond those alive before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(np.max(np.cumsum([0, *changes])))


def task(width: int) -> tuple[rg.Workload, tuple[torch.Tensor, torch.Tensor]]:
    """A net whose middle layer holds most of its weights, and its data: one batch."""
    data = torch.randn(64, 64), torch.randint(0, 10, (64,))

    def net() -> nn.Module:
        layers = nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        return nn.Sequential(*layers)

    return rg.Workload(model=net, train=data, loss=nn.CrossEntropyLoss(), name=f"net of {width}"), data


def memory(width: int) -> dict[str, float]:
    """Return the peaks of a forward and of the rules' steps, as ratios to the forward."""
    work, (x, y) = task(width)
    batch = x.nbytes + y.nbytes
    model = work.build(0)
    sizes = [p.numel() for p in model.parameters()]

    def forward() -> None:
        with torch.no_grad():
            nn.functional.cross_entropy(model(x), y)

    found = {"weights": 4 * sum(sizes), "largest": max(sizes) / sum(sizes), "forward": peak(forward)}
    for name, rule in (("MeZO", rg.MeZO(lr=1e-3)), ("SGD", rg.SGD(lr=0.1))):
        run = rg.Run(work, rg.Regime(optimizer=rule, batch_size=64, budget="8 steps"), 0)
        for _ in range(3):
            run.step()
        found[name] = (peak(run.step) - batch) / found["forward"]
    return found


def sam(rounds: int) -> tuple[float, float, float]:
    """Return the time of a SAM step over one of its base: median of interleaved blocks, with a 95% bootstrap interval."""
    work = rg.workloads.load("char_lm")
    base = rg.Regime(optimizer=rg.AdamW(lr=1e-3), batch_size=16, budget=f"{2 * rounds + 20} steps")
    runs = [rg.Run(work, base.but(optimizer=rule), 0) for rule in (rg.AdamW(lr=1e-3), rg.SAM(rg.AdamW(lr=1e-3)))]
    for run in runs:
        for _ in range(5):
            run.step()
    ratios = []
    for number in range(rounds):
        seconds = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            began = time.perf_counter()
            for _ in range(2):
                runs[which].step()
            seconds[which] = time.perf_counter() - began
        ratios.append(seconds[1] / seconds[0])
    rng = np.random.default_rng(0)
    low, high = np.quantile(np.median(rng.choice(ratios, (2000, len(ratios))), axis=1), [0.025, 0.975])
    return statistics.median(ratios), float(low), float(high)


def main() -> None:
    """Print both, and JSON with --json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {width: memory(width) for width in SIZES}
    ratio, low, high = sam(args.rounds)
    if args.json:
        print(json.dumps({"memory": rows, "sam": [ratio, low, high]}))
        return
    print("peak of live tensor bytes of a step, less parameters and batch, over that of a forward without gradients")
    for width, row in rows.items():
        print(
            f"  width {width:5d}, {row['weights'] / 1e6:4.1f} MB of weights, largest tensor {row['largest']:.0%}: "
            f"MeZO {row['MeZO']:.3f}x, SGD {row['SGD']:.2f}x"
        )
    print(f"time of a SAM step over AdamW's on char_lm: {ratio:.2f}x [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
