"""Curves, configuration and the verdict in Trackio's local files: TRACKIO_DIR, else <home>/trackio."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Trackio:
    def __init__(self, job: dict[str, Any], home: Path) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(home / "trackio"))  # it is read when trackio is imported
        import trackio

        self.client = trackio
        project = os.environ.get("TRACKIO_PROJECT") or job["group"] or "regimes"
        self.run = trackio.init(
            project, name=f"{job['name']}-{job['id'][:6]}", group=job["group"], config=job["config"], resume="allow",
            embed=False, auto_log_cpu=False, auto_log_gpu=False,
        )  # fmt: skip
        self.last = self.run._next_step - 1

    def log(self, points: list[Any]) -> None:
        for at, values in points:
            self.run.log(values, step=at)

    def table(self, columns: list[str], rows: list[list[Any]], sentence: str) -> None:
        import pandas

        frame = pandas.DataFrame(rows, columns=columns)
        self.run.log({"verdict": self.client.Table(dataframe=frame), "sentence": sentence})

    def close(self, finished: bool) -> None:
        self.run.finish()
