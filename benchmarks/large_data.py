"""What the order of many examples costs, beside a permutation by torch; and a batch from many sources.

Usage: python benchmarks/large_data.py [--sizes 1e4 1e6 1e8] [--sources 10 100 1000 10000] [--rounds 7] [--json]

A contender begins an epoch and gives batches of 64. ``first`` is the time to the first batch, ``index`` that of an index
over a whole epoch: the beginning's part, and batches that are measured over at most 2^18 indices. Contenders take turns
in one process, as fresh epochs; memory is how much the resident size of a process of their own grows at most while one
begins and gives these batches. torch's RandomSampler makes a list of all indices, which takes 4 GB for 1e8.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import RandomSampler

import regimes as rg
from regimes.core.kinds import DrawContext, SourceView
from regimes.core.progress import Progress
from regimes.core.randomness import Streams

BATCH = 64
#: Indices after which the time of one has shown.
SHOWN = 2**18


def drawn(sampler: rg.core.kinds.Sampler, view: SourceView, seed: int) -> Iterator[Any]:
    """Batches of a sampler of ours, as the engine draws them."""
    streams, key = Streams(seed, "main"), ("main",)
    state, cursor = sampler.init(view), sampler.start(view, key)
    for step in itertools.count():
        found = sampler.draw(state, cursor, BATCH, DrawContext(view, streams, step, Progress(step=step), key))
        cursor = found.cursor
        yield found.indices


def ours(size: int, seed: int) -> Iterator[Any]:
    """Reshuffle."""
    return drawn(rg.Reshuffle(), SourceView({"train": size}, lambda source, name: None), seed)


def randperm(size: int, seed: int) -> Iterator[Any]:
    """Slices of torch's permutation."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    for place in itertools.count(0, BATCH):
        yield order[place : place + BATCH]


def random_sampler(size: int, seed: int) -> Iterator[Any]:
    """torch's sampler, whose indices come one by one."""
    one_by_one = iter(RandomSampler(range(size), generator=torch.Generator().manual_seed(seed)))
    while True:
        yield list(itertools.islice(one_by_one, BATCH))


ORDERS = {"Reshuffle": ours, "torch.randperm": randperm, "RandomSampler": random_sampler}


def timed(make: Callable[[int, int], Iterator[Any]], size: int, seed: int) -> tuple[float, float]:
    """Return milliseconds to the first batch, and microseconds of an index over an epoch."""
    began = time.perf_counter()
    batches = make(size, seed)
    next(batches)
    first = time.perf_counter() - began
    count = min(size, SHOWN) // BATCH - 1
    began = time.perf_counter()
    for _ in range(count):
        next(batches)
    rest = (time.perf_counter() - began) / (count * BATCH)
    return first * 1e3, (rest + first / size) * 1e6


