"""The courier's process: takes a job on stdin, carries points until it hears how the run ended, answers on stdout."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from filelock import FileLock

from regimes.track.tail import Tail


def main() -> None:
    """Do one job."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what trackers print is for the log
    job = json.loads(sys.stdin.readline())
    home = Path(job["home"])
    home.mkdir(parents=True, exist_ok=True)
    error = None
    try:
        # One courier at a time: that of a run that was killed may still be carrying what it had written.
        with FileLock(f"{job['folder']}/.tracked-{job['tracker'].rpartition(':')[2]}.lock"):
            carry(job, home)
    except Exception as why:
        error = f"{type(why).__name__}: {str(why).splitlines()[0][:300] if str(why) else 'no words'}"
        traceback.print_exc()
    answer.write(json.dumps({"error": error}))
    answer.flush()
    os._exit(0)  # a tracker's threads that still try would keep the process


def carry(job: dict[str, Any], home: Path) -> None:
    """Open the tracker and carry to it what there is."""
    module, _, name = job["tracker"].partition(":")
    with FileLock(str(home / f".{name}.lock")):  # stores are made, and migrated, by one process
        tracker = getattr(importlib.import_module(module), name)(job, home)
    if job["kind"] == "verdict":
        tracker.table(job["columns"], job["rows"], job["sentence"])
        tracker.close(True)
        return
    ended, word = threading.Event(), [""]

    def listen() -> None:
        word[0] = sys.stdin.readline().strip()
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    tail = Tail(Path(job["folder"]), job["axis"], job["rates"], ended.is_set)
    for points in tail.batches():
        new = [point for point in points if point.at > tracker.last]
        if new:
            tracker.log(new)
    last = tail.end() if word[0] == "finished" else None
    if last is not None and last.at > tracker.last:
        tracker.log([last])
    tracker.close(word[0] == "finished")


if __name__ == "__main__":
    main()
