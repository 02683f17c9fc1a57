"""What a tracker is told of a run before its first step: its declaration, by the paths of the knobs."""

from __future__ import annotations

from typing import Any

from regimes.core import fields, paths
from regimes.core.component import Component
from regimes.core.regime import Regime
from regimes.track.points import rate


def config(run: Any) -> dict[str, Any]:
    """Return the declaration of a run as flat names and plain values.

    Examples
    --------
    >>> import regimes as rg
    >>> from types import SimpleNamespace
    >>> regime = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.1)), batch_size=8, budget="20 steps")
    >>> told = config(SimpleNamespace(regime=regime, seed=3, workload=SimpleNamespace(name="digits")))
    >>> {name: told[name] for name in ("workload", "seed", "optimizer", "optimizer.lr", "optimizer.lr.peak", "budget")}
    {'workload': 'digits', 'seed': 3, 'optimizer': 'SGD', 'optimizer.lr': 'Cosine', 'optimizer.lr.peak': 0.1, 'budget': '20 steps'}
    """
    regime = run.regime
    lead = f"{regime.phases[0].name}." if len(regime.phases) == 1 else ""
    found: dict[str, Any] = {"workload": run.workload.name, "seed": run.seed}
    for path, value in paths.walk(regime):
        name = path.removeprefix(lead) if lead else path
        if value is not None and value != () and name not in ("name", lead.rstrip(".")):
            found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, Component):
        return type(value).__name__
    printed = fields.printed(value)
    return printed.strip("'") if isinstance(printed, str) else str(printed)


def rates(regime: Regime) -> dict[str, dict[str, float]]:
    """Return by phase the rates that stay what they are: records hold only what varies.

    Examples
    --------
    >>> import regimes as rg
    >>> rates(rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="20 steps"))
    {'main': {'lr/all': 0.1}}
    """
    return {
        phase.name: {
            name: float(value)
            for path, value, _ in paths.knobs(phase)
            if isinstance(value, int | float) and (name := rate(path)) is not None
        }
        for phase in regime.phases
    }
