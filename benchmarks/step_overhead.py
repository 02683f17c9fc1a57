"""What a step of the engine costs over the plain loop, interleaved in one process.

Usage: python benchmarks/step_overhead.py [--processes 5] [--blocks 100] [--workload digits_mlp|char_lm] [--peers]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from by_hand import loop
from torch import nn

import regimes as rg
from regimes.engine import bursts
from regimes.engine.api import Session


class Contender(Protocol):
    """What is measured: trains in blocks."""

    def advance(self, steps: int) -> None:
        """Train that many steps."""

    def close(self) -> None:
        """Stop, and close files."""


class Loop:
    """A generator that trains one step a next().

    Parameters
    ----------
    steps : generator
    """

    def __init__(self, steps: Generator[Any, None, None]) -> None:
        self._steps = steps
        self.close = steps.close

    def advance(self, steps: int) -> None:
        """Train that many steps."""
        advance = self._steps.__next__
        for _ in range(steps):
            advance()


def digits() -> tuple[Any, Any, Any, dict[str, Any]]:
    """digits_mlp: 64-64-10, batch 32."""
    work = rg.workloads.load("digits_mlp")
    source = next(iter(work.sources["train"].values()))
    inputs, targets = source.parts["0"], source.parts["1"]
    return work, inputs, targets, {"batch": 32, "tokens": False, "per_block": bursts.MOST, "peak": 1e-3}


def char_lm() -> tuple[Any, Any, Any, dict[str, Any]]:
    """char_lm: the small GPT, batch 16."""
    work = rg.workloads.load("char_lm")
    source = next(iter(work.sources["train"].values()))
    inputs, targets = source.fetch(np.arange(len(source)), {})
    return work, inputs, targets, {"batch": 16, "tokens": True, "per_block": 2, "peak": 1e-3}


def contenders(name: str, blocks: int, folder: Path, peers: bool) -> tuple[dict[str, Contender], int]:
    """Return the contenders by name, and the steps of a block."""
    work, inputs, targets, facts = {"digits_mlp": digits, "char_lm": char_lm}[name]()
    steps = blocks * facts["per_block"] + 50
    # A block is as long as a burst: else some blocks would pay for two, and some for none.
    bursts.MOST = facts["per_block"]

    def build() -> nn.Module:
        return work.build(0)

    def hand(kernel: bool, label: str) -> Loop:
        common = {key: facts[key] for key in ("batch", "peak", "tokens")}
        log = folder / f"{label}.jsonl"
        return Loop(loop(build(), inputs, targets, steps=steps, kernel=kernel, log=log, **common))

    def ours(regime: rg.Regime, label: str, looked_at: bool = False) -> Loop:
        session = Session.at(work, regime, 0, lambda _: folder / label, checkpoint="100%")
        session.looked_at = looked_at
        return Loop(session.records())

    regime = rg.Regime(
        optimizer=rg.AdamW(lr=rg.Cosine(facts["peak"], warmup="5%")),
        batch_size=facts["batch"],
        budget=f"{steps} steps",
    )
    found: dict[str, Contender] = {
        "by hand": hand(False, "hand"),
        "by hand again": hand(False, "again"),
        "by hand, functional kernel": hand(True, "kernel"),
        "regimes": ours(regime, "ours"),
        "regimes, looked at every step": ours(regime, "stream", True),
        "regimes, loss-weighted sampler": ours(regime.but(sampler=rg.LossWeighted()), "feedback"),
    }
    if peers:
        from peers import contenders as peers_of

        trainers, loops = peers_of(build, inputs, targets, facts, steps, folder)
        found |= trainers | {label: Loop(steps) for label, steps in loops.items()}
    return found, facts["per_block"]


def measure(runs: Mapping[str, Contender], blocks: int, per_block: int) -> dict[str, dict[str, list[float]]]:
    """Return wall and CPU seconds per step, block by block, the contenders in turn."""
    times: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in runs}
    for run in runs.values():
        run.advance(20)
    for block in range(blocks):
        order = list(runs) if block % 2 == 0 else list(reversed(runs))
        for name in order:
            run = runs[name]
            wall, cpu = time.perf_counter(), time.process_time()
            run.advance(per_block)
            times[name]["wall"].append((time.perf_counter() - wall) / per_block)
            times[name]["cpu"].append((time.process_time() - cpu) / per_block)
    return times


def ratio(ours: list[list[float]], theirs: list[list[float]]) -> tuple[float, float, float]:
    """Median of the block-wise ratios of all processes, with a 95% bootstrap interval over processes and blocks."""
    ratios = np.array(ours) / np.array(theirs)
    rng = np.random.default_rng(0)
    count, blocks = ratios.shape
    medians = [
        np.median([rng.choice(ratios[process], blocks) for process in rng.integers(count, size=count)])
        for _ in range(2000)
    ]
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def one_process(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Measure here."""
    torch.set_num_threads(args.threads)
    peers = args.peers and find_spec("lightning") is not None
    if args.peers and not peers:
        print("without peers: lightning is not installed (pip install 'regimes[bench]')", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        runs, per_block = contenders(args.workload, args.blocks, Path(folder), peers)
        for run in runs.values():
            opened.callback(run.close)
        return measure(runs, args.blocks, per_block)


def several(args: argparse.Namespace) -> list[dict[str, dict[str, list[float]]]]:
    """Measure in several processes: where things come to lie in memory moves a whole process by up to 2%."""
    found = []
    for number in range(args.processes):
        print(f"process {number + 1} of {args.processes}", file=sys.stderr)
        command = [sys.executable, __file__, "--times", *sys.argv[1:]]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return found


def main() -> None:
    """Print the table, and JSON with --json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=100, help="of each process")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--workload", default="digits_mlp")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--times", action="store_true", help="measure in this process, print the times of all blocks")
    parser.add_argument("--peers", action="store_true", help="beside Lightning's Trainer and Fabric, if installed")
    args = parser.parse_args()
    if args.times:
        print(json.dumps(one_process(args)))
        return
    times = several(args)
    rows: dict[str, Any] = {}
    for name in times[0]:
        rows[name] = {"us": statistics.median(value for each in times for value in each[name]["wall"]) * 1e6}
        for clock in ("wall", "cpu"):
            rows[name][clock] = ratio([t[name][clock] for t in times], [t["by hand"][clock] for t in times])
    if args.json:
        print(json.dumps({"workload": args.workload, "threads": args.threads, "rows": rows}))
        return
    print(
        f"{args.workload}, {args.processes} processes of {args.blocks} blocks, {args.threads} thread(s); to 'by hand'"
    )
    for name, row in rows.items():
        wall, cpu = (f"{m:.3f} [{low:.3f}, {high:.3f}]" for m, low, high in (row["wall"], row["cpu"]))
        print(f"{name:32s} {row['us']:9.0f} us   wall {wall}   cpu {cpu}")


if __name__ == "__main__":
    main()
