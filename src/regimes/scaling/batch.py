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
from regimes.scaling.families import class_of, decays_apart, family_of, option, rules
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
        Whether a warm-up becomes k times as large a share: as many steps as before, of k times the examples.
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
#: Adam and AdamW, ours or torch's.
_ADAMS = (("regimes", "AdamW"), ("torch", "AdamW"), ("torch", "Adam"))


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
        width = max((len(change.path) for change in self.changes), default=0)
        lines += [f"  {change.path:<{width}}  {change.old or 'default'} -> {change.new}" for change in self.changes]
        return "\n".join(lines if self.changes else [*lines, "  nothing changes"])


@described(
    Card(
        title="A regime at another batch size",
        axes=("regime", "rates"),
        source="Granziol et al. 2022, arXiv:2006.09092; Malladi et al. 2022, arXiv:2205.10287; Goyal et al. 2017, "
        "arXiv:1706.02677; Hoffer et al. 2017, arXiv:1705.08741; You et al. 2020, arXiv:1904.00962",
        when="A machine takes larger batches than the one on which a regime was tuned.",
        rows=("rmt-lr-batch-scaling", "train-longer-gbn"),
        defaults={"rule": "auto: linear for SGD, sde for Adam and AdamW"},
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
    lamb      times √k     share of the warm-up times k                                divided by k
    updates   times √k                                                                 the same; samples times k
    ========  ===========  ==========================================================  =====================

    The samples are the same but in "updates": lengths in steps are divided by k, others stay; there lengths in samples,
    epochs and tokens are multiplied. Where fewer updates are made, the decay d of an `EMA` of weights becomes d^k.
    Schedules and controllers of a rate or batch size are multiplied as a whole. In "lamb" the warm-up has as many steps as
    before (the paper's takes twice as many epochs at twice the batch): in steps it stays, in all other units it is multiplied.
    Rates are all knobs called ``lr``, those of optimizers of other packages too; where such a class has a default that a rule
    changes, it is written out.

    Parameters
    ----------
    regime : Regime
    factor : float
        k, above 0; the batch has to stay whole.
    rule : str
        One of the table, or "auto": "linear" for SGD and "sde" for Adam and AdamW, ours or torch's, whose noise they keep in
        the limit of small rates; inside `Groups` and `SAM`, too. There is no auto for other rules, nor for wrappers that
        change gradient or step (KFAC, LANTON): nobody has derived one that we know of. "sde" is for Adam and AdamW alone.

    Returns
    -------
    ScaledBatch
        Printed, it is the list of changes.

    Raises
    ------
    DeclarationError
        If the batch would not be whole, a beta would leave [0, 1), a length would become nothing, a percentage more than
        100%, the rule is unknown or not for these optimizers, or no knob is called lr.

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
    edits = _rates(warmed, factor, found)
    for path, value in paths.walk(warmed):
        if path.endswith(".batch_size"):
            edits[path] = _batch(value, factor, path)
        if isinstance(value, EMA) and not found.updates and isinstance(value.decay, int | float):
            edits[f"{path}.decay"] = _tidy(value.decay**factor)
    made = warmed if factor == 1.0 else paths.edit(warmed, edits, flatten=True)
    if found.updates:
        made = scaled(made, factor, tuple(unit for unit in AMOUNTS if unit != "steps"))
    else:
        made = scaled(made, 1.0 / factor, ("steps",))
    return ScaledBatch(made, name, factor, tuple(regime.diff(made)))


def _warmed(regime: Regime, factor: float) -> Regime:
    """With warm-ups that are `factor` times as long, of which steps are then made fewer again."""
    rises = {path: value for path, value in paths.walk(regime) if ".lr." in path and path.endswith(".warmup")}
    edits = {path: _longer(value, factor) for path, value in rises.items() if isinstance(value, Duration)}
    return paths.edit(regime, edits) if edits else regime


def _longer(length: Duration, factor: float) -> Duration:
    value = _tidy(length.value * factor)
    return Duration(float(int(value + 0.5)) if length.unit in ("samples", "tokens") else value, length.unit)


def _auto(regime: Regime) -> str:
    made = [rule for rule in rules(regime).values() if _has_rate(rule)]
    if not made:
        raise _without_rate()
    if all(map(_is_adam, made)):
        return "sde"
    if all(family_of(rule) == "sgd" and class_of(rule)[1] == "SGD" for rule in made):
        return "linear"
    names = sorted({class_of(rule)[1] for rule in made})
    raise DeclarationError(
        f"got 'auto' for {' and '.join(names)}; allowed there: {', '.join(RULES)} (auto knows rules that were derived, "
        "for SGD alone, or for Adam and AdamW without amsgrad)",
        "rule",
    )


def _has_rate(rule: Optimizer) -> bool:
    return option(rule, "lr") is not None or any(path.endswith(".lr") for path, *_ in paths.knobs(rule))


def _without_rate() -> DeclarationError:
    return DeclarationError("no knob is called lr; allowed: a regime whose optimizer has a learning rate", "optimizer")


def _is_adam(rule: Any) -> bool:
    """Whether a rule is one whose limit the paper of "sde" derives."""
    return class_of(rule) in _ADAMS and not option(rule, "amsgrad")


def _rates(regime: Regime, k: float, rule: Rule) -> dict[str, Any]:
    """What becomes of every rate and, where the rule says so, of what stands beside it."""
    owners = {f"{path}.lr": value for path, value in paths.walk(regime) if isinstance(value, Optimizer)}
    held = {path: value for path, value, _ in paths.knobs(regime) if path.endswith(".lr")}
    # A class of another package has a rate even where none is declared.
    held |= {path: option(owner, "lr") for path, owner in owners.items() if path not in held}
    rates = {path: value for path, value in held.items() if value is not None}
    if not rates:
        raise _without_rate()
    edits: dict[str, Any] = {}
    for path, value in rates.items():
        edits[path] = _times(value, k**rule.rate)
        if rule.moments:
            edits |= _moments(path.removesuffix(".lr"), owners.get(path), k)
    return edits


def _moments(path: str, optimizer: Any, k: float) -> dict[str, Any]:
    if optimizer is None or not _is_adam(optimizer):
        what = path if optimizer is None else class_of(optimizer)[1]
        raise DeclarationError(f"got 'sde' for {what}; allowed for Adam and AdamW, without amsgrad", "rule")
    betas, eps = option(optimizer, "betas"), option(optimizer, "eps")
    for place, beta in enumerate(betas):
        _refuse_moving(beta, f"{path}.betas.{place}")
        moved = 1.0 - k * (1.0 - beta)
        if not 0.0 <= moved < 1.0:
            most = 1.0 / (1.0 - beta)
            raise DeclarationError(
                f"got {k:g}, at which {beta:g} would become {moved:.3g}; allowed with this rule: at most {most:.4g}",
                "factor",
            )
    _refuse_moving(eps, f"{path}.eps")
    found: dict[str, Any] = {f"{path}.betas": tuple(_tidy(1.0 - k * (1.0 - beta)) for beta in betas)}
    found[f"{path}.eps"] = _tidy(eps / k**0.5)
    # What is added to the gradient is of the loss, and stays.
    if decays_apart(optimizer):
        found[f"{path}.weight_decay"] = _times(option(optimizer, "weight_decay"), k**0.5)
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
