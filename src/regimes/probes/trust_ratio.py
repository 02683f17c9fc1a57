"""How long is each tensor beside its gradient?"""

from __future__ import annotations

from regimes.core.card import Card
from regimes.core.registry import register
from regimes.optimizers.tensorwise.trust_ratio import trust_ratio
from regimes.probes.base import ViewProbe
from regimes.probes.view import View


@register
class TrustRatio(ViewProbe):
    r"""Length of each tensor of weights over the length of its gradient, on the step's batch.

    .. math:: \frac{\lVert w \rVert_2}{\lVert \nabla_w L(\theta) \rVert_2}

    which is 1 if either is 0. It is the ratio by which LARS without momentum and decay scales the gradient; where it
    differs much between tensors, no one rate suits all. LAMB's own is over Adam's direction, which needs the moments of
    its state, and is no function of model and batch. Values stand under the parameters' names.

    Parameters
    ----------
    every : Duration
        Cadence. Default 5% of the phase.

    References
    ----------
    Y. You, I. Gitman and B. Ginsburg, Large Batch Training of Convolutional Networks, 2017, arXiv:1708.03888;
    Y. You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, ICLR 2020, arXiv:1904.00962.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False); _ = torch.nn.init.constant_(model.weight, 6.0)
    >>> found = TrustRatio()(model, lambda m, x: m(x).mean(), torch.tensor([[1.0, 1.0]]))
    >>> {name: round(value, 4) for name, value in found.items()}
    {'weight': 6.0}
    """

    card = Card(
        title="Length of weights over length of their gradient",
        axes=("rates",),
        source="You, Gitman and Ginsburg 2017, arXiv:1708.03888",
        when="Do layers want rates of their own?",
        cost="one gradient",
        shelf="atlas",
        rows=("lamb",),
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return the ratio of every tensor."""
        named = zip(view.parameters.items(), view.gradients())
        return {name: trust_ratio(p.detach(), g).item() for (name, p), g in named}
