"""SQLite files, only read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def tables(file: Path) -> set[str]:
    """Return the names of the tables of a file; none where it is no SQLite file.

    Examples
    --------
    >>> tables(Path("no such file"))
    set()
    """
    if not file.is_file():
        return set()
    with file.open("rb") as stream:
        if stream.read(16) != b"SQLite format 3\0":
            return set()
    return {name for (name,) in rows(file, "SELECT name FROM sqlite_master WHERE type = 'table'")}


def rows(file: Path, query: str) -> list[tuple[Any, ...]]:
    """Return what a query finds."""
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()
