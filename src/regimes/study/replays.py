"""Replay: any window of a run again, to the bit, with heavy instruments on."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from regimes.core.errors import DeclarationError, show
from regimes.engine import replay as engine
from regimes.engine import trees
from regimes.engine.result import RunResult
from regimes.engine.stored import Again, Stored
from regimes.engine.workload import Workload
from regimes.study.branches import beside, probe_of, step_of
from regimes.study.stored import opened, threads_of


class Replay(NamedTuple):
    """What a replay found.

    Parameters
    ----------
    folder : Path
        ``records.jsonl`` (byte for byte the run's), ``instruments.jsonl``, ``replay.json``; with `without` also
        ``without/``, a run's folder that `regimes resume` goes on with.
    steps : tuple of int
        The first, and the one after the last.
    trained_again : tuple of int
        From which step to which the run was made again to get there.
    rows : list of dict
        One a step: ``loss``, ``gradient_norm``, ``gradient``, ``weight`` and ``growth`` by layer, ``examples``
        (name and loss, the largest first), ``probes``.
    without : dict or None
        ``examples``, ``losses`` by step, and the ``distance`` of the weights afterwards, by layer and in all ("").
    """

    folder: Path
    steps: tuple[int, int]
    trained_again: tuple[int, int]
    rows: list[dict[str, Any]]
    without: dict[str, Any] | None

    def told(self) -> dict[str, Any]:
        """Return it as plain data."""
        return self._asdict() | {"folder": str(self.folder)}


def replay(
    run: str | Path | RunResult,
    steps: tuple[int, int] | range | int | str,
    probes: Sequence[Any] = (),
    *,
    without: Sequence[Any] = (),
    out: str | Path | None = None,
    workload: Workload | None = None,
    progress: Callable[[int], None] | None = None,
) -> Replay:
    """Make a window of a run again with instruments on, and hold every record against the stored one.

    The run is taken up at the nearest checkpoint at or before the window, else at its beginning, and made again from
    there. Gradient norms, norms of layers and the losses of all examples are always measured, at the weights with
    which a step begins and in its own batch; `probes` measure after it, each step if they name no cadence. Nothing of
    this changes a bit of what is made, and a record that is not byte for byte the stored one is refused. The run's own
    folder is only read.

    Parameters
    ----------
    run : path or RunResult
        The run's folder, or what `regimes.run` returned.
    steps : tuple of int, range, int or str
        The first step and the one after the last, as Python counts: ``(4120, 4135)`` or ``"4120:4135"``; or one step.
    probes : sequence of Probe or str
        Instruments: ``"sharpness"``, ``"ExampleLoss(hardest=5)"``, ``rg.LayerNorms()``.
    without : sequence of int or str
        Examples to leave out: their number, or ``"source:number"`` where there are several sources. The window is made
        once more without them, as a fork, from the same state.
    out : path, optional
        Where to. Default: beside the run, called by the window and what is on.
    workload : Workload, optional
        Where the run's folder does not say how it is built.
    progress : callable, optional
        Called with each step that is made.

    Returns
    -------
    Replay

    Raises
    ------
    DeclarationError
        If there are no records of the window, an instrument is none, or an example is in none of its batches.
    ResumeError
        If the run cannot be made again to the bit here: naming the first step and field that differ.

    Examples
    --------
    >>> import tempfile, regimes as rg
    >>> regime = rg.Regime(optimizer=rg.SGD(lr=rg.Linear(0.1)), batch_size=4, budget="20 steps")
    >>> made = rg.run(rg.workloads.load("quadratic"), regime, out=f"{tempfile.mkdtemp()}/base")
    >>> found = rg.replay(made, "12:14", ["weight_norm"])
    >>> [row["step"] for row in found.rows], [row["loss"] for row in found.rows] == [
    ...     record["loss"] for record in made.records[12:14]]
    ([12, 13], True)
    """
    instruments, examples = [probe_of(probe) for probe in probes], _examples(without)
    start, stop = window_of(steps)
    stored = opened(run, workload)
    declared = {
        "run": str(stored.path.absolute()),
        "key": stored.declared["key"],
        "steps": [start, stop],
        "probes": [repr(probe) for probe in instruments],
        "without": examples,
    }
    digest = hashlib.sha256(repr(declared).encode()).hexdigest()[:6]
    folder = Path(out) if out is not None else beside(stored.path, f"replay{start}-{stop}-{digest}")
    with threads_of(stored):
        return _made(stored, (start, stop), instruments, examples, folder, declared, progress or (lambda step: None))


def _made(
    stored: Stored, steps: tuple[int, int], probes: list[Any], examples: list[str], folder: Path,
    declared: dict[str, Any], tick: Callable[[int], None],
) -> Replay:  # fmt: skip
    (start, stop), end = steps, stored.end()
    if stop > end:
        raise DeclarationError(
            f"got {start}:{stop}; allowed: steps {stored.first} to {end - 1}, of which there are records in {stored.path}",
            "steps",
        )
    again = stored.again(start, "steps")
    engine.open_folder(folder, declared)
    begun = again.begun
    run = _reached(again, start, tick)
    tree, offset = trees.clone(run.tree()), again.offset
    lines, rows = list[bytes](), list[dict[str, Any]]()
    for line, facts in engine.window(again, start, stop, probes):
        lines.append(line)
        if facts is not None:
            rows.append(facts)
            tick(facts["step"])
    found = Replay(folder, steps, (begun, start), rows, None)
    engine.write(folder, lines, rows, _facts(found, declared))
    if examples:
        left = engine.Left(stored, tree, start, stop, examples)
        losses = left.losses()
        compared = [{"step": row["step"], "loss": row["loss"], "without": losses.get(row["step"])} for row in rows]
        told = {"examples": examples, "losses": compared, "distance": left.distance(again.run)}
        left.plant(stored, folder / "without", start, offset, stored.declared["workload_spec"])
        found = found._replace(without=told)
        engine.write(folder, lines, rows, _facts(found, declared))
    return found


def _facts(found: Replay, declared: dict[str, Any]) -> dict[str, Any]:
    return {"declared": declared} | {name: value for name, value in found.told().items() if name != "rows"}


def _reached(again: Again, step: int, tick: Callable[[int], None]) -> Any:
    for each in itertools.count(again.begun):
        if each >= step:
            return again.until(step)
        again.until(each)
        tick(each)
    raise AssertionError("unreachable")


def window_of(steps: Any) -> tuple[int, int]:
    """Read a window: the first step, and the one after the last.

    Raises
    ------
    DeclarationError
        For what is none.

    Examples
    --------
    >>> window_of("4120:4135"), window_of(range(3, 5)), window_of(7)
    ((4120, 4135), (3, 5), (7, 8))
    """
    found = steps
    if isinstance(steps, str):
        parts = steps.split(":")
        found = tuple(int(part) for part in parts) if all(part.strip().isdecimal() for part in parts) else steps
        found = found[0] if len(parts) == 1 and isinstance(found, tuple) else found
    if isinstance(found, range) and found.step == 1:
        found = (found.start, found.stop)
    if isinstance(found, int) and not isinstance(found, bool):
        found = (found, found + 1)
    if (
        not isinstance(found, tuple)
        or len(found) != 2
        or not 0 <= step_of("steps", found[0]) < step_of("steps", found[1])
    ):
        raise DeclarationError(
            f"got {show(steps)}; allowed: the first step and the one after the last, for example 4120:4135", "steps"
        )
    return found


def _examples(without: Any) -> list[str]:
    given = [without] if isinstance(without, str | int) else list(without)
    for example in given:
        text = str(example)
        if isinstance(example, bool) or not text.rpartition(":")[2].isdecimal():
            raise DeclarationError(
                f"got {show(example)}; allowed: the number of an example, or source:number", "without"
            )
    return [str(example) for example in given]
