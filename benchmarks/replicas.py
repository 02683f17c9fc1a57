"""Many runs at once: replicas, stacked in one process or in several, against plain loops one after another.

The same models, data, batch size, optimizer and schedule, another learning rate each; every loop and every replica
writes its records. Interleaved: a block of the loops, a block of each way of ours, and again.

Usage: python benchmarks/replicas.py [--workload digits_mlp|char_lm|digits_cnn] [--replicas 32] [--blocks 15] [--json]
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from by_hand import loop
from step_overhead import char_lm, digits

import regimes as rg
from regimes.engine.records import RecordWriter
from regimes.engine.together import Together

HAND = "loops by hand, one after another"
#: Blocks in which everything is loaded, and a stack decides whether it is worth a graph.
WARM = 5
#: workload -> (batch size, tokens, steps of a block)
SETTINGS = {"digits_mlp": (64, False, 64), "char_lm": (8, True, 2), "digits_cnn": (64, False, 8)}


def rate(place: int, count: int) -> float:
    """One of the learning rates, over two decades."""
    return 1e-4 * 100.0 ** (place / max(count - 1, 1))


def by_hand(name: str, count: int, folder: Path) -> list[Iterator[float]]:
    """One plain loop for every rate."""
    batch, tokens, _ = SETTINGS[name]
    work = rg.workloads.load(name)
    source = next(iter(work.sources["train"].values()))
    inputs, targets = char_lm()[1:3] if tokens else digits()[1:3] if name == "digits_mlp" else source.parts.values()
    return [
        loop(
            work.build(place), inputs, targets, batch=batch, steps=10**6, peak=rate(place, count), kernel=False,
            tokens=tokens, log=folder / f"hand-{place}.jsonl",
        )
        for place in range(count)
    ]  # fmt: skip


def replicas(
    name: str, places: list[int], count: int, folder: Path, largest: int, compiled: bool
) -> Callable[[int], None]:
    """Return what advances some of the runs by so many steps each."""
    batch, _, _ = SETTINGS[name]
    work = rg.workloads.load(name)
    runs = [
        rg.Run(
            work,
            rg.Regime(
                optimizer=rg.AdamW(lr=rg.Cosine(rate(place, count), warmup="5%")),
                batch_size=batch,
                budget="1000000 steps",
                compile=compiled,
            ),
            place,
        )
        for place in places
    ]
    writers = {}
    for place, run in zip(places, runs):
        (folder / f"{largest}-{place}").mkdir(parents=True)
        writers[id(run)] = RecordWriter(folder / f"{largest}-{place}")
    together = Together(runs, largest)
    made = dict.fromkeys(writers, 0)

    def advance(steps: int) -> None:
        until = min(made.values()) + steps
        while min(made.values()) < until:
            for run, records in together.steps(min(32, until - min(made.values()))):
                assert not isinstance(records, BaseException), records
                made[id(run)] += len(records)
                for record in records:
                    writers[id(run)].add(record)

    return advance


def serve(inbox: Any, core: int, *given: Any) -> None:
    """Be a worker process on a core of its own: advance when asked."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    advance = replicas(*given)
    gc.freeze()  # as `regimes.engine.sessions` does
    inbox.send(None)
    while (steps := inbox.recv()) is not None:
        advance(steps)
        inbox.send(None)


def processes(
    name: str, count: int, workers: int, folder: Path, largest: int, compiled: bool = False
) -> tuple[Callable[[int | None], None], float]:
    """Return what advances all runs, dealt to worker processes, and the seconds until they stand ready."""
    began = time.perf_counter()
    spawn, inboxes = multiprocessing.get_context("spawn"), []
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(workers))
    share = -(-count // workers)
    for worker in range(workers):
        ours, theirs = spawn.Pipe()
        places = list(range(count))[worker * share : (worker + 1) * share]
        own = folder / f"{workers}-{largest}-{compiled}"
        given = (theirs, cores[worker % len(cores)], name, places, count, own, largest, compiled)
        spawn.Process(target=serve, args=given, daemon=True).start()
        inboxes.append(ours)
    for inbox in inboxes:
        inbox.recv()

    def advance(steps: int | None) -> None:
        for inbox in inboxes:
            inbox.send(steps)
        for inbox in inboxes if steps is not None else ():
            inbox.recv()

    return advance, time.perf_counter() - began


def faster_threads(name: str) -> int:
    """Threads with which the loop by hand is faster: one for tensors this small, all cores for larger ones."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for threads in (1, os.cpu_count() or 1):
            torch.set_num_threads(threads)
            [steps] = by_hand(name, 1, Path(folder))
            for number in range(2 * SETTINGS[name][2] + 1):
                if number == 1:
                    began = time.perf_counter()
                next(steps)
            found[time.perf_counter() - began] = threads
    return found[min(found)]


def measure(args: argparse.Namespace, folder: Path) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every block, and seconds until it stood ready, by contender."""
    name, count = args.workload, args.replicas
    steps = SETTINGS[name][2]
    threads = faster_threads(name)
    loops = by_hand(name, count, folder)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    made = {
        "one process, stacked": processes(name, count, 1, folder, 64),
        f"{cores} processes, stacked": processes(name, count, cores, folder, 64),
        f"{cores} processes, stacked and compiled": processes(name, count, cores, folder, 64, compiled=True),
        f"{cores} processes, one run at a time": processes(name, count, cores, folder, 1),
    }
    ways = {way: advance for way, (advance, _) in made.items()}

    def hand(threads: int, _: int) -> None:
        torch.set_num_threads(threads)
        for each in loops:
            for _ in range(steps):
                next(each)

    hands = {HAND: functools.partial(hand, threads)}
    if threads > 1:
        hands[f"{HAND}, one thread"] = functools.partial(hand, 1)
    contenders = hands | ways
    times: dict[str, list[float]] = {way: [] for way in contenders}
    for block in range(args.blocks + WARM):
        for way, advance in contenders.items():
            began = time.perf_counter()
            advance(steps)
            if block >= WARM:
                times[way].append((time.perf_counter() - began) / (steps * count))
    for advance in ways.values():
        advance(None)
    return times, {way: seconds for way, (_, seconds) in made.items()}


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workload", choices=SETTINGS, default="digits_mlp")
    parser.add_argument("--replicas", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times, ready = measure(args, Path(folder))
    hand = times[HAND]
    rows = {}
    for way, found in times.items():
        ratios = sorted(h / t for h, t in zip(hand, found))
        rows[way] = {
            "us": statistics.median(found) * 1e6,
            "throughput": [ratios[0], statistics.median(ratios), ratios[-1]],
            "ready s": ready.get(way, 0.0),
        }
    if args.json:
        print(json.dumps({"workload": args.workload, "replicas": args.replicas, "rows": rows}))
        return
    print(
        f"{args.workload}, {args.replicas} replicas, {args.blocks} blocks; throughput over the loops: min, median, max"
    )
    for way, row in rows.items():
        low, middle, high = row["throughput"]
        print(
            f"{way:36s} {row['us']:9.1f} us a replica's step   {middle:5.2f}x [{low:.2f}, {high:.2f}]   "
            f"ready after {row['ready s']:.0f} s"
        )


if __name__ == "__main__":
    main()
