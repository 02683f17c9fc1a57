"""What listings, the index and reports cost over many runs, beside a plain loop that reads every result.json.

Usage: python benchmarks/large_store.py [--sizes 100 1000 10000] [--rounds 3] [--against SOURCES] [--folder DIR] [--json]

One run of 1,000 steps, validated after each, is trained; the stores are copies of its folder with keys, seeds, rates and
metrics of their own (records, checkpoints and weights are hard links to a few originals), and a study of all of them, written as
`regimes compare` writes one. Every time is that of a process, less that of `regimes --help`, which is told apart.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import regimes as rg
from regimes.engine.identity import key
from regimes.study.arms import Arm
from regimes.study.courses import inside_rows
from regimes.study.design import design_of
from regimes.study.executed import _curve
from regimes.study.own import Own
from regimes.study.study import Study
from regimes.study.tasks import Outcome, Task

STEPS = 1000
VARIANTS = 16
#: Of a plain folder's runs, one in so many was killed, and one in so many gave up.
KILLED, DIVERGED = 100, 70
BASE = rg.Regime(optimizer=rg.AdamW(lr=rg.Cosine(1e-3)), batch_size=64, budget=f"{STEPS} steps")
#: Reads what a listing tells of finished runs, and nothing else.
PEER = """
import json, pathlib, sys
for file in pathlib.Path(sys.argv[1]).glob("*/result.json"):
    json.loads(file.read_text())
