"""How are the losses of single examples distributed?"""

from __future__ import annotations

import torch

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.view import View


@register
class ExampleLoss(ViewProbe):
    r"""Quantiles of the losses per example on the step's batch, and the largest of them.

    The loss of example i is the weighted mean over its units u (tokens, say)

    .. math:: \ell_i = \frac{\sum_{u \in i} w_u \ell_u}{\sum_{u \in i} w_u}

    Examples without weight (padding only) are left out. Values are named ``q<percent>`` and ``hardest_1``,
    ``hardest_2`` ... from the largest on; in a run, ``hardest_1_example`` is that example's number, and where there are
    several sources ``hardest_1_source`` the position of its source.

    Parameters
    ----------
    quantiles : tuple of float
        In [0, 1], interpolated linearly between examples. Default 0.1, 0.5 and 0.9.
    hardest : int
        How many of the largest losses. Default 3.
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If the loss function returns one number for the whole batch.

    References
    ----------
    A. Katharopoulos and F. Fleuret, Not All Samples Are Created Equal, ICML 2018, arXiv:1803.00942, figure 1 (how
    few examples carry the loss).

    Examples
    --------
    >>> losses = torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0])
    >>> ExampleLoss(quantiles=[0.5, 0.75], hardest=2)(torch.nn.Identity(), lambda model, batch: batch, losses)
    {'q50': 2.0, 'q75': 3.0, 'hardest_1': 10.0, 'hardest_2': 3.0}
    """

    quantiles: tuple[float, ...] = fixed((0.1, 0.5, 0.9), low=0, high=1)
    hardest: int = fixed(3, low=0)

    card = Card(
        title="Quantiles of the losses per example",
        axes=("order", "distribution"),
        source="Katharopoulos and Fleuret 2018, arXiv:1803.00942",
        when="Before weighting, selecting or cleaning examples: do a few carry the loss?",
        cost="one forward",
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return quantiles and the largest losses."""
        losses, places = view.placed_losses()
        losses = losses.double()
        found = {f"q{100 * q:g}": torch.quantile(losses, q).item() for q in self.quantiles}
        largest = losses.topk(min(self.hardest, len(losses)))
        for rank, (value, place) in enumerate(zip(largest.values.tolist(), largest.indices.tolist()), start=1):
            found[f"hardest_{rank}"] = value
            for name, known in (("example", view.numbers), ("source", view.sources)):
                if known is not None:
                    found[f"hardest_{rank}_{name}"] = float(known[int(places[place])])
        return found
