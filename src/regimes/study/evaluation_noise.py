"""How much of a difference is luck of the evaluation data: a paired bootstrap over its examples or documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regimes.core.errors import DeclarationError, ResumeError, nearest, show
from regimes.core.randomness import kept, seed_all
from regimes.engine.plan import Plan
from regimes.engine.reading import Reader
from regimes.engine.result import RunResult
from regimes.engine.seam import replay_structure
from regimes.engine.workload import Workload
from regimes.losses.forward import predict
from regimes.study.design import check_better
from regimes.study.intervals import check_level
from regimes.study.stored import opened
from regimes.study.verdicts import sign
from regimes.weights.from_run import FromRun

#: Data sets drawn again from the one there is.
DRAWS = 4_000
_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class EvaluationNoise:
    """A difference of two models on one data set, and what other data of the kind would make of it.

    Parameters
    ----------
    metric : str
    difference : float
        Improvement of the first over the second; positive is better.
    sd : float
        Of the difference over data sets drawn again.
    low, high : float
        Percentile interval of the difference.
    drawn : int
        Examples, or groups of them, that are drawn.
    of : str
        What they are: "examples", or the name of the groups' column.
    level : float
    """

    metric: str
    difference: float
    sd: float
    low: float
    high: float
    drawn: int
    of: str
    level: float

    def __str__(self) -> str:
        return (
            f"{self.metric}: {self.difference:+.4g} [{self.low:+.4g}, {self.high:+.4g}] over {self.drawn} {self.of} drawn "
            "again (paired bootstrap); luck of the evaluation data alone, and no word about another seed"
        )


def evaluation_noise(
    run: str | Path | RunResult,
    baseline: str | Path | RunResult,
    metric: str | None = None,
    *,
    better: str | None = None,
    by: str | None = None,
    level: float = 0.95,
    workload: Workload | None = None,
) -> EvaluationNoise:
    """Say how far the difference of two trained models may be luck of the examples they are judged on.

    Both models are evaluated on every example. Data sets of the same size are drawn from them with replacement, the
    same examples for both models, and the metric's difference is taken of each: a ratio of sums, as the metric itself,
    where examples hold different numbers of tokens.

    Parameters
    ----------
    run, baseline : path or RunResult
        Finished runs of one workload.
    metric : str, optional
        ``test/loss``, ``acc`` (a metric of the workload): default the loss on the data that verdicts read.
    better : "lower" or "higher", optional
        Default: lower for losses; must be said for anything else.
    by : str, optional
        A column of the data: examples with the same value (a document's) are drawn together. Default: each alone.
    level : float
        Of the percentile interval. Default 0.95.
    workload : Workload, optional
        Where a run's folder does not say how it is built.

    Returns
    -------
    EvaluationNoise

    Raises
    ------
    DeclarationError
        A metric or column that there is not, runs of other data.
    ResumeError
        If a run is not finished.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13. Koehn, "Statistical significance tests
    for machine translation evaluation", 2004.

    Examples
    --------
    >>> import regimes as rg
    >>> work = rg.workloads.load("teacher_student")
    >>> regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="20 steps")
    >>> one, other = (rg.run(work, regime.but({"optimizer.lr": lr}), progress=False) for lr in (0.1, 0.05))
    >>> found = evaluation_noise(one, other)
    >>> found.low < found.difference < found.high, found.of
    (True, 'examples')
    """
    check_level(level)
    (work, one), (other_work, other) = (_trained(given, workload) for given in (run, baseline))
    split, name = _metric(work, metric)
    direction = -sign(check_better(name, better))
    if work.fingerprint() != other_work.fingerprint():
        raise DeclarationError("was trained and judged on other data than the run", "baseline")
    sums, masses = _sums(work, one, split, name)
    theirs, _ = _sums(work, other, split, name)
    groups, of = _groups(work, split, by, len(sums))
    table = np.stack([np.bincount(groups, column).astype(float) for column in (sums, theirs, masses)])
    draws = _draws(table) * direction
    difference = direction * float((table[0].sum() - table[1].sum()) / table[2].sum())
    ends = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return EvaluationNoise(
        f"{split}/{name}", difference, float(draws.std(ddof=1)), float(ends[0]), float(ends[1]), table.shape[1], of, level
    )  # fmt: skip


def _trained(run: Any, workload: Workload | None) -> tuple[Workload, nn.Module]:
    """The workload and the judged model of a finished run."""
    if isinstance(run, RunResult):
        return run.workload, run.model
    stored = opened(run, workload)
    if not (stored.path / "result.json").is_file():
        raise ResumeError(f"{stored.path} is not finished; allowed: a run that is")
    model = replay_structure(stored.workload.build(0), stored.regime, len(stored.regime.phases) - 1)
    model.load_state_dict(dict(FromRun(str(stored.path)).load()))
    return stored.workload, model.eval()


def _metric(work: Workload, metric: str | None) -> tuple[str, str]:
    given = "loss" if metric is None else metric
    if not isinstance(given, str):
        raise DeclarationError(f"got {show(metric)}; allowed: the name of a metric", "metric")
    split, slash, name = given.rpartition("/")
    split = split if slash else work.judged_split()
    names = ["loss", *(name for name, made in work.metrics.items() if not hasattr(made, "update"))]
    if split not in work.sources:
        raise DeclarationError(f"there is no data '{split}'; {nearest(split, work.sources)}", "metric")
    if name not in names:
        raise DeclarationError(
            f"there is no metric '{name}' that examples have one by one; {nearest(name, names)}", "metric"
        )
    return split, name


def _sums(work: Workload, model: nn.Module, split: str, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of every example, over all sources: the sum of its units' values, and of their weights."""
    parts = []
    with kept(), torch.no_grad():
        for name, source in work.sources[split].items():
            read = Reader({name: source}, work.device)
            for start in range(0, len(source), work.eval_batch):
                indices = np.arange(start, min(start + work.eval_batch, len(source)))
                batch = read(Plan(start, indices, None, None, {}, {}, {}))
                seed_all(start)
                found = (
                    _losses(work, model, batch, len(indices))
                    if metric == "loss"
                    else _values(work, model, batch, metric)
                )
                parts.append(torch.stack(found).double().cpu().numpy())
    sums, masses = np.concatenate(parts, axis=1)
    return sums, masses


