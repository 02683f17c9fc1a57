"""Files of ours are whole at every moment: written under another name, forced to disk, renamed once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from regimes.core.errors import ResumeError


def sync(path: Path) -> None:
    """Force a file or directory to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically and to disk."""
    part = path.with_name(f".part-{path.name}-{os.getpid()}")
    part.write_text(_lines(content, "\n") + "\n")
    sync(part)
    part.replace(path)
    sync(path.parent)


def _lines(content: Any, end: str) -> str:
    """JSON with a line for every member and item; numbers of one list stand in one, which json writes at its full speed."""
    within = f"{end} "
    if isinstance(content, dict) and content and all(type(name) is str for name in content):
        members = (f"{json.dumps(name)}: {_lines(value, within)}" for name, value in content.items())
        return f"{{{within}{f',{within}'.join(members)}{end}}}"
    if isinstance(content, list | tuple) and not {*map(type, content)} <= {int, float, type(None)}:
        return f"[{within}{f',{within}'.join(_lines(item, within) for item in content)}{end}]"
    return json.dumps(content)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of ours.

    Raises
    ------
    ResumeError
        If it is not whole.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as why:
        raise ResumeError(f"{path} cannot be read ({why})") from None
    if not isinstance(content, dict):
        raise ResumeError(f"{path} is no file of ours")
    return content


def told_by(file: str | Path) -> dict[str, Any]:
    """Return the dict that a JSON file holds; nothing where there is no such file, or it holds something else."""
    try:
        with open(file, "rb") as stream:
            content = json.loads(stream.read())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
