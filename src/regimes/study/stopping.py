"""What a study does when it is told to end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from regimes.core.errors import Interrupted


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM stops the study as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Interrupted("stopped; the same call goes on with what is missing", 128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
