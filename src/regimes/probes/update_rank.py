"""In how many directions does a step move each matrix?"""

from __future__ import annotations

import math

import torch

from regimes.core.card import Card
from regimes.core.errors import DeclarationError
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.view import View


@register
class UpdateRank(ViewProbe):
    r"""Stable rank and condition number of the step's update, matrix by matrix.

    With the singular values s_1 >= ... >= s_r of W_t - W_{t-1}, r the smaller side (a convolution's kernel counts as
    (out, in * height * width))

    .. math:: \frac{\sum_i s_i^2}{s_1^2} \in [1, r], \qquad \frac{s_1}{s_r}

    Values are named ``stable_rank/<parameter>`` and ``condition_number/<parameter>``; of a matrix that did not move they
    are 0 and infinity, and of one of lower rank than r the condition is infinite. What decay takes away is part of the
    update. Weights of float32 are rounded to 1e-7 of their size, and so are the smallest singular values.

    Parameters
    ----------
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        In a loop of one's own, without ``previous=``.

    References
    ----------
    J. Wang et al., Conda: Column-Normalized Adam for Training Large Language Models Faster, 2025, arXiv:2509.24218
    (condition of Adam's update); M. Rudelson and R. Vershynin, Sampling from large matrices, 2007 (stable rank).

    Examples
    --------
    >>> model = torch.nn.Linear(2, 2); before = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
    >>> _ = model.weight.data.copy_(torch.diag(torch.tensor([4.0, 2.0])))
    >>> UpdateRank()(model, None, None, previous=before)
    {'stable_rank/weight': 1.25, 'condition_number/weight': 2.0}
    """

    wants_previous = True
    card = Card(
        title="Stable rank and condition of the update",
        axes=("rates",),
        source="Wang et al. 2025, arXiv:2509.24218",
        when="Does a rule move a matrix along all its directions, as Muon and Conda are made to?",
        cost="one copy of the weights, the singular values of every matrix",
        shelf="atlas",
        rows=("conda",),
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return both numbers of every matrix."""
        if view.previous is None:
            raise DeclarationError("needs a value: the weights before the step, by parameter name", "previous")
        ranks, conditions = {}, {}
        for name, p in view.parameters.items():
            if p.ndim >= 2:
                moved = (p.detach().double() - view.previous[name].double()).flatten(1)
                s = torch.linalg.svdvals(moved)
                largest, least = s[0].item(), s[-1].item()
                rounding = max(moved.shape) * torch.finfo(torch.float64).eps * largest
                ranks[f"stable_rank/{name}"] = (s / largest).square().sum().item() if largest > 0.0 else 0.0
                conditions[f"condition_number/{name}"] = largest / least if least > rounding else math.inf
        return ranks | conditions
