"""How far have the weights come from where they began?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from regimes.core.card import Card, Claim
from regimes.core.errors import DeclarationError
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.norms import norm
from regimes.probes.view import View


@register
class DistanceFromStart(ViewProbe):
    r"""Euclidean distance of the trained weights from those at step 0.

    .. math:: \lVert \theta_t - \theta_0 \rVert_2

    In the phase of a high rate it is found to grow as log t, and with the number of updates rather than of examples; a
    series of measurements can be fitted by `log_growth`.

    Parameters
    ----------
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If the weights at step 0 are not given, or are not of this structure.

    References
    ----------
    E. Hoffer, I. Hubara and D. Soudry, Train longer, generalize better: closing the generalization gap in large batch
    training of neural networks, NeurIPS 2017, arXiv:1705.08741.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False); _ = torch.nn.init.constant_(model.weight, 4.0)
    >>> DistanceFromStart()(model, None, None, initial={"weight": torch.tensor([[1.0, 0.0]])})
    {'': 5.0}
    """

    wants_initial = True
    card = Card(
        title="Distance of the weights from their start",
        axes=("regime",),
        source="Hoffer et al. 2017, arXiv:1705.08741",
        when="Does a larger batch travel as far, or has it made too few updates?",
        cost="one pass over the weights, and a copy of those at step 0",
        shelf="atlas",
        rows=("train-longer-gbn",),
        deviations=("A probe has no memory: the fit on log t is a function of the measured series, log_growth.",),
        claims=(
            Claim(
                "At a constant rate the distance is nearer to a line in log t than to one in the root of t (share of variance "
                "explained, steps 10 to 600).",
                {"seeds": 6, "margin": 0.01, "scale": "digits, MLP of 4,810 parameters, momentum, batch 32, 600 steps"},
                paper_scale="ResNet44 on CIFAR-10, before the rate is lowered",
                measure="regimes.claims.ghosts:slow_diffusion",
            ),
        ),
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return the distance."""
        if view.initial is None:
            raise DeclarationError("needs a value: the weights at step 0, by parameter name", "initial")
        for name, p in view.parameters.items():
            if name not in view.initial or view.initial[name].shape != p.shape:
                raise DeclarationError(
                    f"got weights without a '{name}' of the shape {tuple(p.shape)}; allowed: those of a model with the "
                    "structure of this one",
                    "initial",
                )
        return {"": norm(p.detach() - view.initial[name] for name, p in view.parameters.items())}


class LogGrowth(NamedTuple):
    """Least squares of distances on log steps: the slope, the value at step 1, and the share of variance explained."""

    slope: float
    intercept: float
    explained: float


def log_growth(steps: Sequence[float], distances: Sequence[float]) -> LogGrowth:
    r"""Fit d = slope log(t) + intercept by least squares; compare the slopes of two batch sizes.

    Parameters
    ----------
    steps : sequence of float
        t, above 0, at least two different ones.
    distances : sequence of float
        d, as many.

    Raises
    ------
    DeclarationError
        If there are fewer than two different steps, one is not above 0, or the lengths differ.

    References
    ----------
    E. Hoffer, I. Hubara and D. Soudry, 2017, arXiv:1705.08741.

    Examples
    --------
    >>> fit = log_growth([1, 10, 100], [1.0, 3.0, 5.0])
    >>> round(fit.slope * math.log(10), 6), round(fit.intercept, 6), round(fit.explained, 6)
    (2.0, 1.0, 1.0)
    """
    if len(steps) != len(distances) or len(set(steps)) < 2 or min(steps) <= 0:
        raise DeclarationError(
            f"got {len(steps)} for {len(distances)} distances; allowed: as many, above 0, not all equal", "steps"
        )
    x = [math.log(step) for step in steps]
    mean_x, mean_d = math.fsum(x) / len(x), math.fsum(distances) / len(x)
    spread = math.fsum((one - mean_x) ** 2 for one in x)
    slope = math.fsum((one - mean_x) * (d - mean_d) for one, d in zip(x, distances)) / spread
    total = math.fsum((d - mean_d) ** 2 for d in distances)
    return LogGrowth(slope, mean_d - slope * mean_x, slope**2 * spread / total if total > 0.0 else 1.0)
