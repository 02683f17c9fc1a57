"""What came of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from regimes.core import display
from regimes.core.files import read_json
from regimes.engine import records as records_on_disk
from regimes.engine.folder import Folder
from regimes.engine.run import Run
from regimes.engine.work import Work


class RunResult:
    """Metrics, records and the trained model of one run.

    Parameters
    ----------
    metrics : dict of str to float
        ``val/loss`` and so on, at the judged weights.
    weights : str
        Which weights were judged: "raw", "averaged" or "evaluation".
    records : list of dict
        One a step; those of trials are apart, in ``trial_records``.
    work : Work
        What it spent.
    seconds : float
        Measured.
    folder : Path or None
        Where it lies.
    """

    def __init__(
        self,
        run: Run,
        metrics: dict[str, float],
        weights: str,
        records: list[dict[str, Any]],
        work: Work,
        seconds: float,
        folder: Path | None,
        notes: list[str],
    ) -> None:
        self.samples, self.tokens = run.frame.samples, run.frame.tokens
        self._run, self.metrics, self.weights = run, metrics, weights
        self.records = [row for row in records if "trial" not in row]
        self.trial_records = [row for row in records if "trial" in row]
        self.work, self.seconds, self.folder, self.notes = work, seconds, folder, list(notes)
        self.regime, self.workload, self.seed = run.regime, run.workload, run.seed
        if self.skipped:
            self.notes.append(
                f"{self.skipped} of {self.steps} steps were skipped: loss or gradient was not finite, or a guard left "
                "them out, and nothing was updated"
            )
        average = run.regime.phases[-1].average
        if average is not None and weights != "averaged":
            self.notes.append(f"{average!r} took no weights in the last phase: the trained ones were judged")

        failing = [row["probe_error"] for row in self.records if "probe_error" in row]
        if failing:
            self.notes.append(f"after {len(failing)} steps a probe failed; first: {failing[0]}")

    @classmethod
    def of(cls, run: Run, kept: list[Any], folder: Folder | None, seconds: float, notes: list[str]) -> RunResult:
        """Build the result of a run that has just ended, or that was finished before."""
        if folder is None:
            from regimes.engine.api import final_metrics

            plain = [_as_dict(record) for record in kept]
            metrics = final_metrics(run, kept[-1] if kept else None)
            return cls(run, metrics, run.judged_weights()[1], plain, run.work, seconds, None, notes)
        result = folder.result or {}
        found, said = records_on_disk.read(folder.path)
        work = Work.restored(result["work"])
        run.frame.samples, run.frame.tokens = result["samples"], result["tokens"]
        return cls(
            run,
            result["metrics"],
            result["weights"],
            found,
            work,
            records_on_disk.seconds(folder.path),
            folder.path,
            [*notes, *said],
        )

    @property
    def lineage(self) -> dict[str, Any] | None:
        """Of a fork: of which run it is (``folder``), at which step (``at``), and what changed there; else None."""
        return None if self.folder is None else read_json(self.folder / "run.json").get("lineage")

    @property
    def steps(self) -> int:
        """Steps trained."""
        return len(self.records)

    @property
    def skipped(self) -> int:
        """Steps among them that were skipped: not finite, or left out by a guard; nothing was updated."""
        return sum("skipped" in row for row in self.records)

    @property
    def model(self) -> nn.Module:
        """The model with the judged weights, in evaluation mode."""
        from regimes.engine import seam

        run = self._run
        if self.folder is not None:
            from safetensors.torch import load_file

            model = seam.replay_structure(run.workload.build(0), run.regime, len(run.phases) - 1)
            model.load_state_dict(load_file(self.folder / "final" / "model.safetensors"))
            return model.eval()
        weights, _ = run.judged_weights()
        if weights is not None:
            with torch.no_grad():
                for name, value in weights.items():
                    run.parameters[name].copy_(value)
        return run.model.eval()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        where = f", {self.folder}" if self.folder else ""
        steps = f"{self.steps} steps" + (f", {self.skipped} of them skipped" if self.skipped else "")
        return f"RunResult({self.workload.name}, seed {self.seed}, {steps}, {shown} ({self.weights} weights){where})"

    _repr_html_ = display.html


def _as_dict(record: Any) -> dict[str, Any]:
    at = record.at
    base = {
        "step": at.step,
        "phase": record.phase,
        "samples": at.samples,
        "tokens": at.tokens,
        "knobs": record.knobs,
    }
    return base | record.signals
