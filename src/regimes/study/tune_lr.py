"""Which learning rate? A range of short runs, then fewer longer ones; a recommended peak with its interval and its price."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from regimes.core import paths
from regimes.core.errors import DeclarationError, RegimesError, show
from regimes.core.files import write_json
from regimes.core.kinds import Controller, Schedule
from regimes.core.progress import Progress
from regimes.core.regime import Regime
from regimes.engine import api
from regimes.engine.compile import compile_regime, epochs
from regimes.engine.metrics import Accuracy
from regimes.engine.run import Run
from regimes.engine.workload import Workload
from regimes.probes import GradientNoiseScale
from regimes.scaling.families import families
from regimes.scaling.lengths import scaled
from regimes.scaling.transfer import Change, Transferred, changes, transfer
from regimes.study.compare import made_subject
from regimes.study.own import Own
from regimes.study.pool import Pool
from regimes.study.rate_search import RUNGS, SAFE, Found, RateSearch, Rung
from regimes.study.tasks import TUNING_SEED, Outcome, Task

#: How far from the declared rate is looked, either way, where nobody says.
_REACH = 100.0


@dataclass(frozen=True)
class TunedRate:
    """What was found.

    Parameters
    ----------
    paths : tuple of str
        The rates that were scaled together.
    declared : float
        Peak of the first as declared.
    found : Found
        Recommended peak, interval, edge of divergence.
    regime : Regime
        With the recommended rate in it.
    metric : str
    rungs : tuple of Rung
        What was tried.
    seeds : int
        Runs of each rate.
    flops : float
        Spent, over all trials; ``runs`` of it were the declared run's length.
    transferred : dict of str to Transferred, or None
        By path, as each rate follows the law of its own rule.
    folder : Path
        Of the trials, of ``tune_lr.json`` and of ``rates.svg``.
    """

    paths: tuple[str, ...]
    declared: float
    found: Found
    regime: Regime
    metric: str
    rungs: tuple[Rung, ...]
    seeds: int
    flops: float
    folder: Path
    transferred: dict[str, Transferred] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def runs(self) -> float:
        """Cost in runs of the declared length."""
        return self.seeds * sum(rung.cost for rung in self.rungs)

    @property
    def edits(self) -> tuple[str, ...]:
        """What to give to --set for the recommended rate."""
        return tuple(f"{path}={value}" for path, value in _printed_edits(self.regime, self.paths))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        facts = {"paths": list(self.paths), "declared": self.declared, "metric": self.metric, **asdict(self.found)}
        facts |= {"runs": self.runs, "flops": self.flops, "edits": list(self.edits), "regime": repr(self.regime)}
        facts |= {"rungs": [asdict(rung) for rung in self.rungs], "notes": list(self.notes)}
        moved = None if self.transferred is None else {path: asdict(one) for path, one in self.transferred.items()}
        return facts | {"transferred": moved}

    def __str__(self) -> str:
        lines = [f"{self.metric} by rate (runs of a share of the budget)"]
        for length, rungs in itertools.groupby(self.rungs, lambda rung: rung.length):
            lines.append(f"  {length}:")
            lines += [f"    {x:<10.4g} {_shown(y)}" for rung in rungs for x, y in zip(rung.rates, rung.losses)]
        found = self.found
        safe = f"within {SAFE:.0%} of the best from {found.low:.3g} to {found.high:.3g}"
        if found.low == found.high:
            safe = "too few runs came near the best to say how far from it the loss is about as good"
        edge = "none met" if found.edge is None else f"about {found.edge:.3g}"
        lines.append(f"recommended: {found.rate:.4g} ({safe}); edge of divergence: {edge}")
        lines.append(f"declared: {self.declared:.4g}; cost: {self.runs:.2f} runs, {self.flops:.3g} FLOP")
        lines += self.notes
        for reasons, same in itertools.groupby((self.transferred or {}).items(), lambda item: item[1].reasons):
            lines += reasons
            for path, moved in same:
                whose = f" ({path})" if len(self.paths) > 1 else ""
                said = f"{moved.rate:.4g}, somewhere from {moved.low:.3g} to {moved.high:.3g}"
                lines.append(f"for the run of these sizes{whose}: {said}")
        return "\n".join(lines)


def tune_lr(
    workload: Workload,
    regime: Regime,
    *,
    low: float | None = None,
    high: float | None = None,
    metric: str = "val/loss",
    seeds: int = 1,
    transfer_to: str | None = None,
    out: str | Path = "runs/tune-lr",
    workers: int = 1,
    progress: bool | None = None,
    workload_spec: Any = None,
    make: Any = None,
) -> TunedRate:
    """Recommend a peak learning rate for a regime, for the price of three runs.

    Eight rates over the range are trained for a sixteenth of the budget, four around the best for an eighth, each with the
    whole schedule in the shorter time, then two runs of the whole length, of which the second heeds the first:
    `regimes.study.rate_search.RateSearch` says how. Several rates (groups, phases) are scaled together and keep their
    proportions.

    Parameters
    ----------
    workload : Workload
    regime : Regime
    low, high : float, optional
        Range of the first rate's peak. Default: a hundredth and a hundred times the declared one.
    metric : str
        Of validation data, lower being better. Default ``val/loss``.
    seeds : int
        Runs of each rate, whose mean counts; the price grows with it. Default 1.
    transfer_to : str, optional
        Sizes of a larger run, ``width=256->1024,depth=4->8,batch=64->512,budget=1->4``: its rate is said too, of several
        rates each by the law of its rule.
    out : path
        Folder of the trials; those that are there are not computed again.
    workers : int
        Processes.
    progress : bool, optional
        Default: a bar on a terminal.
    workload_spec, make
        As of `regimes.compare`.

    Returns
    -------
    TunedRate
        Printed, the table; ``regime`` holds the recommended rate; ``rates.svg`` in the folder is the picture.

    Raises
    ------
    DeclarationError
        Before anything is spent: no knob called lr, an empty range, a metric that is not of validation data, a transfer
        for rules of which no law is known.
    RegimesError
        If a run failed for another reason than divergence, or every rate of the first rung diverged.

    Examples
    --------
    >>> import tempfile, regimes as rg
    >>> work = rg.workloads.load("quadratic", examples=64)
    >>> base = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.1)), batch_size=16, budget="64 steps")
    >>> found = tune_lr(work, base, out=tempfile.mkdtemp(), progress=False)
    >>> round(found.runs, 2), found.found.low < found.found.rate < found.found.high
    (3.0, True)
    """
    if isinstance(metric, str) and metric.partition("/")[0] not in ("train", "val", "test"):
        metric = f"val/{metric}"
    if not isinstance(metric, str) or not metric.startswith("val/"):
        raise DeclarationError(
            f"got {show(metric)}; allowed: a metric of validation data, such as 'val/loss'", "metric"
        )
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
        raise DeclarationError(f"got {show(seeds)}; allowed: 1 or more", "seeds")
    wanted = [] if transfer_to is None else changes(transfer_to)
    subject = Own(workload, {"validate": None, "workload_spec": workload_spec, "track": ()})
    subject.metric_name(metric)
    if isinstance(workload.metrics.get(metric.rpartition("/")[2]), Accuracy):
        raise DeclarationError(
            f"got '{metric}', which is to be high; allowed: what is to be low, such as 'val/loss'", "metric"
        )
    rates = _rates(regime, workload)
    kinds = families(regime, rates) if wanted else {}
    _check_sizes(regime, wanted)
    declared = rates[next(iter(rates))]
    low, high = _range(declared, low, high)
    for share in (1.0, *(share for share, *_ in RUNGS)):
        for rate in (low, high):
            Run(workload, _at(scaled(regime, share), rates, rate / declared), TUNING_SEED, count_flops=False)
    search = RateSearch(low, high, _untrained(workload, regime, metric))
    trials = _Trials(subject, Path(out), workers, seeds, metric, make, progress)
    while (asked := search.ask()) is not None:
        share, values = asked
        short = scaled(regime, share)
        search.tell(trials.losses(len(search.rungs), [_at(short, rates, rate / declared) for rate in values]))
        if all(math.isinf(loss) for loss in search.rungs[0].losses):
            raise RegimesError(
                f"every rate from {low:.3g} to {high:.3g} diverged, or ended worse than the untrained network; allowed: a lower "
                "range (low, high)"
            )
    found = search.found()
    chosen = _at(regime, rates, found.rate / declared)
    moved = _transferred(workload, chosen, found, wanted, rates, kinds) if wanted else None
    notes = ["the best rate lies at an end of the range: look farther (low, high)"] if found.at_edge else []
    if not search.learned:
        notes.append("no rate has learned anything in a sixteenth of the budget: the search had little to go by")
    made = TunedRate(
        tuple(rates),
        declared,
        found,
        chosen,
        metric,
        tuple(search.told),
        seeds,
        trials.flops,
        Path(out),
        moved,
        tuple(notes),
    )
    write_json(Path(out) / "tune_lr.json", made.to_dict())
    from regimes.report.rates import picture

    picture(made, Path(out) / "rates.svg")
    return made


class _Trials:
    """Trains the rates of one rung after another.

    Parameters
    ----------
    subject, folder, workers, seeds, metric, make, progress
        As of `tune_lr`.
    """

    def __init__(
        self, subject: Own, folder: Path, workers: int, seeds: int, metric: str, make: Any, progress: bool | None
    ) -> None:
        self.subject, self.folder, self.workers = subject, folder, workers
        self.seeds, self.metric, self.make, self.progress = seeds, metric, make, progress
        self.flops = 0.0

    def losses(self, rung: int, regimes: list[Regime]) -> list[float]:
        """Mean final metric of each regime; infinity where a run of it diverged."""
        tasks = [
            Task(f"rate-{place}", regime, TUNING_SEED + seed, rung)
            for place, regime in enumerate(regimes)
            for seed in range(self.seeds)
        ]
        found: dict[str, list[float]] = {}
        for outcome in self._outcomes(tasks):
            if outcome.failed and not outcome.diverged:
                raise RegimesError(f"a trial failed, which is no value: {outcome.failure}")
            self.flops += float(outcome.work.get("flops", 0.0)) + float(outcome.work.get("side_flops", 0.0))
            value = math.inf if outcome.failed else outcome.metrics.get(self.metric, math.inf)
            found.setdefault(outcome.task.arm, []).append(value)
        return [sum(found[f"rate-{place}"]) / self.seeds for place in range(len(regimes))]

    def _outcomes(self, tasks: list[Task]) -> Iterator[Outcome]:
        waiting = list(tasks)
        made = None if self.make is None else (made_subject, (self.make, self.subject.options))
        pool = Pool(self.subject, self.folder / "runs", self.workers, made, [task.declared for task in tasks])
        try:
            with self.subject.kept(), _bar(self.progress) as bar:
                counted = bar.add_task("rates", total=len(tasks))
                for found in pool.outcomes(lambda done: waiting.pop(0) if waiting else None):
                    if isinstance(found, Outcome):
                        bar.advance(counted)
                        yield found
        finally:
            pool.close()


def _bar(progress: bool | None) -> Any:
    from rich.console import Console
    from rich.progress import Progress

    quiet = not (sys.stderr.isatty() if progress is None else progress)
    return Progress(console=Console(stderr=True), disable=quiet)


def _rates(regime: Regime, workload: Workload) -> dict[str, float]:
    """Peaks of everything called lr, by path."""
    found: dict[str, float] = {}
    phases = compile_regime(regime, epochs(regime, workload.view("train")), workload.example_tokens())
    functions = {f"{phase.name}.{path}": function for phase in phases for path, function in phase.functions.items()}
    for path, value, _ in paths.knobs(regime):
        if path.rsplit(".", 1)[-1] != "lr":
            continue
        if isinstance(value, Controller):
            raise DeclarationError(f"got {show(value)}; allowed: a number or a schedule, whose peak can be tuned", path)
        peak = value if isinstance(value, int | float) else _peak(functions[path])
        if not peak > 0:
            raise DeclarationError(f"got {show(value)}; allowed: a rate above 0, from which is looked", path)
        found[path] = float(peak)
    if not found:
        raise DeclarationError(
            "no knob is called lr; allowed: a regime that gives its rule one, as in lr=1e-3", "optimizer"
        )
    return found


def _peak(function: Callable[[Progress], float]) -> float:
    """Its largest value."""
    return max(function(Progress(fraction=place / 1000, run_fraction=place / 1000)) for place in range(1000))


def _range(declared: float, low: float | None, high: float | None) -> tuple[float, float]:
    low = declared / _REACH if low is None else low
    high = declared * _REACH if high is None else high
    for name, value in (("low", low), ("high", high)):
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise DeclarationError(f"got {show(value)}; allowed: a rate above 0", name)
    if high < 10 * low:
        raise DeclarationError(f"got {high:g}; allowed: at least ten times low ({low:g})", "high")
    return float(low), float(high)


def _at(regime: Regime, rates: dict[str, float], factor: float) -> Regime:
    """The regime with all rates times a factor."""
    edits: dict[str, Any] = {}
    for path in rates:
        value = paths.get(regime, path)
        if isinstance(value, int | float):
            edits[path] = _tidy(value * factor)
        elif _only_peak(value):
            edits[f"{path}.peak"] = _tidy(paths.get(regime, f"{path}.peak") * factor)
        else:
            edits[path] = _tidy(factor) * value
    return paths.edit(regime, edits, flatten=True)


def _only_peak(schedule: Schedule) -> bool:
    """Whether the peak is the only rate in a schedule: others, an absolute end for example, would not move with it."""
    own = dict(schedule.children())
    return "peak" in own and not own.get("final", 0.0) and not own.get("floor", 0.0)


def _tidy(value: float) -> float:
    return float(f"{value:.6g}")


def _printed_edits(regime: Regime, rates: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for path in rates:
        value = paths.get(regime, path)
        if isinstance(value, Schedule) and _only_peak(value):
            yield f"{path}.peak", paths.get(regime, f"{path}.peak")
        else:
            yield path, value if isinstance(value, int | float) else repr(value)


def _untrained(workload: Workload, regime: Regime, metric: str) -> float:
    """Of a loss, that of the untrained network; of another metric infinity, which says nothing."""
    run = Run(workload, regime, TUNING_SEED, count_flops=False)
    found = run.validation.measure("val").get(metric, math.inf) if metric.endswith("loss") else math.inf
    return float(found)


def _check_sizes(regime: Regime, wanted: list[Change]) -> None:
    """Refuse a batch to start from that is not the one that is tuned: its law is of the size itself, not of a ratio."""
    declared = {phase.batch_size for phase in regime.phases if isinstance(phase.batch_size, int)}
    for change in wanted:
        if change.what == "batch" and declared and change.old not in declared:
            sizes = " or ".join(map(str, sorted(declared)))
            raise DeclarationError(
                f"got a batch of {change.old:g} to start from; allowed: {sizes}, which is tuned", "transfer"
            )


def _transferred(
    workload: Workload,
    regime: Regime,
    found: Found,
    wanted: list[Change],
    rates: dict[str, float],
    kinds: dict[str, str],
) -> dict[str, Transferred]:
    """Every rate for the larger run, by the law of its own rule; all were tuned in proportion to the first."""
    scale = _noise_scale(workload, regime) if any(change.what == "batch" for change in wanted) else None
    first, moved = next(iter(rates.values())), dict[str, Transferred]()
    for path, declared in rates.items():
        rate, low, high = (value * declared / first for value in (found.rate, found.low, found.high))
        moved[path] = transfer(rate, low, high, wanted, kinds[path], scale)
    return moved


def _noise_scale(workload: Workload, regime: Regime) -> float | None:
    """Gradient noise scale after the first rung's share of training; None where it cannot be measured."""
    short = scaled(regime, RUNGS[0][0])
    rows = api.run(workload, short, TUNING_SEED, probes=[GradientNoiseScale(every="100%")], progress=False).records
    found = [row["gradient_noise_scale"] for row in rows if "gradient_noise_scale" in row]
    return float(found[-1]) if found and math.isfinite(found[-1]) else None


def _shown(loss: float) -> str:
    return "diverged" if math.isinf(loss) else f"{loss:.4f}"
