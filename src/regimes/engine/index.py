"""An SQLite index beside the run folders: they are the truth, the index makes listing quick, and can be rebuilt."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from regimes.core.errors import ResumeError

_SCHEMA = """CREATE TABLE IF NOT EXISTS runs (path TEXT PRIMARY KEY, key TEXT, workload TEXT, regime TEXT, seed INTEGER,
status TEXT, step INTEGER, metrics TEXT, created TEXT)"""
COLUMNS = ("path", "key", "workload", "regime", "seed", "status", "step", "metrics", "created")


def _open(root: Path) -> sqlite3.Connection:
    root.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(root / "index.sqlite", timeout=30.0, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute(_SCHEMA)
    return connection


def update(root: Path, run_path: Path, **facts: Any) -> None:
    """Insert or change one run's row; safe for several processes, and never a reason to fail a run."""
    row = {"path": str(run_path), **facts}
    row["metrics"] = json.dumps(row.get("metrics") or {})
    names = [name for name in COLUMNS if name in row]
    sql = (
        f"INSERT INTO runs ({', '.join(names)}) VALUES ({', '.join('?' for _ in names)}) "
        f"ON CONFLICT(path) DO UPDATE SET {', '.join(f'{n}=excluded.{n}' for n in names)}"
    )
    try:
        with closing(_open(root)) as connection:
            connection.execute(sql, [row[name] for name in names])
    except sqlite3.Error:
        # The folders are the truth; a locked or broken index is rebuilt by `regimes index`.
        return


def rows(root: Path) -> list[dict[str, Any]]:
    """Return all rows, newest first."""
    if not (root / "index.sqlite").exists():
        return []
    with closing(_open(root)) as connection:
        found = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM runs ORDER BY created DESC, path").fetchall()
    return [dict(zip(COLUMNS, row)) | {"metrics": json.loads(row[COLUMNS.index("metrics")] or "{}")} for row in found]


def rebuild(root: Path) -> int:
    """Write the index anew from the run folders below `root`; return how many there are."""
    from regimes.core.files import read_json

    for file in root.glob("index.sqlite*"):
        file.unlink()
    count = 0
    for declared in sorted(root.rglob("run.json")):
        folder = declared.parent
        try:
            update(root, folder, **facts_of(read_json(declared), folder))
        except (ResumeError, KeyError):
            continue
        count += 1
    return count


def facts_of(declared: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what a run folder says: the columns of its row, and how many steps were skipped (None before its end)."""
    from regimes.core.files import read_json
    from regimes.engine import checkpoint

    done = folder / "result.json"
    result = read_json(done) if done.exists() else None
    newest = next(iter(checkpoint.names(folder / "checkpoints")), "step-0")
    return {
        "key": declared["key"],
        "workload": declared["workload"],
        "regime": declared["regime"],
        "seed": declared["identity"]["seed"],
        "status": "finished" if result else "stopped",
        "step": result["step"] if result else int(newest.split("-")[-1]),
        "skipped": (result or {}).get("skipped"),
        "metrics": (result or {}).get("metrics"),
        "created": declared["created"],
    }
