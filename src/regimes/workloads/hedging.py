"""Hedging an option at proportional costs: simulated paths, a recurrent policy, the risk of what is left at the end."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor, nn

from regimes.engine.workload import Workload
from regimes.losses import MSE
from regimes.workloads.synthetic import philox

#: Price at the beginning and strike: amounts are in percent of them.
PRICE = 100.0
#: Variance a year at the beginning, to which it returns; length of a step in years.
VARIANCE, STEP = 0.04, 1 / 365
#: Of Heston's variance: speed of its return, its volatility, its correlation with the price.
HESTON = {"speed": 1.0, "volatility": 0.5, "correlation": -0.7}
MARKETS = ("heston", "black_scholes")


def heston_paths(
    normals: np.ndarray, *, speed: float, volatility: float, correlation: float, variance: float = VARIANCE
) -> np.ndarray:
    r"""Return paths of price and variance of Heston's model without drift or interest.

    With z, z' independent standard normal, :math:`v^+ = \max(v, 0)` and step h (full truncation)

    .. math::
        \log S_{t+1} &= \log S_t - \tfrac12 v^+_t h + \sqrt{v^+_t h}\; z_t \\
        v_{t+1} &= v_t + \kappa (\theta - v^+_t) h + \xi \sqrt{v^+_t h}\; (\rho z_t + \sqrt{1 - \rho^2}\, z'_t)

    so that prices are a martingale at any h. At a volatility of 0 these are Black's and Scholes's paths.

    Parameters
    ----------
    normals : array, shape (paths, steps, 2)
        z and z'.
    speed, volatility, correlation : float
        kappa, xi and rho.
    variance : float
        theta, at which v begins, too. Default 0.04 a year.

    Returns
    -------
    array, shape (paths, steps + 1, 2)
        S, from 100 on, and v^+.

    References
    ----------
    S. Heston, A Closed-Form Solution for Options with Stochastic Volatility, 1993; R. Lord, R. Koekkoek and
    D. van Dijk, A Comparison of Biased Simulation Schemes for Stochastic Volatility Models, 2010.

    Examples
    --------
    >>> heston_paths(np.zeros((1, 2, 2)), speed=1.0, volatility=0.0, correlation=0.0).round(4).tolist()
    [[[100.0, 0.04], [99.9945, 0.04], [99.989, 0.04]]]
    """
    paths, steps, _ = normals.shape
    log_price, v = np.full(paths, math.log(PRICE)), np.full(paths, variance)
    found = np.empty((paths, steps + 1, 2))
    found[:, 0] = PRICE, variance
    for t in range(steps):
        known = np.maximum(v, 0.0)
        root, (z, other) = np.sqrt(known * STEP), normals[:, t].T
        log_price = log_price - 0.5 * known * STEP + root * z
        mixed = correlation * z + math.sqrt(1.0 - correlation**2) * other
        v = v + speed * (variance - known) * STEP + volatility * root * mixed
        found[:, t + 1] = np.stack([np.exp(log_price), np.maximum(v, 0.0)], 1)
    return found


def profits(paths: Tensor, positions: Tensor, cost: float) -> Tensor:
    r"""Return what is left at the end of each path to the seller of a call at the money.

    .. math:: -\max(S_T - K, 0) + \sum_{t < T} \delta_t (S_{t+1} - S_t)
              - c \sum_{t \le T} S_t\, |\delta_t - \delta_{t-1}|, \qquad \delta_{-1} = \delta_T = 0

    Parameters
    ----------
    paths : Tensor, shape (n, T + 1, 2)
    positions : Tensor, shape (n, T)
        delta: how much of the asset is held from t to t + 1.
    cost : float
        c, of the amount that is traded.

    Returns
    -------
    Tensor, shape (n,)

    References
    ----------
    H. Buehler, L. Gonon, J. Teichmann and B. Wood, Deep Hedging, Quantitative Finance 19, 2019, arXiv:1802.03042.

    Examples
    --------
    >>> paths = torch.tensor([[[100.0, 0.04], [110.0, 0.04]]])
    >>> profits(paths, torch.tensor([[0.5]]), 0.01)  # -10 + 5 - 0.5 - 0.55
    tensor([-6.0500])
    """
    prices = paths[..., 0]
    flat = positions.new_zeros(len(positions), 1)
    traded = torch.diff(positions, dim=1, prepend=flat, append=flat).abs()
    gains = (positions * prices.diff(dim=1)).sum(1)
    return gains - (prices[:, -1] - PRICE).clamp(min=0.0) - cost * (prices * traded).sum(1)


class HedgingPolicy(nn.Module):
    """An LSTM that says from price, variance, time and its last position the next one.

    Its gates are `nn.Linear`, called once a step, so that rules that look at layers see them. The output is the profit
    above a learned constant: what an investor pays in at the beginning. With squared error and targets of 0 it is trained
    to hedge with the least variance.

    Parameters
    ----------
    hidden : int
        Width of the state. Default 16.
    cost : float
        Of the amount that is traded. Default 0.001.

    Examples
    --------
    >>> policy = HedgingPolicy()
    >>> policy(torch.ones(3, 31, 2)).shape, sum(p.numel() for p in policy.parameters())
    (torch.Size([3, 1]), 1362)
    """

    def __init__(self, hidden: int = 16, cost: float = 0.001) -> None:
        super().__init__()
        self.cost = cost
        self.given, self.back = nn.Linear(4, 4 * hidden), nn.Linear(hidden, 4 * hidden, bias=False)
        self.head = nn.Linear(hidden, 1)
        self.constant = nn.Parameter(torch.zeros(1))

    def positions(self, paths: Tensor) -> Tensor:
        """Return the position at each time but the last, shape (n, T)."""
        steps = paths.shape[1] - 1
        moneyness = (paths[..., 0] / PRICE).log() / math.sqrt(VARIANCE * STEP * steps)
        seen = torch.stack([moneyness, paths[..., 1] / VARIANCE], 2)
        hidden = cell = paths.new_zeros(len(paths), self.back.in_features)
        made = [paths.new_zeros(len(paths), 1)]
        for t in range(steps):
            left = paths.new_full((len(paths), 1), 1.0 - t / steps)
            gates = self.given(torch.cat([seen[:, t], left, made[-1]], 1)) + self.back(hidden)
            enter, forget, new, leave = gates.chunk(4, 1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            made.append(self.head(hidden))
        return torch.cat(made[1:], 1)

    def forward(self, paths: Tensor) -> Tensor:
        """Map paths ``[n, T + 1, 2]`` to profits less the constant, ``[n, 1]``."""
        return profits(paths, self.positions(paths), self.cost)[:, None] - self.constant


def hedging(
    market: str = "heston", steps: int = 30, hidden: int = 16, cost: float = 0.001, examples: int = 4096, seed: int = 0
) -> Workload:
    """Return the hedging of a call at the money on simulated paths, by an LSTM that trades once a day.

    The loss is the squared distance of the profit from a learned constant, in percent of the first price: the least of
    it is the smallest variance that trading leaves.

    Parameters
    ----------
    market : "heston" or "black_scholes"
        Whether the variance is random. Default "heston".
    steps : int
        Days. Default 30.
    hidden : int
        Width of the LSTM. Default 16.
    cost : float
        Of the amount that is traded. Default 0.001.
    examples : int
        Paths in train; a quarter as many each in val and test. Default 4,096.
    seed : int
        Decides which paths.

    Raises
    ------
    ValueError
        For another market.
    """
    if market not in MARKETS:
        raise ValueError(f"market: got {market!r}; allowed are {', '.join(map(repr, MARKETS))}.")
    of_variance = HESTON if market == "heston" else dict.fromkeys(HESTON, 0.0)

    def split(name: str, count: int) -> tuple[Tensor, Tensor]:
        normals = philox(f"hedging {name}", seed).standard_normal((count, steps, 2))
        return torch.from_numpy(heston_paths(normals, **of_variance)).float(), torch.zeros(count, 1)

    return Workload(
        model=functools.partial(HedgingPolicy, hidden, cost),
        train=split("train", examples),
        val=split("val", examples // 4),
        test=split("test", examples // 4),
        loss=MSE(),
        name="hedging",
    )
