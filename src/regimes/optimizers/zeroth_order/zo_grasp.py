"""ZO-GraSP: how much of each layer is worth asking for, at initialization and from function values alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from regimes.optimizers.zeroth_order.estimators import Moved, RandomDirections, Value, mover
from regimes.optimizers.zeroth_order.estimators import moved as plainly


@torch.no_grad()
def zo_grasp_layer_ratios(
    function: Callable[[], Value],
    weights: Mapping[str, Tensor],
    share: float,
    generator: torch.Generator,
    *,
    queries: int = 192,
    mu: float = 5e-3,
    moved: Moved = plainly,
) -> dict[str, float]:
    r"""Return the share of each layer that remains when all layers together are pruned to `share` by their scores.

    With :math:`\hat g(\theta)` of `RandomDirections`, the score of each weight, of which the highest are removed, is

    .. math:: -\theta \odot \frac{\hat g(\theta + \mu\, \hat g(\theta)) - \hat g(\theta)}{\mu}

    an estimate of GraSP's :math:`-\theta \odot H g`, which is high where a weight holds the gradient back. It takes
    2 (q + 1) values.

    Parameters
    ----------
    function : callable
        ``function()`` gives the loss at the present values of `weights`.
    weights : mapping of str to Tensor
        Of the layers, by name; moved in place, and put back to the bit.
    share : float
        Of all weights together that remain.
    generator : torch.Generator
        Draws the directions, for both estimates the same: their difference is divided by mu, and would be noise else.
    queries : int
        q. Default 192, the authors' code.
    mu : float
        Default 5e-3, the authors' code.
    moved : callable
        As of `Estimator.estimate`.

    References
    ----------
    A. Chen et al., DeepZero, ICLR 2024, arXiv:2310.02025, section 4; C. Wang, G. Zhang and R. Grosse, Picking Winning
    Tickets Before Training by Preserving Gradient Flow, ICLR 2020, arXiv:2002.07376 (GraSP).

    Examples
    --------
    >>> kind, harsh = torch.full((4,), 1.0), torch.full((4,), 0.5)  # f = sum of h w^2 / 2: the score is -(h w)^2
    >>> def f(): return 0.5 * (kind.square().sum() + 9.0 * harsh.square().sum()).item()
    >>> draw = torch.Generator().manual_seed(0)
    >>> zo_grasp_layer_ratios(f, {"kind": kind, "harsh": harsh}, 0.5, draw, queries=1000)
    {'kind': 0.0, 'harsh': 1.0}
    """
    tensors, before = list(weights.values()), generator.get_state()
    estimator = RandomDirections(queries, mu=mu)
    here = estimator.estimate(function, tensors, generator, moved=moved)
    with moved(mover(tensors, here), mu):
        there = estimator.estimate(function, tensors, generator.set_state(before), moved=moved)
    scores = torch.cat([-(t * (b - a) / mu).flatten() for t, a, b in zip(tensors, here, there)])
    kept = torch.zeros_like(scores)
    kept[scores.argsort(stable=True)[: round(share * len(scores))]] = 1.0
    parts = kept.split([t.numel() for t in tensors])
    return {name: part.mean().item() for name, part in zip(weights, parts)}
