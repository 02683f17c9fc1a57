"""Curves, parameters and the verdict in an MLflow store: that of MLFLOW_TRACKING_URI, else <home>/mlflow.db."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

#: A server that is gone is noticed in seconds, not in the ten minutes that are the default.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param


class Mlflow:
    def __init__(self, job: dict[str, Any], home: Path) -> None:
        given = os.environ.get("MLFLOW_TRACKING_URI")
        self.client = client = MlflowClient(given or f"sqlite:///{home}/mlflow.db")
        group, self.last = job["group"] or "regimes", -1
        there = client.get_experiment_by_name(group)
        place = None if given else (home / "mlflow-artifacts").as_uri()
        experiment = there.experiment_id if there else client.create_experiment(group, artifact_location=place)
        for run in client.search_runs([experiment], f"tags.`regimes.id` = '{job['id']}'"):
            self.id = run.info.run_id
            client.update_run(self.id, status="RUNNING")
            self.last = max((client.get_metric_history(self.id, n)[-1].step for n in run.data.metrics), default=-1)
            return
        tags = {"regimes.id": job["id"]}
        self.id = client.create_run(experiment, tags=tags, run_name=job["name"]).info.run_id
        params = [Param(_name(name), str(value)) for name, value in job["config"].items()]
        for start in range(0, len(params), 100):
            client.log_batch(self.id, params=params[start : start + 100])

    def log(self, points: list[Any]) -> None:
        now, batch = int(time.time() * 1000), list[Any]()
        for at, values in points:  # a point whole in one batch, which the store takes whole or not at all
            if len(batch) + len(values) > 1000:
                self.client.log_batch(self.id, metrics=batch)
                batch = []
            batch += [Metric(_name(name), value, now, at) for name, value in values.items()]
        self.client.log_batch(self.id, metrics=batch)

    def table(self, columns: list[str], rows: list[list[Any]], sentence: str) -> None:
        self.client.log_dict(self.id, {"columns": columns, "data": rows}, "verdict.json")
        self.client.set_tag(self.id, "mlflow.note.content", sentence)

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


def _name(text: str) -> str:
    return re.sub(r"[^\w\-. /]", "_", text)
