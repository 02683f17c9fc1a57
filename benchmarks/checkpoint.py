"""How long a checkpoint holds up the training loop, and what its writing costs the steps meanwhile; interleaved.

A model whose state takes 50 MiB: 4.4 million parameters in 40 tensors, and AdamW's two moments of each. The stall is the
time of the step before which a checkpoint is taken, less the median of the other steps around it. Beside: the same bytes
copied and nothing else, the same checkpoint waited for, ``torch.save`` in a plain loop (which forces nothing to disk), and
``torch.distributed.checkpoint.async_save`` there. Steps while a checkpoint is written are compared with those while none
is, in our loop and in one beside which another process writes the same: what both have is the machine's, the rest Python's.

With ``--alone`` a block is begun when the machine is quiet, and made again, whatever it found, if other programs took more
than a seventh of a core meanwhile (Linux only): as many busy programs as cores hold up a loop for longer than a checkpoint.

Usage: python benchmarks/checkpoint.py [--checkpoints 20] [--every 25] [--threads 1] [--alone] [--folder DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from by_hand import loop
from torch import nn

import regimes as rg
from regimes.engine import checkpoint
from regimes.engine.api import Session

WIDTH, LAYERS, EXAMPLES, BATCH = 469, 20, 2048, 32


def net() -> nn.Module:
    """Layers enough for 40 tensors."""
    return nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)])


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(EXAMPLES, WIDTH, generator=generator), torch.randint(WIDTH, (EXAMPLES,), generator=generator)


def state() -> dict[str, torch.Tensor]:
    """As many bytes in as many tensors: parameters and moments."""
    return {f"{kind}.{n}": p.detach().clone() for kind in "pmv" for n, p in net().named_parameters()}


class Contender(NamedTuple):
    """Trains step by step; at the beginning of a block a checkpoint is taken.

    Parameters
    ----------
    step : callable
        ``step(first)`` makes a step; the first of a block begins with the checkpoint.
    busy : callable
        Whether a checkpoint is being written.
    """

    step: Callable[[bool], None]
    busy: Callable[[], bool] = lambda: False


class Waiting(Session):
    """A session whose training goes on when its checkpoint is on disk."""

    def _save(self) -> None:
        super()._save()
        assert self.folder is not None
        self.folder.saved()


def regimes(kind: type[Session], folder: Path, every: int) -> Contender:
    """A run of ours, with a checkpoint every so many steps."""
    work = rg.Workload(model=net, train=data(), loss=nn.CrossEntropyLoss())
    regime = rg.Regime(optimizer=rg.AdamW(lr=1e-4), batch_size=BATCH, budget="1000000 steps")
    records = kind.at(work, regime, 0, lambda content: folder, checkpoint=f"{every} steps").records()

    def busy() -> bool:
        place = folder / "checkpoints"
        return place.exists() and any(name.startswith(".part-") for name in os.listdir(place))

    return Contender(lambda first: next(records) and None, busy)


def by_hand(save: Callable[[dict[str, Any], Path], None] | None, folder: Path) -> Contender:
    """A plain loop that may save what it trains."""
    folder.mkdir()
    model, number = net(), iter(range(10**9))
    steps: Iterator[float] = loop(
        model, *data(), batch=BATCH, steps=10**6, peak=1e-4, kernel=False, tokens=False, log=folder / "log.jsonl"
    )
    moments = {f"{kind}.{n}": p.detach().clone() for kind in "mv" for n, p in model.named_parameters()}

    def step(first: bool) -> None:
        if first and save is not None:
            save({**dict(model.named_parameters()), **moments}, folder / str(next(number)))
        next(steps)

    return Contender(step)


def distributed(folder: Path) -> Contender:
    """A plain loop with torch's own asynchronous checkpoints."""
    from torch.distributed.checkpoint import async_save

    under_way: list[Any] = []

    def save(tensors: dict[str, Any], path: Path) -> None:
        under_way[:] = [async_save({"state": {n: t.detach() for n, t in tensors.items()}}, checkpoint_id=path)]

    return by_hand(save, folder)._replace(busy=lambda: bool(under_way) and not under_way[0].done())


def copying() -> Contender:
    """No training: the same bytes, copied into memory that is there."""
    source = list(state().values())
    target = [t.clone() for t in source]

    def step(first: bool) -> None:
        if first:
            torch._foreach_copy_(target, source)

    return Contender(step)


def write_when_told(inbox: Any, folder: Path) -> None:
    """Be a process that writes a checkpoint each time it is told to."""
    torch.set_num_threads(1)
    tensors, number = state(), 0
    while inbox.recv():
        checkpoint.write(folder, f"step-{(number := number + 1):010d}", tensors)
        checkpoint.prune(folder, 2)
        inbox.send(None)


