"""Do gradients come near the eps of Adam?"""

from __future__ import annotations

import math

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.notice import notice
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.norms import by_layer, layer
from regimes.probes.view import View

#: Within this factor of eps a layer is named in a warning.
_NEAR = 10.0


@register
class GradientRMS(ViewProbe):
    r"""Root mean square of the gradient, layer by layer, on the step's batch; a warning where it is as small as Adam's eps.

    For the n_l parameters of layer l (the module that owns them)

    .. math:: \sqrt{\frac{1}{n_l} \sum_{i \in l} g_i^2}

    Adam divides by sqrt(v) + eps, and sqrt(v) is of this size: where it comes near eps, updates vanish. The paper finds that
    it falls with the size of the model and with the rate, so that a small model can tell when a large one will need a
    smaller eps. A layer below ten times eps is named in a warning, once; one whose gradient is zero is not (nothing reaches
    it).

    Values are named by layer; "" is the smallest that is not zero.

    Parameters
    ----------
    eps : float
        That of the rule. Default 1e-8, Adam's.
    every : Duration
        Cadence. Default 5% of the phase.

    References
    ----------
    M. Wortsman et al., Small-scale proxies for large-scale Transformer training instabilities, ICLR 2024, arXiv:2309.14322,
    section 3.4.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> found = GradientRMS()(model, lambda m, x: m(x).mean(), torch.tensor([[1.0, 7.0]]))
    >>> {name: round(value, 4) for name, value in found.items()}
    {'': 5.0, 'weight': 5.0}
    """

    eps: float = fixed(1e-8, low=0)

    card = Card(
        title="Size of the gradient's entries beside Adam's eps",
        axes=("regime",),
        source="Wortsman et al. 2024, arXiv:2309.14322",
        when="Large models under Adam and its kin: is eps still small?",
        cost="one gradient",
        shelf="atlas",
        rows=("small-scale-proxies",),
        deviations=("eps is declared to the probe, which does not see the optimizer's.",),
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return the root mean square of every layer, and warn."""
        counts: dict[str, int] = {}
        for name, p in view.parameters.items():
            counts[layer(name)] = counts.get(layer(name), 0) + p.numel()
        norms = by_layer(view.parameters, view.gradients())
        found = {name: size / math.sqrt(counts[name]) for name, size in norms.items()}
        for name, size in found.items():
            if 0.0 < size < _NEAR * self.eps:
                notice(
                    f"the gradient of '{name}' has come near Adam's eps, {self.eps:g}: its updates vanish; lower eps."
                )
        return {"": min((size for size in found.values() if size > 0.0), default=0.0)} | found
