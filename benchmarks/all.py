"""Every benchmark, one after another: a table of ratios, and benchmarks/results.json with versions.

Usage: python benchmarks/all.py [--only replicas step_overhead ...]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: Name -> what it is called with.
BENCHMARKS = {
    "step_overhead": ["--workload", "digits_mlp", "--peers"],
    "step_overhead char_lm": ["--workload", "char_lm", "--peers"],
    "replicas": ["--workload", "digits_mlp"],
    "replicas digits_cnn": ["--workload", "digits_cnn", "--replicas", "16"],
    "replicas char_lm": ["--workload", "char_lm", "--replicas", "16"],
    "comparison": [],
    "comparison demo": ["--demo"],
    "large_data": [],
    "large_store": [],
    "checkpoint": [],
    "rules": [],
    "zo_memory": [],
    "scaling": [],
    "curvature": [],
    "optimizers": [],
    "muon_precision": [],
    "startup": [],
}
PACKAGES = ("regimes", "torch", "numpy", "lightning", "pytorch_optimizer")


def ratios(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, list[float]]]:
    """What is told by three numbers, least, median and largest, whatever their order."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from ratios(value, (*path, str(name)))
    elif isinstance(content, list) and len(content) == 3 and all(isinstance(value, int | float) for value in content):
        yield ", ".join(path), sorted(content)


def versions() -> dict[str, str]:
    """Versions of what was measured, where it is installed."""
    found = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Run them, print the table, write the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=list(BENCHMARKS), choices=BENCHMARKS)
    args = parser.parse_args()
    file = HERE / "results.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    content |= {"versions": versions(), "cores": os.cpu_count()}
    failed = []
    for name in args.only:
        script, began = name.split()[0], time.time()
        command = [sys.executable, str(HERE / f"{script}.py"), *BENCHMARKS[name], "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed.append(name)
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        day = time.strftime("%Y-%m-%d")
        content.setdefault("benchmarks", {})[name] = {"day": day, "load": os.getloadavg()[0], "found": found}
        file.write_text(json.dumps(content, indent=1) + "\n")
        print(f"{name} ({time.time() - began:.0f} s): least, median, largest")
        for what, (least, middle, most) in ratios(found):
            print(f"  {what:60s} {least:8.3f} {middle:8.3f} {most:8.3f}", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
