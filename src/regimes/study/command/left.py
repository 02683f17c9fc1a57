"""What an earlier attempt left in a folder: a script that goes on by itself finds it there, and it must not count twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Endings of what is appended to, so that it may hold something old before something new.
_APPENDED = (".txt", ".log", ".jsonl", ".ndjson", ".csv")


@dataclass(frozen=True)
class Left:
    """The files of a folder as an attempt finds them when it begins; nothing where the folder is new.

    A file counts for the attempt if it was written since: its size, its time or the file itself has changed. Of a file
    that was appended to, the lines that were there before do not count.

    Parameters
    ----------
    files : mapping of str to dict
        By path: ``size``, ``time`` (ns), ``inode``, and of what is appended to the ``digest`` of its content.
    """

    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Left:
        """Look at a folder."""
        return cls({str(path): _seen(path) for path in sorted(folder.rglob("*")) if path.is_file()})

    def unchanged(self, path: Path) -> bool:
        """Whether a file is as it was."""
        before = self.files.get(str(path))
        if before is None or not path.is_file():
            return False
        now = path.stat()
        return (before["size"], before["time"], before["inode"]) == (now.st_size, now.st_mtime_ns, now.st_ino)

    def beyond(self, path: Path) -> bytes:
        """Return the content of a file without what was there before, where it still begins with that."""
        content, before = path.read_bytes(), self.files.get(str(path), {})
        size = before.get("size", 0)
        return content[size:] if size and _digest(content[:size]) == before.get("digest") else content


def _seen(path: Path) -> dict[str, Any]:
    now = path.stat()
    seen = {"size": now.st_size, "time": now.st_mtime_ns, "inode": now.st_ino}
    return seen | ({"digest": _digest(path.read_bytes())} if path.suffix in _APPENDED else {})


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
