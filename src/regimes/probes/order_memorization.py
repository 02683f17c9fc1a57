"""Does a model remember the order in which another run saw its examples?"""

from __future__ import annotations

import math
from itertools import permutations as orders_of
from typing import Any, Literal, NamedTuple

import numpy as np

from regimes.core.card import Card, Claim, described
from regimes.core.errors import DeclarationError, show
from regimes.core.randomness import philox

#: Most examples of which all orders are tried.
_ENUMERATED = 8
#: Numbers in one block of permuted orders.
_BLOCK = 1 << 22


class OrderMemorization(NamedTuple):
    """What the test of a model against an order found.

    Parameters
    ----------
    rho : float
        Spearman's correlation of how well examples are remembered with when they were trained on; positive where later
        ones are remembered better, not a number where it is undefined.
    p : float
        Chance of a correlation as large, or larger, if the model knew nothing of the order.
    """

    rho: float
    p: float


@described(
    Card(
        title="Whether a model remembers the order in which a run saw its examples",
        axes=("order",),
        source="Kuditipudi et al. 2025, Blackbox Model Provenance via Palimpsestic Membership Inference",
        when="A model of unknown origin, and a run whose order of data is known (`regimes.diagnosis.order.trained_at`).",
        cost="one forward over the examples that are asked about",
        shelf="atlas",
        rows=("palimpsestic-membership",),
        deviations=(
            "Tests A and B for texts (matching pieces of text, reshuffled tails) are not built: this is the test by queries.",
        ),
        claims=(
            Claim(
                "After one pass over 3,000 snippets and 50 steps on other text, -log10 p of the order of that pass is above "
                "that of an order that was never trained in, by three.",
                {"seeds": 8, "margin": 3.0, "scale": "tagged snippets of source, character GRU of 0.07 M parameters"},
                paper_scale="Pythia and OLMo, 1B to 12B",
                measure="regimes.claims.order_memorization:evidence",
            ),
        ),
    )
)
def order_memorization_test(
    losses: Any,
    reference_losses: Any | None,
    steps: Any,
    *,
    method: Literal["auto", "exact", "t", "permutation"] = "auto",
    permutations: int = 9999,
    seed: int = 0,
) -> OrderMemorization:
    r"""Test whether a model derives from a run, by the order of the run's examples.

    Examples that were trained on late are remembered better. With l_i the loss of example i under the model that is
    suspected, l_i^0 under a reference, which has nothing to do with the run and takes out how easy the example is, and
    t_i the step at which the run trained on it,

    .. math:: \rho = \mathrm{Spearman}(\ell^0_i - \ell_i,\; t_i)

    If the order was drawn at random and the model knows nothing of it, every order is as likely as the one there was,
    whatever the data and both models: p is the share of orders with a rho as large.

    Parameters
    ----------
    losses : array of shape (n,)
        l_i, the suspect's loss of each example.
    reference_losses : array of shape (n,), or None
        l_i^0. The best reference was trained on the same data in another order; None is no reference, at a loss of power.
    steps : array of shape (n,)
        t_i, as `regimes.diagnosis.trained_at` gives it of one source. Only their order counts.
    method : "auto", "exact", "t" or "permutation"
        How p is computed: over all n! orders (n at most 8), by Student's t with n - 2 degrees of freedom, which is close
        for more, or over random orders, which is exact for any n. Default exact where it can be, else t.
    permutations : int
        Random orders. Default 9999: p is at least 1 / 10,000.
    seed : int
        Of the random orders.

    Returns
    -------
    OrderMemorization
        (rho, p). Where all losses, or all steps, are equal, rho is not a number and p is 1.

    Raises
    ------
    DeclarationError
        For numbers that are not finite, arrays of several lengths, and "exact" of more than 8 examples.

    Notes
    -----
    The test is one-sided: a model that forgets what it saw last has a p near 1. By t, p is not below 1 / n!, the least
    that any order can have.

    References
    ----------
    R. Kuditipudi, J. Huang, S. Zhu, D. Yang, C. Potts and P. Liang, Blackbox Model Provenance via Palimpsestic Membership
    Inference, 2025, arXiv:2510.19796, the query setting with a reference.

    Examples
    --------
    >>> order_memorization_test([2.0, 1.5, 1.2, 0.3], [2.1, 1.9, 1.8, 1.9], [0, 10, 20, 30])
    OrderMemorization(rho=1.0, p=0.041666666666666664)
    >>> order_memorization_test([1.0, 1.0, 1.0], None, [0, 10, 20])
    OrderMemorization(rho=nan, p=1.0)
    """
    values, when = _numbers(losses, "losses"), _numbers(steps, "steps")
    easy = np.zeros(len(values)) if reference_losses is None else _numbers(reference_losses, "reference_losses")
    if not len(values) == len(easy) == len(when):
        raise DeclarationError(
            f"got {len(values)} losses, {len(easy)} of the reference and {len(when)} steps; allowed: one of each per "
            "example",
            "losses",
        )
    x, y = _ranks(easy - values), _ranks(when)
    n, size = len(x), math.sqrt(float(x @ x) * float(y @ y))
    if size == 0.0:
        return OrderMemorization(math.nan, 1.0)
    rho = min(max(float(x @ y) / size, -1.0), 1.0)
    chosen = ("exact" if n <= _ENUMERATED else "t") if method == "auto" else method
    if chosen == "exact":
        return OrderMemorization(rho, _enumerated(x, y))
    if chosen == "permutation":
        return OrderMemorization(rho, _sampled(x, y, permutations, seed))
    if chosen == "t":
        return OrderMemorization(rho, _by_t(rho, n))
    raise DeclarationError(f"got {show(method)}; allowed: 'auto', 'exact', 't' or 'permutation'", "method")


