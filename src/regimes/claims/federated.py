"""Does the order of examples within clients matter more where the clients differ more?"""

from __future__ import annotations

import functools

import regimes as rg
from regimes.claims.training import measured, trained


def gaps(seed: int) -> tuple[float, float]:
    """Easy examples first less an order of chance, in test accuracy: clients of Dirichlet 0.05, and of Dirichlet 100.

    Thirty rounds of ten clients, five local epochs each; both orders admit as many examples at a time.

    Parameters
    ----------
    seed : int
        Of initial weights and of the data order.
    """
    return _gap(0.05, seed), _gap(100.0, seed)


def _gap(alpha: float, seed: int) -> float:
    easy, chance = (_accuracy(alpha, order, seed) for order in ("easy", "random"))
    return easy - chance


def _accuracy(alpha: float, order: str, seed: int) -> float:
    sampler = rg.OrderedPrefix(order, over="4 epochs")
    rule = rg.FedAvg(rg.SGD(lr=0.1), local="5 epochs", sampler=sampler)
    regime = rg.Regime(optimizer=rule, batch_size=32, budget="30 steps")
    return measured(trained(_work(alpha), regime, seed))


@functools.cache
def _work(alpha: float) -> rg.Workload:
    return rg.workloads.load("digits_clients", alpha=alpha)
