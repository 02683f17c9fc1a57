"""Families of rules: how long a step is when a run becomes larger, by the class that makes the step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from regimes.core import paths
from regimes.core.errors import DeclarationError, show
from regimes.core.kinds import Optimizer
from regimes.core.regime import Regime
from regimes.optimizers.foreign.rule import Foreign, signature
from regimes.optimizers.groups import Groups
from regimes.optimizers.wrappers.sam import SAM

#: By package and class. "sgd": a step is in proportion to the gradient; "adaptive": each of its entries is about the rate,
#: whatever the gradient's size; "sign": exactly the rate; "orthogonal": all its singular values are alike, times the rate and
#: sqrt(max(1, rows / columns)); "trust ratio": as long as the weights times the rate. What is not here has no law that we
#: know of.
FAMILIES: dict[tuple[str, str], str] = {
    ("regimes", "SGD"): "sgd",
    ("regimes", "ScheduleFreeSGD"): "sgd",
    ("regimes", "AdamW"): "adaptive",
    ("regimes", "SPAM"): "adaptive",
    ("regimes", "StableSPAM"): "adaptive",
    ("regimes", "ScheduleFreeAdamW"): "adaptive",
    ("regimes", "Lion"): "sign",
    ("regimes", "Muon"): "orthogonal",
    ("regimes", "NorMuon"): "orthogonal",
    ("regimes", "LAMB"): "trust ratio",
    ("regimes", "LARS"): "trust ratio",
    ("torch", "SGD"): "sgd",
    ("torch", "Adam"): "adaptive",
    ("torch", "AdamW"): "adaptive",
    ("torch", "NAdam"): "adaptive",
    ("torch", "Adamax"): "adaptive",
    ("torch", "RMSprop"): "adaptive",
    ("torch", "Muon"): "orthogonal",
    ("pytorch_optimizer", "Lion"): "sign",
    ("pytorch_optimizer", "SignSGD"): "sign",
    ("pytorch_optimizer", "Tiger"): "sign",
}
#: What the singular values of an orthogonal step are multiplied by instead, by the value of its option: 0.2 sqrt(max(rows,
#: columns)), which grows with the width.
_MATCHED = "match_rms_adamw"
#: By which rule a class of another package is declared.
_BY_NAME = {"torch": "Torch", "pytorch_optimizer": "PytorchOptimizer"}


def class_of(rule: Optimizer) -> tuple[str, str]:
    """Return package and name of the class that makes a rule's steps: of a rule by name, the class so called.

    Examples
    --------
    >>> from regimes.optimizers import SGD, Torch
    >>> class_of(SGD()), class_of(Torch("AdamW"))
    (('regimes', 'SGD'), ('torch', 'AdamW'))
    """
    made = rule.find(rule.name) if isinstance(rule, Foreign) else type(rule)
    return made.__module__.split(".")[0], made.__name__


def option(rule: Optimizer, name: str) -> Any:
    """Return what a rule has under a name: as declared, or the default of the class of another package; None for nothing.

    Examples
    --------
    >>> from regimes.optimizers import Torch
    >>> option(Torch("AdamW", lr=0.1), "lr"), option(Torch("AdamW", lr=0.1), "eps"), option(Torch("SGD"), "eps")
    (0.1, 1e-08, None)
    """
    held = dict(rule.children())
    if name in held or not isinstance(rule, Foreign):
        return held.get(name)
    known = signature(rule.find(rule.name)).get(name)
    return None if known is None or known.default is known.empty else known.default


def family_of(rule: Optimizer) -> str | None:
    """Return the family of a rule, None where nothing is known of it.

    Examples
    --------
    >>> from regimes.optimizers import Lion, Muon, Torch
    >>> family_of(Lion()), family_of(Torch("Adam")), family_of(Torch("Rprop"))
    ('sign', 'adaptive', None)
    >>> family_of(Muon()), family_of(Muon(adjust_lr="match_rms_adamw"))
    ('orthogonal', 'matched orthogonal')
    """
    found = FAMILIES.get(class_of(rule))
    if found == "orthogonal" and _MATCHED in (option(rule, "adjust_lr"), option(rule, "adjust_lr_fn")):
        return "matched orthogonal"
    return found


def decays_apart(rule: Optimizer) -> bool:
    """Whether a rule takes the rate times its weight_decay off the weights, beside its step: AdamW's decay, not Adam's.

    Examples
    --------
    >>> from regimes.optimizers import AdamW, Torch
    >>> decays_apart(AdamW()), decays_apart(Torch("Adam")), decays_apart(Torch("Adam", decoupled_weight_decay=True))
    (True, False, True)
    """
    return class_of(rule)[1] == "AdamW" or option(rule, "decoupled_weight_decay") is True


def rules(regime: Regime) -> dict[str, Optimizer]:
    """Return what makes the steps, by path: rules inside `Groups` and `SAM`, which leave a step as it is; else the outermost.

    Examples
    --------
    >>> from regimes import KFAC, SAM, SGD, Regime
    >>> made = lambda rule: rules(Regime(optimizer=rule, batch_size=8, budget="9 steps"))
    >>> made(SAM(SGD())), list(made(KFAC(SGD())))
    ({'main.optimizer.base': SGD()}, ['main.optimizer'])
    """
    found: dict[str, Optimizer] = {}
    for path, value in paths.walk(regime):
        inside = path.startswith(tuple(f"{outer}." for outer in found))
        if isinstance(value, Optimizer) and not isinstance(value, Groups | SAM) and not inside:
            found[path] = value
    return found


def families(regime: Regime, rates: Iterable[str]) -> dict[str, str]:
    """Return the family behind each rate, by the path of the rate.

    Raises
    ------
    DeclarationError
        If a rate is of a rule of no known family, or of one inside a rule that makes another step of its own.
    """
    made, found = rules(regime), dict[str, str]()
    for path in rates:
        outer = next((place for place in made if path.startswith(f"{place}.")), None)
        family = family_of(made[outer]) if outer is not None and path == f"{outer}.lr" else None
        if family is None:
            what = path if outer is None else show(made[outer])
            raise DeclarationError(
                f"got {what}, of whose steps nothing is known here; allowed: {known()}", outer or path
            )
        found[path] = family
    return found


def known(*families: str) -> str:
    """Return in words the rules of these families, of all without any."""
    own: list[str] = []
    for (package, name), family in FAMILIES.items():
        if not families or family in families:
            own.append(name if package == "regimes" else f"{_BY_NAME[package]}('{name}')")
    return ", ".join(own)
