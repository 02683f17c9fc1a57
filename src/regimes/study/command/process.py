"""One command, run to its end in a folder of its own: nothing that it has done is lost, whoever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from regimes.core.errors import RegimesError
from regimes.engine.folder import write_json
from regimes.study.stopping import terminable

#: Seconds that a command has after it was asked to end, before it is killed.
PATIENCE = 10.0
#: How often a command that runs is looked at.
POLL = 0.05


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Parameters
    ----------
    out : Path
        Its ``{out}``.
    code : int
        Its exit status.
    seconds : float
        From its start to its end.
    """

    out: Path
    code: int
    seconds: float


class Attempts:
    """The attempts at one run: each has a folder of its own, unless the script goes on by itself.

    Parameters
    ----------
    folder : Path
        Of the run.
    resumes : bool
        Whether the script goes on from what lies in its folder: then there is one attempt for all.
    """

    def __init__(self, folder: Path, resumes: bool) -> None:
        self.folder, self.resumes = folder, resumes

    @contextlib.contextmanager
    def locked(self) -> Iterator[FileLock]:
        """Inside, no other process runs the command here; the command itself holds the lock for as long as it lives.

        So a command whose study was killed is waited for, and what it then has done is taken.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(self.folder / ".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{self.folder} is being run by another process; waiting for it", flush=True)
            lock.acquire(poll_interval=0.2)
        try:
            yield lock
        finally:
            lock.release()

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
        file = self.folder / f"{out.name}.ended"
        if not file.exists():
            return None
        code = int(file.read_text() or "1")
        begun = json.loads((self.folder / f"{out.name}.json").read_text())
        return Ended(out, code, max(file.stat().st_mtime - begun["started"], 0.0))

    def next(self) -> Path:
        """The folder of the next attempt, made."""
        last = self.newest()
        if last is not None and self.resumes:
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
        began = time.time()
        write_json(self.folder / f"{out.name}.json", {"line": line, "started": began, "cwd": str(cwd)})
        ended = self.folder / f"{out.name}.ended"
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
        try:
            with terminable():
                self._wait(process, began, limit)
        except BaseException:
            _end(process)
            raise
        code = int(ended.read_text()) if ended.exists() else process.returncode
        return Ended(out, code, time.time() - began)

    def _wait(self, process: subprocess.Popen[bytes], began: float, limit: float | None) -> None:
        while process.poll() is None:
            if limit is not None and time.time() - began > limit:
                raise RegimesError(f"ran longer than {limit:g} s, and was ended")
            time.sleep(POLL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and all that it has started: asked first, then killed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


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
