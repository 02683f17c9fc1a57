"""What the command line costs to start: CPU time over that of a five-command click program, interleaved.

Usage: python benchmarks/startup.py [--rounds 30] [--json]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

#: The program that is compared with: as little as click allows.
PLAIN = '''
import click


@click.group()
def main():
    """Five commands."""


@main.command()
def one():
    """The first."""


@main.command()
def two():
    """The second."""


@main.command()
def three():
    """The third."""


@main.command()
def four():
    """The fourth."""


@main.command()
def five():
    """The fifth."""
'''
START = "import sys; from {module} import main; sys.exit(main())"
CONTENDERS = {
    "regimes --help": ("regimes.cli", ["--help"]),
    "regimes list": ("regimes.cli", ["list"]),
    "five commands, again": ("plain", ["--help"]),
}


def cpu_seconds(folder: Path, module: str, arguments: list[str]) -> float:
    """Return user and system seconds of one start, in a process of its own."""
    command = [sys.executable, "-c", START.format(module=module), *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(rounds: int) -> dict[str, tuple[float, float, float]]:
    """Return the median ratio to the five-command program with its 95% bootstrap interval, by contender."""
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    base: list[float] = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "plain.py").write_text(PLAIN)
        for number in range(rounds + 2):
            starts = [("", ("plain", ["--help"])), *CONTENDERS.items()]
            for name, (module, arguments) in starts if number % 2 else reversed(starts):
                found = cpu_seconds(folder, module, arguments)
                if number >= 2:  # the first rounds write bytecode and fill the disk's cache
                    (times[name] if name else base).append(found)
    return {name: _ratio(found, base) for name, found in times.items()}


def _ratio(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(ours), (4000, len(ours)))
    ratios = np.median(np.array(ours)[picks], axis=1) / np.median(np.array(theirs)[picks], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(np.median(ours) / np.median(theirs)), float(low), float(high)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps(found))
        return
    for name, (ratio, low, high) in found.items():
        print(f"{name:22s} {ratio:.2f}x [{low:.2f}, {high:.2f}]  CPU time of a five-command click program")


if __name__ == "__main__":
    main()
