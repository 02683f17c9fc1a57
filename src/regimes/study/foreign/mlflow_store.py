"""An MLflow store: an SQLite file, or a folder ``mlruns``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from regimes.study.foreign.rows import cell
from regimes.study.foreign.sqlite import tables
from regimes.study.foreign.trackers import Kept

#: Parameters and tags of a run that say something of mlflow, not of the run.
_OWN = ("mlflow.", "regimes.")


def places(path: Path) -> Iterator[Path]:
    """Yield stores: SQLite files with mlflow's tables, and folders of its file store."""
    files = [path] if path.is_file() else sorted([*path.glob("*.db"), *path.glob("*.sqlite")])
    yield from (file for file in files if {"experiments", "runs", "latest_metrics"} <= tables(file))
    if path.is_dir():
        folders = [path, path / "mlruns"]
        yield from (folder for folder in folders if any(folder.glob("*/meta.yaml")))


def read(stores: Sequence[Path], root: Path) -> list[Kept]:
    """Return the runs that are not deleted; of several values of a metric at one step, the last that was logged."""
    return [run for store in stores for run in _runs(store)]


def _runs(store: Path) -> Iterator[Kept]:
    import os

    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a store of files is only read here
    from mlflow import MlflowClient

    place = store.resolve()
    client = MlflowClient(f"sqlite:///{place}" if place.is_file() else place.as_uri())
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    token: Any = None
    while experiments:
        page = client.search_runs(experiments, order_by=["attributes.start_time ASC"], page_token=token)
        yield from (_run(client, run) for run in page)
        token = page.token
        if not token:
            return


def _run(client: Any, run: Any) -> Kept:
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith(_OWN)}
    status = run.info.status
    kept = Kept(run.info.run_name or run.info.run_id, {n: cell(v) for n, v in (tags | run.data.params).items()})
    kept.unfinished = None if status == "FINISHED" else f"mlflow calls it {status}"
    for name in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, name)
        for metric in sorted(history, key=lambda m: m.timestamp):
            kept.points.setdefault(metric.step, {})[name] = metric.value
    return kept