"""


def shape(size: int) -> tuple[int, int]:
    """Arms and seeds of a study of so many runs."""
    return (32, 8) if size == 256 else (max(2, size // 10), min(10, size // 2))


class Trained(Own):
    """A workload whose arms were trained: that each of them can be is not tried again."""

    def check(self, *given: Any) -> None:
        """Refuse nothing."""


class Store:
    """Stores of any size, made of one run.

    Parameters
    ----------
    folder : Path
        Where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.one = folder, folder / "one"
        self.work = rg.workloads.load("digits_mlp")
        every = {"validate": "1 steps", "workload_spec": "digits_mlp", "progress": False}
        self.result = rg.run(self.work, BASE, out=self.one, **every)
        self.declared = json.loads((self.one / "run.json").read_text())
        self.ended = json.loads((self.one / "result.json").read_text())
        self.rows = [self._scaled(1 + 0.02 * number) for number in range(VARIANTS)]
        self.curves = [_curve(rows, self.result) for rows in self.rows]
        self.inside = [inside_rows(rows) for rows in self.rows]
        for number, rows in enumerate(self.rows):
            place = folder / f"records-{number}"
            place.write_text("".join(json.dumps(row) + "\n" for row in rows))
            skipped = [{name: row[name] for name in list(row)[:5]} | {"skipped": "loss"} for row in rows[400:410]]
            diverged = "".join(json.dumps(row) + "\n" for row in [*rows[:400], *skipped])
            (folder / f"diverged-{number}").write_text(diverged)

    def _scaled(self, factor: float) -> list[dict[str, Any]]:
        losses = ("loss", "val/loss")
        return [
            row | {name: value * factor for name, value in row.items() if name in losses} for row in self.result.records
        ]

    def copies(self, root: Path, number: int, regime: rg.Regime, seed: int, rng: np.random.Generator) -> dict[str, Any]:
        """Write one run's folder below `root`, under its key or a name; return its declaration and metrics."""
        content = self.declared["identity"] | {
            "regime": regime.hash, "seed": seed, "weights": rng.bytes(8).hex(), "first_batch": rng.bytes(8).hex(),
        }  # fmt: skip
        created = time.strftime("%Y-%m-%dT%H:%M:%S+0000", time.gmtime(1_790_000_000 + 7 * number))
        declared = self.declared | {
            "key": key(content), "regime": repr(regime), "identity": content, "created": created,
        }  # fmt: skip
        noise = 1 + 0.02 * float(rng.standard_normal())
        metrics = {name: value * noise for name, value in self.ended["metrics"].items()}
        return {
            "root": root,
            "declared": declared,
            "result": self.ended | {"metrics": metrics},
            "variant": number % VARIANTS,
        }

    def write(self, run: dict[str, Any], name: str, state: str = "finished") -> None:
        """Write a run's folder as the engine leaves it: finished, killed or given up."""
        to = run["root"] / name
        (to / "checkpoints").mkdir(parents=True)
        (to / ".lock").touch()
        (to / "run.json").write_text(json.dumps(run["declared"], indent=1) + "\n")
        shutil.copyfile(self.one / "times.jsonl", to / "times.jsonl")
        os.link(
            self.folder / f"{'diverged' if state == 'diverged' else 'records'}-{run['variant']}", to / "records.jsonl"
        )
        parts = sorted((self.one / "checkpoints").iterdir())
        for part in parts if state == "finished" else parts[:1]:
            _link(part, to / "checkpoints" / part.name)
        if state == "finished":
            _link(self.one / "final", to / "final")
            (to / "result.json").write_text(json.dumps(run["result"], indent=1) + "\n")

    def plain(self, size: int) -> Path:
        """Make a plain folder of runs: of one in a hundred or so the process was killed, or the run gave up."""
        root, rng = self.folder / f"plain-{size}", np.random.default_rng(size)
        regimes = [BASE.but(peak=1e-3 * 1.01**arm) for arm in range(max(2, size // 10))]
        for number in range(size):
            regime, seed = regimes[number % len(regimes)], number // len(regimes)
            run = self.copies(root, number, regime, seed, rng)
            state = "killed" if number % KILLED == 7 else "diverged" if number % DIVERGED == 9 else "finished"
            self.write(run, f"digits-{number % len(regimes)}-seed{seed}", state)
        return root

    def study(self, size: int) -> Path:
        """Make a study with its runs, as `regimes compare` leaves it."""
        root, rng, (arms, seeds) = self.folder / f"study-{size}", np.random.default_rng(size), shape(size)
        declared = {f"peak-{arm}": BASE.but(peak=1e-3 * 1.01**arm) for arm in range(arms)}
        subject = Trained(self.work, {"validate": "1 steps", "workload_spec": "digits_mlp"})
        collected, number = [], itertools.count()
        for name, regime in declared.items():
            outcomes = [self._outcome(root, next(number), name, regime, seed, rng) for seed in range(seeds)]
            collected.append(Arm(name, regime, regime, outcomes, []))
        asked = (None, "val/loss", None, 0.005, seeds, {}, 0, None, 0.95, None, "normal")
        design = design_of(subject, declared, *asked)
        command = "regimes compare study.yaml"
        made = Study.of(design, f"study of {size}", subject, collected, command, root, [])
        made.save()
        (root / "design.json").write_text(json.dumps(design.record(subject, declared), indent=1) + "\n")
        return root

    def _outcome(
        self, root: Path, number: int, arm: str, regime: rg.Regime, seed: int, rng: np.random.Generator
    ) -> Outcome:
        run = self.copies(root / "runs", number, regime, seed, rng)
        self.write(run, run["declared"]["key"])
        curve, metrics = self.curves[run["variant"]], run["result"]["metrics"]
        curve = [*curve[:-1], curve[-1] | {name: v for name, v in metrics.items() if name.startswith("val/")}]
        return Outcome(
            Task(arm, regime, seed), metrics, curve, self.inside[run["variant"]],
            self.result.work.state(), STEPS, self.result.tokens, self.result.seconds, run["declared"]["key"], False,
        )  # fmt: skip


def _link(source: Path, to: Path) -> None:
    shutil.copytree(source, to, copy_function=os.link)


def seconds(*command: str, sources: str | None = None, limit: float | None = None) -> float:
    """Return the wall time of a process that runs with other sources of the package, if they are given; infinite beyond."""
    environment = os.environ | ({} if sources is None else {"PYTHONPATH": sources})
    began = time.perf_counter()
    try:
        subprocess.run(
            command, check=True, timeout=limit, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return float("inf")
    return time.perf_counter() - began


def commands(plain: Path, study: Path) -> dict[str, list[str]]:
    """What is measured: name -> arguments, in an order that makes the index before it is used."""
    one = min(path for path in plain.iterdir() if (path / "result.json").exists())
    return {
        "runs, without an index": ["runs", str(plain)],
        "index": ["index", str(plain)],
        "runs": ["runs", str(plain)],
        "runs --json": ["runs", str(plain), "--json"],
        "runs of a study": ["runs", str(study)],
        "show RUN": ["show", str(one)],
        "show STUDY": ["show", str(study)],
        "report STUDY": ["report", str(study)],
    }


def measure(plain: Path, study: Path, rounds: int, programs: dict[str, str | None], limit: float) -> dict[str, Any]:
    """Return seconds of every command, by name: median, least and most of the rounds, and sizes of what was written.

    A program that was beyond the limit once is not asked again.
    """
    times: dict[str, list[float]] = {}
    sizes = {"study.json": (study / "study.json").stat().st_size}

    def note(name: str, command: Sequence[str], less: float = 0.0, sources: str | None = None) -> float:
        if times.get(name, [0.0])[-1] < float("inf"):
            times.setdefault(name, []).append(seconds(*command, sources=sources, limit=limit) - less)
        return times[name][-1]

    for _ in range(rounds):
        note("a loop over result.json", [sys.executable, "-c", PEER, str(plain)])
        for program, sources in programs.items():
            for folder in (plain, study / "runs"):
                for file in folder.glob("index.sqlite*"):
                    file.unlink()
            ours = [sys.executable, "-m", "regimes"]
            start = note(f"{program}--help", [*ours, "--help"], sources=sources)
            seconds(*ours, "index", str(study), sources=sources)
            for name, arguments in commands(plain, study).items():
                note(program + name, [*ours, *arguments], start, sources)
            if (study / "report.html").exists():
                sizes[f"{program}report.html"] = (study / "report.html").stat().st_size
                (study / "report.html").unlink()
    found = {name: (statistics.median(one), min(one), max(one)) for name, one in times.items()}
    return {"seconds": found, "bytes": sizes}


def main() -> None:
    """Print a table, or JSON with --json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", help="sources of another version, measured in the same rounds")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that a command has")
    parser.add_argument("--folder", help="where the stores are made, and kept; default: a temporary folder")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    programs = {"": None} | ({"other: ": arguments.against} if arguments.against else {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        store, found = Store(folder), {}
        for size in arguments.sizes:
            made = store.plain(size), store.study(size)
            found[size] = measure(*made, arguments.rounds, programs, arguments.limit)
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"{'seconds, median [least, most]':34s}" + "".join(f"{f'{size} runs':>26s}" for size in found))
    for name in next(iter(found.values()))["seconds"]:
        cells = (one["seconds"][name] for one in found.values())
        print(f"{name:34s}" + "".join(f"{f'{m:.2f} [{low:.2f}, {high:.2f}]':>26s}" for m, low, high in cells))
    for name in next(iter(found.values()))["bytes"]:
        print(f"{name:34s}" + "".join(f"{one['bytes'].get(name, 0) / 1e6:>23.2f} MB" for one in found.values()))


if __name__ == "__main__":
    main()