def resident() -> int:
    """Bytes that are resident now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def grown(name: str, size: int) -> float:
    """Return the MB by which this process grows at most."""
    timed(ORDERS[name], 1000, 1)
    highest, before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, resident()
    batches, now = ORDERS[name](size, 0), before
    for _ in range(min(size, SHOWN) // BATCH):
        next(batches)
        now = max(now, resident())
    # The highest mark is exact, but where the process was larger before than it begins.
    return max((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - highest) * 1024, now - before) / 1e6


def memory(name: str, size: int) -> float:
    """`grown` in a process of its own."""
    command = [sys.executable, __file__, "--grown", name, "--sizes", str(size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def orders(size: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Return times and memory by contender, and ratios of ours to each: least, median, largest."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ORDERS}
    for number in range(rounds):
        for name in ORDERS if number % 2 else reversed(ORDERS):
            times[name].append(timed(ORDERS[name], size, number))
    rows: dict[str, dict[str, Any]] = {}
    for name, found in times.items():
        rows[name] = {"MB": memory(name, size)}
        for place, what in enumerate(("first ms", "us per index")):
            rows[name][what] = statistics.median(row[place] for row in found)
            ratios = [mine[place] / theirs[place] for mine, theirs in zip(times["Reshuffle"], found)]
            rows[name][f"ours to it, {what}"] = min(ratios), statistics.median(ratios), max(ratios)
    return rows


def mixed_by_hand(count: int, seed: int) -> Iterator[Any]:
    """Sources by chance, the next example of a shuffled order from each."""
    rng, shares = np.random.default_rng(seed), np.arange(count) % 3 + 1.0
    shares /= shares.sum()
    orders: dict[int, Iterator[Any]] = {}
    while True:
        batch = []
        for place in rng.choice(count, BATCH, p=shares).tolist():
            if place not in orders:
                orders[place] = itertools.cycle(rng.permutation(1000).tolist())
            batch.append((place, next(orders[place])))
        yield batch


def mixed(count: int, seed: int) -> Iterator[Any]:
    """Mixture."""
    mixture = rg.Mixture(**{f"s{place}": place % 3 + 1.0 for place in range(count)})
    return drawn(mixture, SourceView({f"s{place}": 1000 for place in range(count)}, lambda source, name: None), seed)


def mixtures(count: int, rounds: int) -> dict[str, Any]:
    """Return milliseconds of the first batch and of a later one, and the ratio to a loop by hand."""
    began = time.perf_counter()
    runs = {"Mixture": mixed(count, 0), "by hand": mixed_by_hand(count, 0)}
    next(runs["Mixture"])
    first, times = time.perf_counter() - began, {name: [] for name in runs}
    for number in range(5 + 10 * rounds):
        for name in runs if number % 2 else reversed(runs):
            began = time.perf_counter()
            for _ in range(5):
                next(runs[name])
            if number >= 5:
                times[name].append((time.perf_counter() - began) / 5 * 1e3)
    ratios = [mine / theirs for mine, theirs in zip(times["Mixture"], times["by hand"])]
    found = {f"{name} ms": statistics.median(each) for name, each in times.items()}
    return found | {"first ms": first * 1e3, "ours to it": (min(ratios), statistics.median(ratios), max(ratios))}


def shown(ratio: tuple[float, float, float]) -> str:
    """A median with its range."""
    return f"{ratio[1]:.3g}x [{ratio[0]:.3g}, {ratio[2]:.3g}]"


def main() -> None:
    """Print both tables, or JSON with --json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=float, nargs="*", default=[1e4, 1e6, 1e8])
    parser.add_argument("--sources", type=int, nargs="*", default=[10, 100, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=7, help="of sizes from 1e8 on at most 3")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--grown", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.grown:
        print(grown(args.grown, int(args.sizes[0])))
        return
    orders(1000, 1)
    found = {int(size): orders(int(size), min(args.rounds, 3) if size >= 1e8 else args.rounds) for size in args.sizes}
    next(mixed(3, 0))
    mixing = {count: mixtures(count, args.rounds) for count in args.sources}
    if args.json:
        print(json.dumps({"orders": found, "mixtures": mixing}))
        return
    print("a shuffled epoch; beside torch: ours to it, median [least, largest]")
    for size, rows in found.items():
        for name, row in rows.items():
            times = f"first {row['first ms']:9.3f} ms  index {row['us per index']:7.4f} us"
            line = f"{size:>11,} {name:15s} {times}  {row['MB']:7.1f} MB"
            if name != "Reshuffle":
                line += "   " + ", ".join(shown(row[f"ours to it, {what}"]) for what in ("first ms", "us per index"))
            print(line)
    print(f"batches of {BATCH} from many sources of 1,000 examples; beside a loop by hand: ours to it")
    for count, row in mixing.items():
        print(
            f"{count:>11,} sources  Mixture {row['Mixture ms']:7.3f} ms  by hand {row['by hand ms']:7.3f} ms  "
            f"{shown(row['ours to it'])}   declared and first batch {row['first ms']:9.1f} ms"
        )


if __name__ == "__main__":
    main()
