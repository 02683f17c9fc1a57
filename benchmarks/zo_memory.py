"""What MeZO and ZO2 hold in memory, over a first-order step, where the blocks of the model lie in a file.

Usage: python benchmarks/zo_memory.py [--rounds 20] [--folder FOLDER]

Every rule has a process of its own. Tensors are the most bytes of live tensors in a step, parameters among them, from
torch's allocator, to which mapped files are none. Resident is the most that the process held of physical memory in three
steps, beyond what it held after steps of a model of one block, mapped pages among it (the system may take those back). Both
are ratios to the bytes of the weights. Times are ratios to MeZO in memory, in one process, step by step in turn.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rules import peak
from torch import nn

import regimes as rg

WIDTH, BLOCKS, ROWS = 1024, 24, 16
#: rule, whether its blocks lie in a file, whether somebody may look at the weights after each step
CASES = {
    "SGD": (rg.SGD(lr=0.1), False, False),
    "MeZO": (rg.MeZO(lr=1e-7), False, False),
    "MeZO, blocks in a file": (rg.MeZO(lr=1e-7), True, False),
    "ZO2, blocks in a file": (rg.ZO2(lr=1e-7, blocks=["blocks.*"]), True, False),
    "ZO2, blocks in a file, looked at": (rg.ZO2(lr=1e-7, blocks=["blocks.*"]), True, True),
}


class Net(nn.Module):
    """Equal blocks between two small layers."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, WIDTH), nn.Linear(WIDTH, 10)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Through all blocks, each beside a connection around it."""
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def model(folder: str | None, blocks: int) -> nn.Module:
    """The net, its blocks in files of this folder."""
    return Net(blocks) if folder is None else rg.offload(Net(blocks), ["blocks.*"], folder)


def run_of(name: str, folder: str, steps: int, blocks: int = BLOCKS) -> rg.Run:
    """A run of a case, after its first step."""
    rule, far, looked_at = CASES[name]
    data = torch.randn(ROWS, 64), torch.randint(0, 10, (ROWS,))
    build = functools.partial(model, folder if far else None, blocks)
    work = rg.Workload(model=build, train=data, loss=nn.CrossEntropyLoss(), name=name)
    regime = rg.Regime(optimizer=rule, batch_size=ROWS, budget=f"{steps} steps")
    run = rg.Run(work, regime, 0, count_flops=False, look_ahead=False)
    run.looked_at = looked_at
    run.step()
    return run


def status(key: str) -> int:
    """Bytes of this process by a key of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])


def memory(name: str, folder: str) -> dict[str, float]:
    """What a case holds, over the bytes of its weights; what a step of any model brings into memory lies there before."""
    run_of(name, folder, 12, blocks=1).step()
    gc.collect()
    before = status("VmRSS")
    run = run_of(name, folder, 12)
    weights = sum(p.nbytes for p in run.trained)
    run.step()
    Path("/proc/self/clear_refs").write_text("5")  # the most from here on
    for _ in range(3):
        run.step()
    resident = status("VmHWM") - before
    far = [p.data_ptr() for p in run.model.blocks.parameters()] if CASES[name][1] else []
    return {"weights": weights, "tensors": (live(far) + peak(run.step)) / weights, "resident": resident / weights}


def live(far: list[int]) -> int:
    """Bytes of the live tensors' storages, but for those that begin at one of these addresses."""
    storages = {o.untyped_storage().data_ptr(): o.nbytes for o in gc.get_objects() if isinstance(o, torch.Tensor)}
    return sum(size for start, size in storages.items() if start not in far)


def times(folder: str, rounds: int) -> dict[str, list[float]]:
    """Time of a step over MeZO's in memory: least, median and largest."""
    names = [name for name in CASES if name != "SGD"]
    runs = {name: run_of(name, folder, 2 * rounds + 4) for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        spent = {name: seconds(run) for name, run in runs.items()}
        for name in names:
            ratios[name].append(spent[name] / spent["MeZO"])
    return {name: [min(r), statistics.median(r), max(r)] for name, r in ratios.items() if name != "MeZO"}


def seconds(run: rg.Run) -> float:
    """Time of a step."""
    began = time.perf_counter()
    run.step()
    return time.perf_counter() - began


def main() -> None:
    """Print both, and JSON with --json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.case:
        print(json.dumps(memory(args.case, args.folder)))
        return
    found = {}
    for name in CASES:
        command = [sys.executable, __file__, "--case", name, "--folder", args.folder]
        found[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    took = times(args.folder, args.rounds)
    if args.json:
        print(json.dumps({"memory": found, "time": took}))
        return
    whole = found["MeZO"]["weights"]
    print(
        f"{whole / 1e6:.0f} MB of weights in {BLOCKS} blocks: the most in a step, over them; time of a step over MeZO's"
    )
    for name, row in found.items():
        slow = "" if name not in took else "; time {1:.2f}x [{0:.2f}, {2:.2f}]".format(*took[name])
        print(f"  {name:34s} tensors {row['tensors']:.3f}x, resident {row['resident']:.3f}x{slow}")


if __name__ == "__main__":
    main()
