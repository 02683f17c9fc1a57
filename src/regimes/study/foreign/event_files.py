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

    Several values of one step are one value: the last that was written. A restart that says so (``purge_step``) takes
    back all that was written from its step on, as in TensorBoard; where a later file says nothing, each of its curves
    counts from its own first step on, and that is noted.
    """
    return [_run(folder, root) for folder in folders]


def _run(folder: Path, root: Path) -> Kept:
    name = folder.relative_to(root).as_posix() if folder != root else folder.resolve().name
    told = _Told()
    for file in sorted(file for file in folder.glob("*tfevents*") if file.is_file()):  # TensorBoard's order too
        told.add(file)
    kept = Kept(name, told.config)
    for tag, curve in told.curves.items():
        for step, value in curve.items():
            kept.points.setdefault(step, {})[tag] = value
    if told.ended is False:
        kept.unfinished = "it began a session and did not end it"
    if told.rewritten:
        since = ", ".join(f"{tag} from step {step} on" for tag, step in told.rewritten.items())
        kept.note = f"run '{name}' was written by several event files, of which the last counts: {since}"
    return kept


class _Told:
    """What the event files of a folder tell, one after another.

    `rewritten` has the curves that a file began again without saying that it is a restart, and from which step on.
    """

    def __init__(self) -> None:
        self.curves: dict[str, dict[int, float]] = {}
        self.config: dict[str, Any] = {}
        self.ended: bool | None = None
        self.rewritten: dict[str, int] = {}

    def add(self, file: Path) -> None:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.compat.proto.event_pb2 import SessionLog

        plugins: dict[str, str] = {}  # only the first value of a tag says of which plugin it is
        begun: set[str] = set()
        for event in EventFileLoader(str(file)).Load():
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                for tag in self.curves:
                    self._cut(tag, event.step)
            for value in event.summary.value:
                if value.HasField("metadata"):
                    plugins[value.tag] = value.metadata.plugin_data.plugin_name
                    self._session(value)
                if plugins.get(value.tag) == "scalars" and value.HasField("tensor"):
                    self._point(value.tag, event.step, _number(value.tensor), value.tag not in begun)
                    begun.add(value.tag)

    def _point(self, tag: str, step: int, value: float, first: bool) -> None:
        if first and self._cut(tag, step):
            self.rewritten[tag] = min(step, self.rewritten.get(tag, step))
        self.curves.setdefault(tag, {})[step] = value

    def _cut(self, tag: str, step: int) -> bool:
        """Take back what a curve had from a step on; whether there was anything."""
        curve = self.curves.get(tag, {})
        late = [at for at in curve if at >= step]
        for at in late:
            del curve[at]
        return bool(late)

    def _session(self, value: Any) -> None:
        if value.tag == _START:
            self.config, self.ended = _config(value.metadata.plugin_data.content), False
        elif value.tag == _END:
            self.ended = True


def _number(tensor: Any) -> float:
    from tensorboard.util import tensor_util

    return float(tensor_util.make_ndarray(tensor).item())


def _config(content: bytes) -> dict[str, Any]:
    """The hyperparameters that a session began with."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    found = {}
    for name, value in HParamsPluginData.FromString(content).session_start_info.hparams.items():
        kind = value.WhichOneof("kind")
        number: Any = getattr(value, kind) if kind else None
        whole = isinstance(number, float) and number.is_integer()  # protobuf's numbers are all floats
        found[name] = int(number) if whole else cell(number) if isinstance(number, str) else number
    return found


def last_step(folder: Path) -> int:
    """Return the last step that a folder's event files hold, -1 for none."""
    return max(_run(folder, folder).points, default=-1)
