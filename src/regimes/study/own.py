"""A workload of ours as the subject of a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.paths import expand, get, walk
from regimes.core.progress import Progress
from regimes.core.regime import Regime
from regimes.engine import api
from regimes.engine.compile import compile_regime, epochs
from regimes.engine.identity import kept
from regimes.engine.run import Run
from regimes.engine.together import LARGEST
from regimes.engine.workload import Workload
from regimes.study.budgets import equal_budgets
from regimes.study.executed import execute
from regimes.study.ranges import Range, tuned
from regimes.study.subject import package_version
from regimes.study.tasks import TUNING_SEED, Outcome, Task, UnderWay


@dataclass(frozen=True)
class Own:
    """A workload of ours, trained by the engine.

    Parameters
    ----------
    workload : Workload
    options : dict
        Further arguments of `regimes.run`: ``validate``, ``workload_spec``, ``track`` (trackings).
    """

    workload: Workload
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The workload's."""
        return self.workload.name

    def fingerprint(self) -> dict[str, str]:
        """Digests of the data."""
        return self.workload.fingerprint()

    def facts(self, budget: str) -> dict[str, Any]:
        """Parameters of the model, and the scale in words."""
        found = sum(p.numel() for p in self.workload.build(0).parameters())
        size = f"{found / 1e6:.2f} M" if found > 1e4 else f"{found}"
        return {"parameters": found, "scale": f"{size} parameters, {budget}"}

    def environment(self) -> dict[str, Any]:
        """Versions and machine."""
        own = {"torch": torch.__version__, "device": self.workload.device.type, "threads": torch.get_num_threads()}
        return package_version() | own

    def promise(self) -> None:
        """Nothing is left out: the same declaration gives the same bits."""
        return None

    def arm_facts(self, chosen: Regime, baseline: Regime) -> dict[str, Any]:
        """What an arm's regime is, and where it differs."""
        return {
            "regime": repr(chosen),
            "diff": [{"path": d.path, "from": d.old, "to": d.new} for d in baseline.diff(chosen)],
            "schedules": _schedules(chosen, self.workload),
            "citations": _citations(chosen),
        }

    def arms(self, arms: Mapping[str, Any]) -> dict[str, Any]:
        """Arms are regimes."""
        for arm, regime in arms.items():
            if not isinstance(regime, Regime):
                raise DeclarationError(f"got {show(regime)}; allowed: a Regime", f"arms.{arm}")
        return dict(arms)

    def metric_name(self, metric: Any) -> str:
        """The metric with its split in front: ``val/loss``, ``test/acc``, ``val/code/loss`` of one of several sources."""
        metric = "val/loss" if metric is None else metric
        if not isinstance(metric, str):
            raise DeclarationError(f"got {show(metric)}; allowed: the name of one metric, such as 'val/loss'", "metric")
        split, _, rest = metric.partition("/")
        if not rest or split not in ("train", "val", "test"):
            split, rest = self.workload.judged_split(), metric
        if split == "train" or split not in self.workload.sources:
            raise DeclarationError(f"got '{metric}', but the workload has no {split} data to judge on", "metric")
        sources, names = self.workload.sources[split], ["loss", *self.workload.metrics]
        source, _, inner = rest.partition("/")
        if inner and len(sources) > 1 and source in sources:
            rest = inner
        name, _, part = rest.partition("/")
        # An object may give several values by name; which ones is known only when it is asked.
        if name in names and (not part or hasattr(self.workload.metrics.get(name), "update")):
            return metric if metric.startswith(f"{split}/") else f"{split}/{metric}"
        options = [*names, *(f"{source}/{name}" for source in sources if len(sources) > 1 for name in names)]
        raise DeclarationError(f"there is no metric '{metric}'; {nearest(rest, options)}", "metric")

    def tuning_metric(self, metric: str) -> str:
        """Always val, never test."""
        return "val/" + metric.split("/", 1)[1]

    def check(self, arms: Mapping[str, Any], ranges: Mapping[str, Range], points: Sequence[dict[str, float]]) -> None:
        """Build a run of every arm, and every trial's declaration."""
        validate = self.options.get("validate")
        if validate is not None:
            api.cadence("validate", validate)
        for arm, regime in arms.items():
            try:
                run = Run(self.workload, regime, TUNING_SEED, count_flops=False)
                api.check_cadences(run, validate=validate)
                for shares in points:
                    tuned(regime, ranges, shares)
            except DeclarationError as why:
                raise why.within(f"arms.{arm}") from None

    def budgets(self, arms: Mapping[str, Any], baseline: str, equal: str | None) -> tuple[str | None, str, list[str]]:
        """At what the budgets are equal; refused where they are not."""
        return equal_budgets(self.workload, arms, baseline, equal)

    def tuned(self, declared: Regime, ranges: Mapping[str, Range], shares: Mapping[str, float]) -> Regime:
        """The regime with every tuned knob at its share of its range."""
        return tuned(declared, ranges, shares)

    def tuned_values(self, declared: Regime, patterns: Sequence[str]) -> dict[str, float]:
        """The tuned knobs' values in a regime; of several places that a pattern fits, the first."""
        return {pattern: float(get(declared, expand(declared, pattern)[0])) for pattern in patterns}

    def kept(self) -> AbstractContextManager[Any]:
        """Inside, the workload's data and code are read once."""
        return kept(self.workload)

    def placed(self, worker: int) -> None:
        """Take one of several GPUs."""
        if torch.cuda.is_available() and torch.cuda.device_count() > 1:
            self.workload.device = torch.device("cuda", worker % torch.cuda.device_count())

    @property
    def together(self) -> int:
        """As many as are stacked at most."""
        return LARGEST

    def train_all(self, tasks: Sequence[Task], store: Path) -> Iterator[Outcome | UnderWay]:
        """Train tasks in the store, side by side, or find them there finished."""
        return execute(self.workload, tasks, store, self.options)

    def train(self, task: Task, store: Path) -> Outcome:
        """Train one task in the store, or find it there finished."""
        [outcome] = [found for found in self.train_all([task], store) if isinstance(found, Outcome)]
        return outcome


def _schedules(regime: Regime, workload: Workload) -> list[dict[str, Any]]:
    fractions = [i / 100 for i in range(101)]
    found = []
    for phase in compile_regime(regime, epochs(regime, workload.view("train")), workload.example_tokens()):
        lead = f"{phase.name}." if len(regime.phases) > 1 else ""
        for path, function in phase.functions.items():
            values = [function(Progress(fraction=f, run_fraction=f)) for f in fractions]
            found.append({"path": lead + path, "fraction": fractions, "values": values})
    return found


def _citations(regime: Regime) -> dict[str, str]:
    cards = {type(value).__name__: getattr(type(value), "card", None) for _, value in walk(regime)}
    return {name: card.source for name, card in cards.items() if card is not None and card.source != "folklore"}
