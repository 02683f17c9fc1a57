"""An SQLite index in a folder of runs: what each said when it was read last, and by what a change of it is noticed.

The run folders are the truth. A row is believed only while the files that it was read from are the same to the inode, the
size and the times, so that nothing has to be told to it: what was deleted, edited, copied or trained on is read again.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from regimes.engine import standing

NAME = "index.sqlite"
#: Of the table below; an index of another version is written anew.
_VERSION = 2
_SCHEMA = "CREATE TABLE IF NOT EXISTS runs (name TEXT PRIMARY KEY, stamp TEXT NOT NULL, facts TEXT NOT NULL)"
#: A file that was changed so short a time ago (in seconds) may be changed again without a change of its times.
_FRESH = 2.0


class Index:
    """The index of a folder that holds runs, and what has to be written into it.

    Parameters
    ----------
    holder : str or Path
        The folder in which the runs' folders lie.
    """

    def __init__(self, holder: str | Path) -> None:
        self.holder = Path(holder)
        self._known, self._new = _read(self.holder), dict[str, tuple[str, str]]()

    def facts_of(self, name: str) -> dict[str, Any] | None:
        """Return what is known of a run as it stands, from the index where that is still true; see `standing.facts_of`.

        Parameters
        ----------
        name : str
            Of its folder.
        """
        folder = f"{self.holder}/{name}"
        if name in self._known:
            seen, text = self._known[name]
            facts: dict[str, Any] = json.loads(text)
            if seen == standing.stamp(folder, facts["status"] == "finished")[0]:
                return standing.now(folder, facts)
        row = _row(folder)
        if row is None:
            return None
        facts, seen, changed = row
        if changed < time.time() - _FRESH:
            self._new[name] = (seen, json.dumps(facts))
        return standing.now(folder, facts)

    def settle(self, names: Iterable[str] | None = None) -> None:
        """Write down what was read; where it cannot be, the next one reads it again.

        Parameters
        ----------
        names : iterable of str, optional
            The runs that there are: all others are forgotten.
        """
        gone = set() if names is None else self._known.keys() - set(names)
        if self._new or gone:
            _write(self.holder, self._new, gone)


def update(folder: Path) -> None:
    """Write down how a run stands that this process has trained; never a reason to fail a run."""
    folder = Path(os.path.abspath(folder))
    row = _row(folder)
    if row is not None:
        facts, seen, _ = row
        _write(folder.parent, {folder.name: (seen, json.dumps(facts))}, ())


def forget(holder: Path) -> None:
    """Delete the index of a folder."""
    for file in holder.glob(f"{NAME}*"):
        file.unlink(missing_ok=True)


def _row(folder: str | Path) -> tuple[dict[str, Any], str, float] | None:
    """What a run's folder says; of files as they were before they were read, so that a change meanwhile is noticed."""
    finished = os.path.exists(f"{folder}/result.json")
    seen, changed = standing.stamp(folder, finished)
    facts = standing.settled(folder)
    if facts is None:
        return None
    ended_as_seen = (facts["status"] == "finished") == finished
    return facts, seen, changed if ended_as_seen else time.time()


def _read(holder: Path) -> dict[str, tuple[str, str]]:
    """Stamps and facts by name; nothing where there is no index of this version that can be read."""
    file = holder / NAME
    if not file.is_file():
        return {}
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=1.0)) as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                return {}
            return {
                name: (seen, facts) for name, seen, facts in connection.execute("SELECT name, stamp, facts FROM runs")
            }
    except sqlite3.Error:
        return {}


def _write(holder: Path, new: Mapping[str, tuple[str, str]], gone: Iterable[str]) -> None:
    rows = [(name, *row) for name, row in new.items() if _is_text(name)]
    try:
        _change(holder, rows, gone)
    except sqlite3.OperationalError:
        return  # locked, or a folder that is only to be read
    except sqlite3.DatabaseError:
        # It is no index any more: one is begun anew.
        with contextlib.suppress(sqlite3.Error, OSError):
            forget(holder)
            _change(holder, rows, gone)


def _change(holder: Path, rows: list[tuple[str, str, str]], gone: Iterable[str]) -> None:
    with closing(sqlite3.connect(holder / NAME, timeout=10.0, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=NORMAL")
        if connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            # A write-ahead log, as earlier versions had it, is not to be read where nothing can be written.
            connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            connection.execute("DROP TABLE IF EXISTS runs")
            connection.execute(f"PRAGMA user_version={_VERSION}")
        connection.execute(_SCHEMA)
        connection.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", rows)
        connection.executemany("DELETE FROM runs WHERE name = ?", [(name,) for name in gone])
        connection.execute("COMMIT")


def _is_text(name: str) -> bool:
    """Whether a name can be written down: one of bytes that are no text cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
