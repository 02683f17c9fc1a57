"""A regime at another batch size, by the rules of the literature, with the list of what changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from regimes.averagers import EMA
from regimes.core import paths
from regimes.core.card import Card, described
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.kinds import Controller, Optimizer, Schedule
from regimes.core.regime import Regime
from regimes.optimizers import SGD, AdamW
from regimes.scaling.lengths import AMOUNTS, scaled


class Rule(NamedTuple):
    """What a rule does at k times the batch.

    Parameters
    ----------
    rate : float
        The learning rate is multiplied by k to this power.
    says : str
        In words.
    source : str
    moments : bool
        Whether betas, epsilon and decoupled decay are scaled with it.
    updates : bool
        Whether the number of updates stays, and the samples become more.
    warmup : bool
        Whether a warm-up given as a percentage becomes k times as large a share.
    """

    rate: float
    says: str
    source: str
    moments: bool = False
    updates: bool = False
    warmup: bool = False


RULES = {
    "linear": Rule(1.0, "the rate grows as the batch", "Goyal et al. 2017, arXiv:1706.02677"),
    "sqrt": Rule(0.5, "the rate grows as the root of the batch", "Granziol et al. 2022, arXiv:2006.09092"),
    "sde": Rule(
        0.5,
        "the rate and decay grow as the root of the batch, 1 - beta as the batch, epsilon falls as the root",
        "Malladi et al. 2022, arXiv:2205.10287",
        moments=True,
    ),
    "updates": Rule(
        0.5,
        "the rate grows as the root of the batch, and as many updates are made of more samples",
        "Hoffer et al. 2017, arXiv:1705.08741",
        updates=True,
    ),
    "lamb": Rule(
        0.5,
        "the rate grows as the root of the batch, the share of the warm-up as the batch",
        "You et al. 2020, arXiv:1904.00962",
        warmup=True,
    ),
}


@dataclass(frozen=True)
class ScaledBatch:
    """A regime at another batch size; prints what changed.

    Parameters
    ----------
    regime : Regime
    rule : str
    factor : float
        By which the batch was multiplied.
    changes : tuple of Difference
        Path, value before and after.
    """

    regime: Regime
    rule: str
    factor: float
    changes: tuple[paths.Difference, ...]

    def __str__(self) -> str:
        rule = RULES[self.rule]
        lines = [f"batch times {self.factor:g} by the rule '{self.rule}': {rule.says} ({rule.source})"]
        width = max(len(change.path) for change in self.changes)
        lines += [f"  {change.path:<{width}}  {change.old} -> {change.new}" for change in self.changes]
        return "\n".join(lines)


@described(
    Card(
        title="A regime at another batch size",
        axes=("regime", "rates"),
        source="Granziol et al. 2022, arXiv:2006.09092; Malladi et al. 2022, arXiv:2205.10287; Goyal et al. 2017, "
        "arXiv:1706.02677; Hoffer et al. 2017, arXiv:1705.08741; You et al. 2020, arXiv:1904.00962",
        when="A machine takes larger batches than the one on which a regime was tuned.",
        rows=("rmt-lr-batch-scaling", "train-longer-gbn"),
        defaults={"rule": "auto: linear for SGD, sde for AdamW"},
        deviations=(
            "Exponential averages of weights keep their length in samples (Busbridge et al. 2023), in every rule that "
            "makes fewer updates.",
        ),
    )
)
def scale_batch(regime: Regime, factor: float, rule: str = "auto") -> ScaledBatch:
    """Return a regime at k times the batch, with every knob that the rule touches rewritten.

    With k = factor

    ========  ===========  ==========================================================  =====================
    rule      rate         else                                                        number of updates
    ========  ===========  ==========================================================  =====================
    linear    times k                                                                  divided by k
    sqrt      times √k                                                                 divided by k
    sde       times √k     1 - beta times k, epsilon over √k, decoupled decay times √k  divided by k
    lamb      times √k     percentages of warm-up times k                              divided by k
    updates   times √k                                                                 the same; samples times k
    ========  ===========  ==========================================================  =====================

    The samples are the same but in "updates": lengths in steps are divided by k, others stay; there lengths in samples,
    epochs and tokens are multiplied. Where fewer updates are made, the decay d of an `EMA` of weights becomes d^k.
    Schedules and controllers of a rate or batch size are multiplied as a whole.

    Parameters
    ----------
    regime : Regime
    factor : float
        k, above 0; the batch has to stay whole.
    rule : str
        One of the table, or "auto": "linear" for SGD and "sde" for AdamW, whose noise they keep in the limit of small
        rates. There is no auto for other rules: nobody has derived one that we know of.

    Returns
    -------
    ScaledBatch
        Printed, it is the list of changes.

    Raises
    ------
    DeclarationError
        If the batch would not be whole, a beta would leave [0, 1), a length would become nothing, or the rule is unknown.

    Examples
    --------
    >>> from regimes import AdamW, Cosine
    >>> base = Regime(optimizer=AdamW(lr=Cosine(0.001), betas=(0.9, 0.99)), batch_size=64, budget="4k steps")
    >>> print(scale_batch(base, 4))
    batch times 4 by the rule 'sde': the rate and decay grow as the root of the batch, 1 - beta as the batch, epsilon \