def _numbers(values: Any, key: str) -> np.ndarray:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)
    if array.ndim != 1:
        raise DeclarationError(f"got an array of shape {array.shape}; allowed: one number per example", key)
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise DeclarationError(
            f"got {array[bad[0]]} at place {bad[0]}; allowed: finite numbers (leave out examples that were never trained "
            "on)",
            key,
        )
    return array


def _ranks(values: np.ndarray) -> np.ndarray:
    """Twice the middle ranks, less their mean: whole numbers, so that sums of products are exact."""
    from scipy.stats import rankdata  # takes a second to load

    return 2.0 * rankdata(values) - (len(values) + 1.0)


def _enumerated(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) > _ENUMERATED:
        raise DeclarationError(
            f"got 'exact' for {len(x)} examples; allowed: at most {_ENUMERATED}, or method='permutation'", "method"
        )
    return float(np.mean(np.array(list(orders_of(y))) @ x >= x @ y))


def _sampled(x: np.ndarray, y: np.ndarray, count: int, seed: int) -> float:
    if count < 1:
        raise DeclarationError(f"got {count}; allowed: an integer from 1 on", "permutations")
    generator, most, larger = philox(seed, "order memorization"), max(_BLOCK // len(x), 1), 0
    for start in range(0, count, most):
        block = np.tile(y, (min(most, count - start), 1))
        larger += int(np.sum(generator.permuted(block, axis=1) @ x >= x @ y))
    return (1 + larger) / (1 + count)


def _by_t(rho: float, n: int) -> float:
    from scipy.stats import t as student_t

    if n < 3:
        raise DeclarationError(f"got 't' for {n} examples; allowed: at least 3, or method='exact'", "method")
    least = math.exp(-math.lgamma(n + 1))
    if abs(rho) == 1.0:
        return least if rho > 0.0 else 1.0
    return max(float(student_t.sf(rho * math.sqrt((n - 2) / (1.0 - rho * rho)), n - 2)), least)