def beside(folder: Path, run: Contender) -> tuple[Contender, Callable[[], None]]:
    """A run beside which another process writes checkpoints."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    target = {"target": write_when_told, "args": (theirs, folder), "daemon": True}
    multiprocessing.get_context("spawn").Process(**target).start()  # type: ignore[arg-type]
    waiting = []

    def step(first: bool) -> None:
        if first:
            ours.send(True)
            waiting.append(True)
        run.step(first)

    def busy() -> bool:
        if waiting and ours.poll():
            ours.recv()
            waiting.clear()
        return bool(waiting)

    return Contender(step, busy), lambda: ours.send(False)


class Found(NamedTuple):
    """What was measured of a contender: seconds.

    Parameters
    ----------
    stalls : list of float
    own : list of float
        The same, of the loop's thread: what it spent itself, whoever else had the cores.
    steps : list of float
        Median steps.
    meanwhile : list of float
        Median steps while a checkpoint is written, over those while none is.
    """

    stalls: list[float]
    own: list[float]
    steps: list[float]
    meanwhile: list[float]


def of_others() -> float:
    """Seconds of all cores that this process and those it started have not taken, since some time."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    busy = sum(ticks) - ticks[3] - ticks[4]  # all but idle and waiting for the disk
    ours = [Path("/proc/self/stat"), *(Path(f"/proc/{p.pid}/stat") for p in multiprocessing.active_children())]
    own = sum(int(ticks) for path in ours for ticks in path.read_text().rsplit(")", 1)[1].split()[11:13])
    return (busy - own) / os.sysconf("SC_CLK_TCK")


def undisturbed(contender: Contender, every: int) -> Found:
    """Wait for a quiet machine and make a block, until one has had it for itself."""
    while True:
        began, others = time.perf_counter(), of_others()
        time.sleep(0.5)
        if of_others() - others < (time.perf_counter() - began) / 7:
            began, others, found = time.perf_counter(), of_others(), block(contender, every)
            if of_others() - others < (time.perf_counter() - began) / 7:
                return found


def block(contender: Contender, every: int) -> Found:
    """Make the steps of one block, and wait until its checkpoint is written."""
    wall, own, busy = [], [], []
    for number in range(every):
        busy.append(contender.busy())
        began, spent = time.perf_counter(), time.thread_time()
        contender.step(number == 0)
        wall.append(time.perf_counter() - began)
        own.append(time.thread_time() - spent)
    while contender.busy():
        time.sleep(0.005)
    writing, idle = ([step for step, other in zip(wall[1:], busy[1:]) if other == which] for which in (True, False))
    step = statistics.median(wall[1:])
    ratio = [statistics.median(writing) / statistics.median(idle)] if writing and idle else []
    return Found([wall[0] - step], [own[0] - statistics.median(own[1:])], [step], ratio)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Found]:
    """Blocks of all contenders in turn."""
    torch.set_num_threads(args.threads)
    other, end = beside(folder / "other", regimes(Session, folder / "unsaved", 10**6))
    contenders = {
        "the bytes alone, copied": copying(),
        "regimes": regimes(Session, folder / "ours", args.every),
        "regimes, waiting for the disk": regimes(Waiting, folder / "waiting", args.every),
        "regimes, another process writes": other,
        "by hand, torch.save": by_hand(torch.save, folder / "saved"),
        "by hand, async_save": distributed(folder / "async"),
    }
    found = {name: Found([], [], [], []) for name in contenders}
    for number in range(args.checkpoints + 1):
        for name in contenders if number % 2 else reversed(contenders):
            made = (undisturbed if args.alone else block)(contenders[name], args.every)
            if number:  # at the very first step no checkpoint of ours is due: that block warms up
                for values, new in zip(found[name], made):
                    values.extend(new)
    end()
    return found


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--every", type=int, default=25, help="steps between two")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="make blocks again that other programs disturbed")
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured; default: a temporary one")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # torch says that without a process group it assumes a single process
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = measure(args, Path(folder))
    rows: dict[str, Any] = {}
    for name, made in found.items():
        rows[name] = {"stall_ms": _spread(made.stalls, 1e3), "own_ms": _spread(made.own, 1e3)}
        if made.meanwhile:
            rows[name] |= {"step_ms": statistics.median(made.steps) * 1e3, "meanwhile": _spread(made.meanwhile)}
    if args.json:
        size = sum(t.nbytes for t in state().values()) / 2**20
        print(json.dumps({"mib": size, "threads": args.threads, "rows": rows}))
        return
    print(f"stall of the loop in ms over {args.checkpoints} checkpoints, {args.threads} thread(s): median [min, max]")
    for name, row in rows.items():
        (low, middle, high), own = row["stall_ms"], row["own_ms"][1]
        steps = ""
        if "meanwhile" in row:
            least, ratio, most = row["meanwhile"]
            steps = f"   steps meanwhile {ratio:.3f}x [{least:.3f}, {most:.3f}] of {row['step_ms']:.1f} ms"
        print(f"{name:32s} {middle:7.1f} [{low:.1f}, {high:.1f}]   own time {own:6.1f}{steps}")


def _spread(values: list[float], scale: float = 1.0) -> list[float]:
    return [scale * found(values) for found in (min, statistics.median, max)]


if __name__ == "__main__":
    main()
