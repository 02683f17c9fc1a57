"""How much of each tensor's gradient is direction, how much is spread?"""

from __future__ import annotations

from regimes.core.card import Card
from regimes.core.registry import register
from regimes.optimizers.tensorwise.gradient_snr import gradient_snr
from regimes.probes.base import ViewProbe
from regimes.probes.view import View


@register
class GradientSNR(ViewProbe):
    r"""Length of each tensor's gradient over the deviation of its entries, on the step's batch.

    For a tensor of n entries with gradient g, of mean m and deviation s

    .. math:: \frac{\lVert g \rVert_2}{s} = \sqrt{\frac{n m^2}{s^2} + n - 1}

    which is the root of n - 1 for entries of mean zero: differences between tensors are mostly those of their sizes.
    Without spread (one entry, or equal ones) it counts as the root of n, for a gradient of zero as 0. Values stand under
    the parameters' names. SGD-SaI's factors are these of its first step, over the largest of them.

    Parameters
    ----------
    every : Duration
        Cadence. Default 5% of the phase.

    References
    ----------
    M. Xu et al., No More Adam: Learning Rate Scaling at Initialization is All You Need, 2024, arXiv:2412.11768.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(3, 1)
    >>> found = GradientSNR()(model, lambda m, x: m(x).mean(), torch.tensor([[1.0, 2.0, 2.0]]))
    >>> {name: round(value, 4) for name, value in found.items()}  # of the weight 3 over the root of a third
    {'weight': 5.1962, 'bias': 1.0}
    """

    card = Card(
        title="Signal-to-noise ratio of each tensor's gradient",
        axes=("rates",),
        source="Xu et al. 2024, arXiv:2412.11768",
        when="Would one factor per tensor from the first batch do, and does it stay the same in training?",
        cost="one gradient",
        shelf="atlas",
        rows=("sgd-sai",),
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return the ratio of every tensor."""
        return {name: gradient_snr(g).item() for name, g in zip(view.parameters, view.gradients())}
