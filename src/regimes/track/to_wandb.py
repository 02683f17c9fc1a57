"""Curves, configuration and the verdict for Weights & Biases: offline, to be sent by ``wandb sync``, unless WANDB_MODE
says otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import wandb


class Wandb:
    def __init__(self, job: dict[str, Any], home: Path) -> None:
        from regimes.study.foreign.wandb_files import last_step

        mode = os.environ.get("WANDB_MODE", "offline")
        earlier = last_step(home, job["id"])
        quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True)
        self.run = wandb.init(
            dir=str(home), project=os.environ.get("WANDB_PROJECT", "regimes"), group=job["group"], name=job["name"],
            id=job["id"], config=job["config"], mode=mode, resume="allow" if mode == "online" else None, settings=quiet,
        )  # fmt: skip
        self.last = max(earlier, self.run.step - 1 if mode == "online" else -1)

    def log(self, points: list[Any]) -> None:
        for at, values in points:
            self.run.log(values, step=at)

    def table(self, columns: list[str], rows: list[list[Any]], sentence: str) -> None:
        self.run.log({"verdict": wandb.Table(columns=columns, data=rows)})
        self.run.summary["sentence"] = sentence

    def close(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)
