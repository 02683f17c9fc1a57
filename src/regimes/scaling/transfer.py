"""A learning rate for a larger run: by which rule it moves, why, and how uncertain that is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from regimes.core.errors import DeclarationError, nearest, show


class Law(NamedTuple):
    """rate ~ size^exponent.

    Parameters
    ----------
    exponent, least, most : float
        What is used, and the range that the literature leaves.
    why : str
    """

    exponent: float
    least: float
    most: float
    why: str


_LENGTHENED = "residual branches add up as a random walk, arXiv:2310.02244"
_TOKENS = "scaling law of language models, arXiv:2409.19913"
_UNMEASURED = "measured for adaptive rules only, arXiv:2409.19913"
_OF_MUON = "measured for Muon with weights of one length, arXiv:2603.28743"
_ENTRIES = "muP's rule for hidden matrices, arXiv:2203.03466; groups.mup gives it to them alone"

#: By what grows and by the family of the rule, which is that of `regimes.scaling.families`.
LAWS: dict[str, dict[str, Law]] = {
    "width": {
        "sgd": Law(
            -1.0, -1.0, 0.0, "the largest stable rate of standard layers, arXiv:2203.03466; that of groups.mup stays"
        ),
        "adaptive": Law(-1.0, -1.0, -0.5, _ENTRIES),
        "sign": Law(-1.0, -1.0, -0.5, _ENTRIES),
        # The spectral norm of a step is to keep its size (Yang, Simon and Bernstein 2023). Of an orthogonal step it is the
        # rate times s: s is of the ratio of the sides alone, or, matched, 0.2 sqrt(max(rows, columns)), hence half a power less.
        "orthogonal": Law(
            0.0,
            -0.5,
            0.0,
            "the spectral norm of a step is the rate times sqrt(max(1, rows / columns)), arXiv:2310.17813",
        ),
        "matched orthogonal": Law(
            -0.5, -1.0, -0.5, "the spectral norm of a step grows as sqrt(max(rows, columns)), arXiv:2310.17813"
        ),
        # ||step||_F = rate ||W||_F, which grows as the root of the width while the spectral norm of W stays. That of the step
        # is as large as ||step||_F where its rank is low, and stays where it is full.
        "trust ratio": Law(
            -0.5,
            -0.5,
            0.0,
            "a step of low rank, its length that of the weights, which grows as the root, arXiv:2310.17813",
        ),
    },
    "depth": dict.fromkeys(
        ("sgd", "adaptive", "sign", "orthogonal", "matched orthogonal", "trust ratio"),
        Law(-0.5, -1.0, 0.0, _LENGTHENED),
    ),
    "batch": {
        "sgd": Law(1.0, 0.0, 1.0, "linear rule, arXiv:1706.02677"),
        "adaptive": Law(
            0.5, 0.0, 1.0, "square-root rule, arXiv:2006.09092, arXiv:2205.10287; from 0.5 to 1 in arXiv:1812.06162"
        ),
        "sign": Law(
            0.5,
            -0.5,
            0.5,
            "the sign of a noisy gradient, whose rate falls again when the noise is gone, arXiv:2405.14578",
        ),
        "orthogonal": Law(0.5, 0.0, 1.0, "as an adaptive rule's: derived and measured by nobody that we know of"),
        "matched orthogonal": Law(
            0.5, 0.0, 1.0, "as an adaptive rule's: derived and measured by nobody that we know of"
        ),
        "trust ratio": Law(
            0.5, 0.0, 1.0, "square-root rule of LAMB, arXiv:1904.00962; linear of LARS, arXiv:1708.03888"
        ),
    },
    "budget": {
        "sgd": Law(-0.32, -0.5, 0.0, _UNMEASURED),
        "adaptive": Law(-0.32, -0.5, 0.0, _TOKENS),
        "sign": Law(-0.32, -0.5, 0.0, _UNMEASURED),
        "orthogonal": Law(-0.32, -0.5, 0.0, _OF_MUON),
        "matched orthogonal": Law(-0.32, -0.5, 0.0, _OF_MUON),
        "trust ratio": Law(-0.32, -0.5, 0.0, _UNMEASURED),
    },
}
_CHANGE = re.compile(r"^\s*(\w+)\s*=\s*([0-9.eE+]+)\s*->\s*([0-9.eE+]+)\s*$")


class Change(NamedTuple):
    """What grows, from where to where."""

    what: str
    old: float
    new: float


@dataclass(frozen=True)
class Transferred:
    """A rate for the larger run.

    Parameters
    ----------
    rate, low, high : float
        The interval holds the tuned interval, moved by the least and by the most that the laws' ranges allow.
    reasons : tuple of str
        One sentence for each change.
    """

    rate: float
    low: float
    high: float
    reasons: tuple[str, ...]


def changes(text: str) -> list[Change]:
    """Read ``width=256->1024,batch=64->512``.

    Raises
    ------
    DeclarationError
        For what is no such list, an unknown size, one named twice, or one that is not above 0.

    Examples
    --------
    >>> changes("width=256->1024, batch=64->512")
    [Change(what='width', old=256.0, new=1024.0), Change(what='batch', old=64.0, new=512.0)]
    """
    found: list[Change] = []
    for part in text.split(","):
        match = _CHANGE.match(part)
        if match is None:
            raise DeclarationError(
                f"got {show(part)}; allowed: for example 'width=256->1024,batch=64->512'", "transfer"
            )
        what, old, new = match[1], *map(_number, match.groups()[1:])
        if what not in LAWS:
            raise DeclarationError(f"got '{what}'; {nearest(what, LAWS)}", "transfer")
        if not (0 < old < math.inf and 0 < new < math.inf) or what in {change.what for change in found}:
            raise DeclarationError(f"got {show(part)}; allowed: two numbers above 0, each size once", "transfer")
        found.append(Change(what, old, new))
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def transfer(
    rate: float, low: float, high: float, wanted: list[Change], family: str, noise_scale: float | None = None,
    laws: Mapping[str, Mapping[str, Law]] = LAWS,
) -> Transferred:  # fmt: skip
    r"""Return the rate for a run of other sizes.

    Each size moves the rate by (new / old)^exponent. Where the gradient noise scale B_n is known, the batch's law is
    instead (McCandlish et al. 2018, with exponent a)

    .. math:: \frac{\eta(B')}{\eta(B)} = \left(\frac{1 + B_n / B}{1 + B_n / B'}\right)^a

    which is the plain law far below B_n, and 1 far above it.

    Parameters
    ----------
    rate, low, high : float
        Tuned, with its interval.
    wanted : list of Change
    family : str
        Of the rule: "sgd", "adaptive", "sign", "orthogonal", "matched orthogonal" or "trust ratio"
        (`regimes.scaling.families.family_of`).
    noise_scale : float, optional
        B_n, in examples.

    Raises
    ------
    DeclarationError
        If no law is known of the family.

    Examples
    --------
    >>> found = transfer(0.01, 0.005, 0.02, changes("width=256->1024"), "adaptive")
    >>> found.rate, found.low, found.high
    (0.0025, 0.00125, 0.01)
    >>> found.reasons[0].split("; ")  # doctest: +NORMALIZE_WHITESPACE
    ["width 256 -> 1024: rate times 0.25 (muP's rule for hidden matrices, arXiv:2203.03466",
     'groups.mup gives it to them alone', 'exponent -1, from -1 to -0.5)']
    """
    reasons = []
    for what, old, new in wanted:
        if family not in laws[what]:
            raise DeclarationError(f"got '{family}'; {nearest(family, laws[what])}", "family")
        law = laws[what][family]
        ratio, told = new / old, law.why
        if what == "batch" and noise_scale is not None and math.isfinite(noise_scale):
            ratio = (1.0 + noise_scale / old) / (1.0 + noise_scale / new)
            told += f", levelling off at the measured noise scale of {noise_scale:.3g} examples, arXiv:1812.06162"
        factors = [ratio**exponent for exponent in (law.exponent, law.least, law.most)]
        rate, low, high = rate * factors[0], low * min(factors), high * max(factors)
        reasons.append(
            f"{what} {old:g} -> {new:g}: rate times {factors[0]:.3g} ({told}; exponent {law.exponent:g}, "
            f"from {law.least:g} to {law.most:g})"
        )
    return Transferred(rate, low, high, tuple(reasons))