def _losses(work: Workload, model: nn.Module, batch: Any, n: int) -> tuple[Tensor, Tensor]:
    units = work.loss.units(work.loss.init(), model, batch)
    values = units.values.reshape(-1).double()
    weights = torch.ones_like(values) if units.weights is None else units.weights.reshape(-1).double()
    examples = torch.arange(len(values), device=values.device) if units.examples is None else units.examples
    if len(values) < n:
        raise DeclarationError("gives one number for a whole batch, and nothing of its examples", "loss")
    zeros = values.new_zeros(n)
    return zeros.index_add(0, examples, values * weights), zeros.index_add(0, examples, weights)


def _values(work: Workload, model: nn.Module, batch: Any, metric: str) -> tuple[Tensor, Tensor]:
    output, target = predict(model, batch)
    found = [work.metrics[metric](output[i : i + 1], target[i : i + 1]).double() for i in range(len(output))]
    return torch.stack([one.sum() for one in found]), torch.tensor([float(one.numel()) for one in found])


def _groups(work: Workload, split: str, by: str | None, size: int) -> tuple[NDArray[np.int64], str]:
    if by is None:
        return np.arange(size), "examples"
    columns = []
    for name, source in work.sources[split].items():
        column = source.column(by)
        if column is None:
            raise DeclarationError(f"source '{name}' of {split} has no column '{by}'", "by")
        columns += [(name, value) for value in np.asarray(column).tolist()]
    numbers = {value: place for place, value in enumerate(dict.fromkeys(columns))}
    return np.array([numbers[value] for value in columns]), f"values of '{by}'"


def _draws(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences over data sets drawn again, from a stream that their number of groups alone addresses."""
    n = table.shape[1]
    digest = hashlib.blake2b(f"regimes.study.evaluation_noise:{n}".encode(), digest_size=16).digest()
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    return np.concatenate(list(_drawn(table, stream, max(1, _AT_ONCE // n))))


def _drawn(table: NDArray[np.float64], stream: np.random.Generator, rows: int) -> Iterator[NDArray[np.float64]]:
    n = table.shape[1]
    for start in range(0, DRAWS, rows):
        chosen = stream.integers(0, n, (min(rows, DRAWS - start), n))
        one, other, mass = (column[chosen].sum(1) for column in table)
        yield (one - other) / mass