falls as the root (Malladi et al. 2022, arXiv:2205.10287)
      optimizer.lr            Cosine(0.001) -> 2.0 * Cosine(0.001)
      optimizer.betas.0       0.9 -> 0.6
      optimizer.betas.1       0.99 -> 0.96
      optimizer.eps           1e-08 -> 5e-09
      optimizer.weight_decay  0.01 -> 0.02
      batch_size              64 -> 256
      budget                  '4000 steps' -> '1000 steps'
    """
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not 0 < factor < float("inf"):
        raise DeclarationError(f"got {show(factor)}; allowed: a number above 0", "factor")
    name = _auto(regime) if rule == "auto" else rule
    if name not in RULES:
        raise DeclarationError(f"got {show(rule)}; {nearest(str(rule), ['auto', *RULES])}", "rule")
    found = RULES[name]
    # First: rates become products, whose fields have other paths.
    warmed = _warmed(regime, factor) if found.warmup else regime
    edits: dict[str, Any] = {}
    for path, value in paths.walk(warmed):
        if isinstance(value, Optimizer):
            edits |= _of_optimizer(path, value, factor, found)
        if path.endswith(".batch_size"):
            edits[path] = _batch(value, factor, path)
        if isinstance(value, EMA) and not found.updates and isinstance(value.decay, int | float):
            edits[f"{path}.decay"] = _tidy(value.decay**factor)
    made = paths.edit(warmed, edits, flatten=True)
    if found.updates:
        made = scaled(made, factor, tuple(unit for unit in AMOUNTS if unit != "steps"))
    else:
        made = scaled(made, 1.0 / factor, ("steps",))
    return ScaledBatch(made, name, factor, tuple(regime.diff(made)))


def _warmed(regime: Regime, factor: float) -> Regime:
    """With percentages of warm-up that are `factor` times as large."""
    rises = {path: value for path, value in paths.walk(regime) if path.endswith(".lr.warmup") and value.unit == "%"}
    edits = {path: Duration(_tidy(value.value * factor), "%") for path, value in rises.items()}
    return paths.edit(regime, edits) if edits else regime


def _auto(regime: Regime) -> str:
    kinds = {type(value) for path, value in paths.walk(regime) if isinstance(value, Optimizer) and hasattr(value, "lr")}
    derived: dict[type, str] = {SGD: "linear", AdamW: "sde"}
    if len(kinds) == 1 and (kind := kinds.pop()) in derived:
        return derived[kind]
    names = sorted(kind.__name__ for kind in kinds) if len(kinds) != 0 else [kind.__name__]
    raise DeclarationError(
        f"got 'auto' for {' and '.join(names)}; allowed there: {', '.join(RULES)} (auto knows rules that were derived, for SGD "
        "or AdamW alone)",
        "rule",
    )


def _of_optimizer(path: str, optimizer: Any, k: float, rule: Rule) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if hasattr(optimizer, "lr"):
        found[f"{path}.lr"] = _times(optimizer.lr, k**rule.rate)
    if not rule.moments:
        return found
    if not isinstance(optimizer, AdamW):
        if hasattr(optimizer, "lr"):
            raise DeclarationError(f"got 'sde' for {type(optimizer).__name__}; allowed for AdamW alone", "rule")
        return found
    for place, beta in enumerate(optimizer.betas):
        _refuse_moving(beta, f"{path}.betas.{place}")
        moved = 1.0 - k * (1.0 - beta)
        if not 0.0 <= moved < 1.0:
            most = 1.0 / (1.0 - beta)
            raise DeclarationError(
                f"got {k:g}, at which {beta:g} would become {moved:.3g}; allowed with this rule: at most {most:.4g}",
                "factor",
            )
        found[f"{path}.betas.{place}"] = _tidy(moved)
    _refuse_moving(optimizer.eps, f"{path}.eps")
    found[f"{path}.eps"] = _tidy(optimizer.eps / k**0.5)
    found[f"{path}.weight_decay"] = _times(optimizer.weight_decay, k**0.5)
    return found


def _refuse_moving(value: Any, path: str) -> None:
    if not isinstance(value, int | float):
        raise DeclarationError(f"got {show(value)}; allowed with the rule 'sde': a number", path)


def _times(value: Any, factor: float) -> Any:
    """A number times a factor, or a schedule or controller times it."""
    if factor == 1.0:
        return value
    return _tidy(factor) * value if isinstance(value, Schedule | Controller) else _tidy(value * factor)


def _batch(value: Any, factor: float, path: str) -> Any:
    if not isinstance(value, int | float):
        return _times(value, factor)
    made = value * factor
    if made != int(made):
        raise DeclarationError(f"got {value} times {factor:g}, which is not whole; allowed: a whole batch", path)
    return int(made)


def _tidy(value: float) -> float:
    """Without the last digits that rounding leaves."""
    return float(f"{value:.12g}")
