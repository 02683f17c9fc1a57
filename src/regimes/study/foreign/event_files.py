"""TensorBoard's event files: a folder per run, curves as scalars, hyperparameters where they were logged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from regimes.study.foreign.rows import cell
from regimes.study.foreign.trackers import Kept

_START, _END = "_hparams_/session_start_info", "_hparams_/session_end_info"


def places(path: Path) -> Iterator[Path]:
    """Yield the folders that hold event files; those that wandb keeps a copy of are its own."""
    files = [path] if path.is_file() else sorted(path.rglob("*tfevents*"))
    for folder in dict.fromkeys(file.parent for file in files if "tfevents" in file.name):
        if not any(any(above.glob("run-*.wandb")) for above in (folder, *folder.parents)):
            yield folder


def read(folders: Sequence[Path], root: Path) -> list[Kept]:
    """Return the run of every folder, called as its folder below the root.

    Several values of one step are one value: the last that was written. What a restart wrote again counts once.
    """
    return [_run(folder, root) for folder in folders]


def _run(folder: Path, root: Path) -> Kept:
    events = _loaded(folder)
    name = folder.relative_to(root).as_posix() if folder != root else folder.resolve().name
    kept = Kept(name, _config(events))
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            kept.points.setdefault(event.step, {})[tag] = event.value
    for tag in events.Tags()["tensors"]:
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            for event in events.Tensors(tag):
                kept.points.setdefault(event.step, {})[tag] = _number(event.tensor_proto)
    ended = events.summary_metadata
    if _START in ended and _END not in ended:
        kept.unfinished = "it began a session and did not end it"
    return kept


def _loaded(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def _number(tensor: Any) -> float:
    from tensorboard.util import tensor_util

    return float(tensor_util.make_ndarray(tensor).item())


def _config(events: Any) -> dict[str, Any]:
    """The hyperparameters that the session began with."""
    if _START not in events.summary_metadata:
        return {}
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    data = HParamsPluginData.FromString(events.summary_metadata[_START].plugin_data.content)
    found = {}
    for name, value in data.session_start_info.hparams.items():
        kind = value.WhichOneof("kind")
        number: Any = getattr(value, kind) if kind else None
        whole = isinstance(number, float) and number.is_integer()  # protobuf's numbers are all floats
        found[name] = int(number) if whole else cell(number) if isinstance(number, str) else number
    return found


def last_step(folder: Path) -> int:
    """Return the last step that a folder's event files hold, -1 for none."""
    return max(_run(folder, folder).points, default=-1)
