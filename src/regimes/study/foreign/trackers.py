"""What trackers keep, as rows: which tracker it is of is told by what lies there."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError
from regimes.study.foreign.rows import Rows

#: Reader of each tracker, and the package without which it cannot read.
READERS = {
    "wandb": ("regimes.study.foreign.wandb_files", "wandb"),
    "mlflow": ("regimes.study.foreign.mlflow_store", "mlflow"),
    "trackio": ("regimes.study.foreign.trackio_files", None),
    "tensorboard": ("regimes.study.foreign.event_files", "tensorboard"),
    "transformers": ("regimes.study.foreign.trainer_state", None),
}


@dataclass
class Kept:
    """One run, as its tracker keeps it.

    Parameters
    ----------
    name : str
    config : dict
        Values under their own names.
    points : dict
        Metrics by name, by step.
    unfinished : str or None
        What the tracker says of a run that did not end as it should; None where it ended, or nobody says.
    note : str or None
        What should be known of how it was read.
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    points: dict[int, dict[str, Any]] = field(default_factory=dict)
    unfinished: str | None = None
    note: str | None = None


def read(path: Path) -> Rows:
    """Read a file or folder of a tracker, or all that a pattern (``runs/*/trainer_state.json``) finds.

    Raises
    ------
    DeclarationError
        If nothing is of a tracker, or several are, or the package that reads it is not installed.
    """
    found = {name: places for name in READERS if (places := _places(name, path))}
    if not found:
        raise DeclarationError(
            f"got '{path}'; allowed: a file that ends in .csv, .tsv, .json or .jsonl, or what {', '.join(READERS)} keeps",
            "frame",
        )
    if len(found) > 1:
        told = "; ".join(f"of {name} {places[0]}" for name, places in found.items())
        raise DeclarationError(
            f"got '{path}', which holds files of several trackers ({told}); name one of them", "frame"
        )
    ((name, places),) = found.items()
    module, package = READERS[name]
    if package is not None and find_spec(package) is None:
        raise DeclarationError(f"'{path}' is read with {package}; install it with: pip install {package}", "frame")
    reader = importlib.import_module(module)
    return rows_of_runs(reader.read(places, root(path)), path.name or str(path))


def _places(name: str, path: Path) -> list[Path]:
    """Where files of a tracker lie."""
    import fnmatch

    reader = importlib.import_module(READERS[name][0])
    if path.exists():
        return list(reader.places(path))
    start = root(path)
    matching = sorted(p for p in start.rglob("*") if fnmatch.fnmatch(str(p), str(path))) if start != path else []
    return list(dict.fromkeys(place for p in matching for place in reader.places(p)))


def root(path: Path) -> Path:
    """Return a folder, a file's folder, or the part of a pattern before its first wildcard.

    Examples
    --------
    >>> str(root(Path("runs/*/trainer_state.json")))
    'runs'
    """
    parts = []
    for part in path.parts:
        if not path.exists() and any(sign in part for sign in "*?["):
            break
        parts.append(part)
    found = Path(*parts)
    return found.parent if found.is_file() else found


def rows_of_runs(runs: Sequence[Kept], name: str) -> Rows:
    """Return runs as rows of their points; a configured value that is called like a metric is told apart.

    Examples
    --------
    >>> found = rows_of_runs([Kept("a", {"loss": "ce", "seed": 1}, {5: {"loss": 2.0}})], "runs")
    >>> found.rows, found.step
    ([{'run': 'a', 'step': 5, 'config.loss': 'ce', 'seed': 1, 'loss': 2.0}], 'step')
    """
    runs = _by_name(runs)
    metrics = {"run", "step"} | {metric for run in runs for values in run.points.values() for metric in values}
    empty = [run.name for run in runs if not run.points and run.unfinished is None]
    rows: list[dict[str, Any]] = []
    for run in runs:
        own = {f"config.{key}" if key in metrics else key: value for key, value in run.config.items()}
        rows += [{"run": run.name, "step": at} | own | run.points[at] for at in sorted(run.points)]
        if not run.points and run.unfinished is not None:
            rows.append({"run": run.name, "step": None} | own)
    notes = (f"without any point, and left out: {', '.join(empty)}",) if empty else ()
    told = tuple(run.note for run in runs if run.note)
    return Rows(rows, name, "step", {run.name: run.unfinished for run in runs if run.unfinished}, (*notes, *told))


def _by_name(runs: Sequence[Kept]) -> list[Kept]:
    """The runs, those of one name numbered from the second on."""
    seen: Counter[str] = Counter()
    made = []
    for run in runs:
        seen[run.name] += 1
        name = run.name if seen[run.name] == 1 else f"{run.name} ({seen[run.name]})"
        made.append(replace(run, name=name))
    return made
