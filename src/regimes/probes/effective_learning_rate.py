"""How much of the learning rate is left where weights have grown?"""

from __future__ import annotations

import math

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.registry import register
from regimes.optimizers.layers import layers_of
from regimes.probes.base import ViewProbe
from regimes.probes.norms import norm
from regimes.probes.view import View


@register
class EffectiveLearningRate(ViewProbe):
    r"""Factor by which the growth of each layer's weight since step 0 has changed its effective learning rate.

    .. math:: \left( \frac{\lVert W_0 \rVert_F}{\lVert W_t \rVert_F} \right)^p

    times the declared rate is the rate at which a network with weights of their first length would turn as much. That
    holds where a norm follows the layer, so that the length of W changes nothing else. Under `NormalizeAndProject` it
    is 1.

    Values: that of every trained weight of a linear layer or convolution, under its name, and "" their geometric mean;
    infinite where a weight has become zero, not a number where it was.

    Parameters
    ----------
    power : 1 or 2
        p: 2 for SGD, whose steps grow as 1 / ||W||; 1 for rules with steps of their own length (Adam). Default 1.
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If the weights at step 0 are not given or not of this structure, or no layer is trained.

    References
    ----------
    C. Lyle et al., Normalization and effective learning rates in reinforcement learning, NeurIPS 2024,
    arXiv:2407.01800.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False); _ = torch.nn.init.constant_(model.weight, 4.0)
    >>> EffectiveLearningRate(power=2)(model, None, None, initial={"weight": torch.tensor([[1.0]])})
    {'': 0.0625, 'weight': 0.0625}
    """

    power: int = fixed(1, low=1, high=2)

    wants_initial = True
    card = Card(
        title="Effective learning rate over the declared one",
        axes=("rates",),
        source="Lyle et al. 2024, arXiv:2407.01800",
        when="A normalized network's weights grow: has the rate decayed without being asked to? It only looks, so there is no "
        "claim to re-test.",
        cost="one pass over the weights, and a copy of those at step 0",
        shelf="atlas",
        rows=("normalize-and-project",),
        deviations=("The factor alone: the rate that it multiplies is in the run's record.",),
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return the factors and their geometric mean."""
        if view.initial is None:
            raise DeclarationError("needs a value: the weights at step 0, by parameter name", "initial")
        names = [layer.weight for layer in layers_of(view.model) if layer.weight in view.parameters]
        if not names:
            raise DeclarationError(
                "EffectiveLearningRate reads linear layers and convolutions, and none is trained here; allowed: WeightNorm()"
            )
        found = {}
        for name in names:
            now, before = view.parameters[name], view.initial.get(name)
            if before is None or before.shape != now.shape:
                raise DeclarationError(
                    f"got weights without a '{name}' of the shape {tuple(now.shape)}; allowed: those of a model with the "
                    "structure of this one",
                    "initial",
                )
            found[name] = _ratio(norm([before]), norm([now])) ** self.power
        logs = [math.log(value) if value > 0.0 else -math.inf if value == 0.0 else math.nan for value in found.values()]
        return {"": math.exp(math.fsum(logs) / len(logs)), **found}


def _ratio(before: float, now: float) -> float:
    if now == 0.0:
        return math.inf if before > 0.0 else math.nan
    return before / now
