"""One command, run to its end in a folder of its own: nothing that it has done is lost, whoever is killed."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from regimes.core.errors import RegimesError
from regimes.core.files import write_json
from regimes.study.command import groups
from regimes.study.command.left import Left
from regimes.study.stopping import terminable

#: How often a command that runs is looked at.
POLL = 0.05
#: Seconds past its limit within which a command that nobody watches may still end.
_GRACE = 1.0


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Parameters
    ----------
    out : Path
        Its ``{out}``.
    code : int
        Its exit status.
    seconds : float
        From its start to its end.
    left : Left
        What it found in its folder.
    """

    out: Path
    code: int
    seconds: float
    left: Left


class Attempts:
    """The attempts at one run: each has a folder of its own, unless the script goes on by itself.

    Parameters
    ----------
    folder : Path
        Of the run.
    resumes : bool
        Whether the script goes on from what lies in its folder: an attempt that was interrupted or failed is then gone
        on from.
    """

    def __init__(self, folder: Path, resumes: bool) -> None:
        self.folder, self.resumes = folder, resumes

    @contextlib.contextmanager
    def locked(self) -> Iterator[FileLock]:
        """Inside, no other process runs the command here; the command itself holds the lock for as long as it lives.

        So a command whose study was killed is waited for, and what it then has done is taken.

        Raises
        ------
        RegimesError
            If it runs longer than the time with which it began: it is ended then.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(self.folder / ".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{self.folder} is being run by another process; waiting for it", file=sys.stderr, flush=True)
            self._wait_for(lock)
        try:
            yield lock
        finally:
            lock.release()

    def _wait_for(self, lock: FileLock) -> None:
        while True:
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=4 * POLL, poll_interval=POLL)
                return
            out = self.newest()
            begun = {} if out is None else self._begun(out)
            limit, born = begun.get("timeout"), groups.born(begun["pid"]) if "pid" in begun else ""
            if out is not None and not born and "pid" in begun and self._file_of_end(out).exists():
                groups.end(begun["pid"])  # the command has ended, and left behind what holds its lock
            late = limit is not None and time.time() - begun["started"] > limit
            if late and born and born == begun["born"]:
                groups.end(begun["pid"])
                raise RegimesError(f"ran longer than {limit:g} s, and was ended by another call of its study")

    def _file_of_end(self, out: Path) -> Path:
        return self.folder / f"{out.name}.ended"

    def _begun(self, out: Path) -> dict[str, Any]:
        """What was noted when an attempt began."""
        file = self.folder / f"{out.name}.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found

    def newest(self) -> Path | None:
        """The newest attempt's folder."""
        folders = [path for path in self.folder.glob("attempt-*") if path.is_dir()]
        found = sorted(folders, key=lambda path: int(path.name.partition("-")[2]))
        return found[-1] if found else None

    def ended(self) -> Ended | None:
        """The newest attempt, where it has ended."""
        out = self.newest()
        if out is None:
            return None
        file = self._file_of_end(out)
        if not file.exists():
            return None
        code = int(file.read_text() or "1")
        begun = self._begun(out)
        seconds = max(file.stat().st_mtime - begun["started"], 0.0)
        if begun["timeout"] is not None and seconds > begun["timeout"] + _GRACE:
            return None  # it outlived its study, and its limit: it is no value, as if it had been ended
        return Ended(out, code, seconds, Left(begun["left"]))

    def next(self) -> Path:
        """The folder of the next attempt, made; what has ended well is not gone on from."""
        last, ended = self.newest(), self.ended()
        if last is not None and self.resumes and (ended is None or ended.code != 0):
            told = f"{last}: goes on from what it did before; a time limit counts from now"
            print(told, file=sys.stderr, flush=True)  # stdout is for what a study says at its end
            return last
        number = 1 if last is None else int(last.name.partition("-")[2]) + 1
        made = self.folder / f"attempt-{number}"
        made.mkdir()
        return made

    def run(self, line: str, out: Path, lock: FileLock, cwd: Path, limit: float | None) -> Ended:
        """Run a shell line to its end; what it prints stands in ``stdout.txt`` and ``stderr.txt`` of its folder.

        Raises
        ------
        RegimesError
            If it ran longer than `limit` seconds: it is ended then, and all that it has started.
        """
        began, note = time.time(), self.folder / f"{out.name}.json"
        left = Left.of(out)
        begun = {"line": line, "started": began, "cwd": str(cwd), "timeout": limit, "left": dict(left.files)}
        write_json(note, begun)
        ended = self._file_of_end(out)
        ended.unlink(missing_ok=True)
        # The exit status is written by the shell: it is known even where nobody waits for it any more.
        script = f'(\n{line}\n)\nprintf %s "$?" > "$0"\n'
        handle: Any = lock._context.lock_file_fd
        with open(out / "stdout.txt", "ab") as told, open(out / "stderr.txt", "ab") as errors:
            process = subprocess.Popen(
                ["/bin/sh", "-c", script, str(ended.resolve())],
                cwd=cwd, stdin=subprocess.DEVNULL, stdout=told, stderr=errors, start_new_session=True,
                pass_fds=(handle,),
            )  # fmt: skip
        with terminable():
            try:
                write_json(note, begun | {"pid": process.pid, "born": groups.born(process.pid)})
                self._wait(process, began, limit)
            except BaseException:
                groups.end(process.pid)
                raise
            finally:
                process.wait()
        code = int(ended.read_text()) if ended.exists() else process.returncode
        return Ended(out, code, time.time() - began, left)

    def _wait(self, process: subprocess.Popen[bytes], began: float, limit: float | None) -> None:
        while process.poll() is None:
            if limit is not None and time.time() - began > limit:
                raise RegimesError(f"ran longer than {limit:g} s, and was ended")
            time.sleep(POLL)


def tail(path: Path, lines: int = 3) -> str:
    """Return the last lines of a file that say something.

    Examples
    --------
    >>> tail(Path("no such file"))
    ''
    """
    if not path.exists():
        return ""
    said = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return " / ".join(said[-lines:])[:500]
