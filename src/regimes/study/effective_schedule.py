"""The schedule that a run without projection had, for a run that declares it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regimes.core import paths
from regimes.core.card import Card, described
from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.kinds import Schedule
from regimes.engine.result import RunResult
from regimes.study.design import is_number
from regimes.study.early_runs import ended_runs
from regimes.study.schedule_tables import from_table


@described(
    Card(
        title="Replay the rates that growing weights have made",
        axes=("rates",),
        source="Lyle et al. 2024, arXiv:2407.01800",
        when="A run whose weights grew is to be made again with weights of fixed length: what of it was the hidden decay?",
        cost="the probe in the first run",
        shelf="atlas",
        rows=("normalize-and-project",),
        deviations=(
            "Of all layers together the geometric mean is replayed; how the paper makes one rate of many is not known here.",
        ),
    )
)
def effective_schedule(
    run: str | Path | RunResult,
    weight: str | None = None,
    *,
    rate: str = "optimizer.lr",
    probe: str = "effective_learning_rate",
) -> Schedule:
    r"""Return the rates at which weights of a fixed length turn as those of a run did.

    With lr_t the rate of the run, W_t the weight with which step t begins, and p the probe's power (2 for SGD, 1 for Adam)

    .. math:: \text{lr}'_t = \text{lr}_t \left(\frac{\lVert W_0 \rVert}{\lVert W_t \rVert}\right)^p

    Under SGD without momentum or decay a layer before a norm then computes the same after every step, if it is projected to
    the length ||W_0|| (`regimes.NormalizeAndProject`) and trained at lr'; each such layer has a schedule of its own.

    Parameters
    ----------
    run : path or RunResult
        A finished run of one phase that had the probe `regimes.EffectiveLearningRate`. Where it did not measure after every
        step, its factor goes along straight lines, and stays after the last.
    weight : str, optional
        Name of a layer's weight. Default: the geometric mean over all trained layers.
    rate : str
        Path of the rate. Default ``optimizer.lr``.
    probe : str
        Name of the probe's values in the records.

    Returns
    -------
    Schedule
        As `regimes.from_table` makes it, in steps.

    Raises
    ------
    DeclarationError
        If the run has several phases, no such values or weight, or nothing at the path is a rate.

    References
    ----------
    C. Lyle, Z. Zheng, K. Khetarpal, J. Martens, H. van Hasselt, R. Pascanu and W. Dabney, Normalization and effective
    learning rates in reinforcement learning, NeurIPS 2024, arXiv:2407.01800.

    Examples
    --------
    A network with a norm behind its layer; the weight doubles its length at most, and the schedule falls with it.

    >>> import torch, regimes as rg
    >>> x = torch.linspace(-1, 1, 64).view(-1, 2); y = (x[:, 0] > 0).long()
    >>> def net():
    ...     return torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.LayerNorm(3, 0.0, False))
    >>> work = rg.Workload(model=net, train=(x, y), val=(x, y), loss=torch.nn.CrossEntropyLoss())
    >>> regime = rg.Regime(optimizer=rg.SGD(lr=0.5), batch_size=16, budget="4 steps")
    >>> free = rg.run(work, regime, probes=[rg.EffectiveLearningRate(power=2, every="1 steps")])
    >>> schedule = rg.effective_schedule(free, "0.weight")
    >>> factors = [row["effective_learning_rate/0.weight"] for row in free.records]
    >>> [schedule(t / 4, steps=4) for t in (1, 2, 3)] == [0.5 * factor for factor in factors[:3]]
    True
    >>> projected = rg.run(work, regime.but(optimizer=rg.NormalizeAndProject(rg.SGD(lr=schedule))))
    >>> all(abs(a["loss"] - b["loss"]) < 1e-5 for a, b in zip(free.records, projected.records))
    True
    """
    (ended,), _, _ = ended_runs([run])
    if len(ended.regime.phases) > 1:
        raise DeclarationError(f"got a run of {len(ended.regime.phases)} phases; allowed: one", "run")
    name = probe if weight is None else f"{probe}/{weight}"
    measured = [(row["step"] + 1, row[name]) for row in ended.rows if name in row]
    if not measured:
        raise DeclarationError(_missing(ended.rows, probe, name), "probe" if weight is None else "weight")
    places, factors = zip((0, 1.0), *measured)
    if not all(is_number(factor) and math.isfinite(factor) for factor in factors):
        raise DeclarationError(f"got values of {name} that are not finite: a weight was zero", "run")
    factor = np.interp([row["step"] for row in ended.rows], places, factors).tolist()
    return from_table([(row["step"], _rate(row, ended.regime, rate) * f) for row, f in zip(ended.rows, factor)])


def _rate(row: Mapping[str, Any], regime: Any, path: str) -> float:
    """The rate of a step: as it was logged, or as it is declared where it does not vary."""
    found = row["knobs"].get(path)
    if found is None:
        found = paths.get(regime.phases[0], path)
    if not is_number(found):
        raise DeclarationError(f"got '{path}', where {show(found)} stands; allowed: the path of a rate", "rate")
    return float(found)


def _missing(rows: Sequence[Mapping[str, Any]], probe: str, name: str) -> str:
    found = sorted({key for row in rows for key in row if key == probe or key.startswith(f"{probe}/")})
    if not found:
        return f"the run has no '{name}' in its records; allowed: a run with probes=[EffectiveLearningRate(every='1 steps')]"
    return f"the run has no '{name}' in its records; {nearest(name, found)}"
