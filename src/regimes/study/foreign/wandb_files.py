"""The transaction logs (``run-*.wandb``) that Weights & Biases keeps on this machine, offline runs above all.

A log is a chain of records in blocks of 32 KiB, as LevelDB writes them: checksum (4 bytes), length (2), kind (1: whole,
2: first, 3: middle, 4: last part), content; seven bytes stand before the first. Records are wandb's own messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError
from regimes.study.foreign.rows import flat
from regimes.study.foreign.trackers import Kept

_BLOCK, _HEAD = 32768, 7
_MAGIC = b":W&B"


def places(path: Path) -> Iterator[Path]:
    """Yield the logs of a folder, in the order in which they were begun."""
    files = [path] if path.is_file() else path.rglob("run-*.wandb")
    yield from sorted(file for file in files if file.suffix == ".wandb" and not file.parent.is_symlink())


def read(files: Sequence[Path], root: Path) -> list[Kept]:
    """Return the runs of logs, as they began; several logs of one id are one run that was resumed.

    Raises
    ------
    DeclarationError
        If a file is no such log.
    """
    runs: dict[str, tuple[int, Kept]] = {}
    for file in files:
        _add(runs, file)
    return [run for _, run in sorted(runs.values(), key=lambda found: found[0])]


def _add(runs: dict[str, tuple[int, Kept]], file: Path) -> None:
    """Add what a log holds to its run, with the time at which that began, in nanoseconds."""
    from wandb.proto.wandb_internal_pb2 import Record

    name = file.stem.removeprefix("run-")
    begun, run = runs.get(name, (file.stat().st_mtime_ns, Kept(name)))
    ended = "it wrote no end; it is running, or was killed"
    for content in _records(file):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            begun = min(begun, record.run.start_time.ToNanoseconds())
            run.name = record.run.display_name or name
            _update(run.config, record.run.config.update)
        elif kind == "config":
            _update(run.config, record.config.update)
        elif kind == "history":
            _point(run, record.history)
        elif kind == "exit":
            code = record.exit.exit_code
            ended = "" if code == 0 else f"it ended with exit code {code}"
    run.unfinished = ended or None
    runs[name] = begun, run


def _update(config: dict[str, Any], items: Any) -> None:
    for item in items:
        name = item.key or ".".join(item.nested_key)
        value = json.loads(item.value_json)
        if name != "_wandb":
            config |= flat({name: value})


def _point(run: Kept, history: Any) -> None:
    values = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in history.item}
    step = history.step.num if history.HasField("step") else values.get("_step", 0)
    values = flat(values)
    media = tuple(name.removesuffix("_type") for name in values if name.endswith("._type"))  # tables, images
    plain = {name: value for name, value in values.items() if not name.startswith(("_", *media))}
    numbers = {name: _number(value) for name, value in plain.items()}
    numbers = {name: value for name, value in numbers.items() if value is not None}
    if numbers:
        run.points.setdefault(int(step), {}).update(numbers)


def _number(value: Any) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else None


def _records(file: Path) -> Iterator[bytes]:
    """Yield whole records; a last one that was being written is passed over."""
    data = file.read_bytes()
    if data[:4] != _MAGIC:
        raise DeclarationError(f"'{file}' is no log of wandb", "frame")
    at, parts = _HEAD, b""
    while at + _HEAD <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEAD:  # the rest of a block is empty
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        content = data[at + _HEAD : at + _HEAD + length]
        if kind == 0 or len(content) < length:
            return
        at += _HEAD + length
        parts = content if kind in (1, 2) else parts + content
        if kind in (1, 4):
            yield parts


def last_step(home: Path, run_id: str) -> int:
    """Return the last step that the logs of a run hold, -1 for none."""
    mine = [file for file in places(home / "wandb") if file.stem == f"run-{run_id}"]
    return max((step for run in read(mine, home) for step in run.points), default=-1)
