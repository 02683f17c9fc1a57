"""How the time of a step grows: with replicas, parameters, batch, sources of a mixture, examples of a sampler, phases.

The runs are trained as `regimes compare` trains them, with one thread. A row tells the time of a step (of a replica's step,
where replicas grow) and by which power it grew since the row before: 0 is flat, 1 proportional.

Usage: python benchmarks/scaling.py [--axes replicas batch ...] [--json]
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import regimes as rg
from regimes.core.source import Source
from regimes.engine.together import Together

SECONDS = 1.5


def data(n: int, features: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with labels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, features, generator=generator), torch.randint(10, (n,), generator=generator)


class Mlp:
    """A builder of 64-width-10."""

    def __init__(self, width: int = 64) -> None:
        self.width = width

    def __call__(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, self.width), nn.ReLU(), nn.Linear(self.width, 10))


def work(width: int = 64, train: Any = None) -> rg.Workload:
    """A workload of the MLP."""
    return rg.Workload(model=Mlp(width), train=data(4096) if train is None else train, loss=rg.CrossEntropy())


def regime(**fields: Any) -> rg.Regime:
    """AdamW with a cosine, more steps than are made."""
    lr = rg.Cosine(1e-3, warmup="5%")
    return rg.Regime(**{"optimizer": rg.AdamW(lr=lr), "batch_size": 32, "budget": "1000000 steps"} | fields)


def replicas(count: int) -> list[rg.Run]:
    """So many runs of one regime."""
    shared = work()
    return [rg.Run(shared, regime(), seed) for seed in range(count)]


def parameters(width: int) -> list[rg.Run]:
    """One run of a network of so many hidden units."""
    return [rg.Run(work(width), regime())]


def batch(size: int) -> list[rg.Run]:
    """One run with so many examples a step."""
    return [rg.Run(work(), regime(batch_size=size))]


def sources(count: int) -> list[rg.Run]:
    """One run on a mixture of so many sources of 8 examples."""
    shared = data(8)
    train = {f"s{place}": shared for place in range(count)}
    return [rg.Run(work(train=train), regime(mixture=rg.Mixture(**dict.fromkeys(train, 1.0))))]


class Many(Source):
    """As many examples as are asked for, all the same few."""

    random_access = True
    rowwise = True

    def __init__(self, size: int) -> None:
        self.size, (self.x, self.y) = size, data(1024)

    def __len__(self) -> int:
        return self.size

    def fetch(self, indices: Any, columns: Any) -> Any:
        """Return examples by their numbers."""
        rows = torch.from_numpy(indices % 1024)
        return self.x.index_select(0, rows), self.y.index_select(0, rows)

    def fingerprint(self) -> str:
        """Digest of what is in it."""
        return f"many-{self.size}"


def examples(count: int) -> list[rg.Run]:
    """One run that shuffles so many examples."""
    return [rg.Run(work(train=Many(count)), regime())]


def phases(count: int) -> list[rg.Run]:
    """One run in the first of so many phases."""
    parts = [rg.Phase(f"p{place}", budget="10000 steps") for place in range(count)]
    return [rg.Run(work(), rg.Regime(phases=parts, optimizer=regime().optimizer, batch_size=32))]


AXES: dict[str, tuple[Callable[[int], list[rg.Run]], Sequence[int]]] = {
    "replicas": (replicas, (1, 2, 4, 8, 16, 32, 64)),
    "parameters": (parameters, (64, 256, 1024, 4096)),
    "batch": (batch, (8, 32, 128, 512)),
    "sources": (sources, (10, 100, 1_000, 10_000)),
    "examples": (examples, (10_000, 1_000_000, 100_000_000)),
    "phases": (phases, (1, 10, 100)),
}


def step_time(runs: list[rg.Run]) -> float:
    """Microseconds of a replica's step: the median over bursts, after some that warm up."""
    together, times = Together(runs), list[float]()
    began = time.perf_counter()
    gc.collect()
    gc.freeze()
    while time.perf_counter() - began < SECONDS or len(times) < 8:
        start, made = time.perf_counter(), 0
        for _, records in together.steps(32):
            assert not isinstance(records, BaseException), records
            made += len(records)
        times.append((time.perf_counter() - start) / made)
    gc.unfreeze()
    return statistics.median(times[len(times) // 3 :]) * 1e6


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {}
    for axis in args.axes:
        make, sizes = AXES[axis]
        rows = found[axis] = []
        for size in sizes:
            row = {"size": size, "us": step_time(make(size))}
            if rows:
                row["power"] = math.log(row["us"] / rows[-1]["us"]) / math.log(size / rows[-1]["size"])
            rows.append(row)
            if not args.json:
                power = f"   power {row['power']:+.2f}" if "power" in row else ""
                print(f"{axis:12s} {size:>12,} {row['us']:10.0f} us{power}", flush=True)
    if args.json:
        print(json.dumps({"us of a step": found}))


if __name__ == "__main__":
    main()
