"""How worker processes begin: from one that has loaded torch already, where the system can fork, else from nothing.

A fresh process takes two seconds to load torch, and each of several its own. A server that loads it once, beside the
study's process which does the same meanwhile, gives every worker in hundredths of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing import connection
from multiprocessing.context import BaseContext

#: What the server loads before it is asked for a process.
_PRELOAD = ["torch", "regimes.study.pool", "regimes.study.own", "regimes.study.specs"]
_forks = sys.platform == "linux"
_begun = False


def prepare(processes: int | None = None) -> None:
    """Start the server, so that it loads torch while this process does something else.

    Parameters
    ----------
    processes : int, optional
        How many are going to be asked for; default: perhaps as many as there are cores. With one, nothing is started.
    """
    global _begun
    if _begun or not _forks or (cores_here() if processes is None else processes) < 2:
        return
    from multiprocessing import forkserver

    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOAD)
    forkserver.ensure_running()
    _begun = True


def prepared() -> bool:
    """Return whether processes come from a server that is running."""
    return _begun


def context(processes: int) -> BaseContext:
    """Return in what way so many processes begin: from the server where torch is loaded here too, else from nothing."""
    if "torch" in sys.modules:
        prepare(processes)
    return multiprocessing.get_context("forkserver" if _begun else "spawn")


def cores_here() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """End at once, from now on, when the process ends that asked for this one: a killed parent cannot tell its workers to stop.

    What was running is as after a kill: the next call goes on from its last checkpoint.
    """
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
