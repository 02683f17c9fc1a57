"""How many training examples are not fitted yet?"""

from __future__ import annotations

import torch

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.view import View, length, piece

#: Examples per forward.
_BATCH = 1024


@register
class Unfitted(ViewProbe):
    """Share of the training examples whose loss is not 0 yet, of losses that can become 0 (`Hinge`).

    In evaluation mode, over all training examples. A run that is to end when all are fitted is a loop over
    `regimes.stream` that ends when this is 0; `until_fitted` is that loop.

    Values: "" the share; ``loss`` the mean loss.

    Parameters
    ----------
    examples : int or None
        Only so many, always the same. Default None: all. In a loop of one's own it is the batch that is given.
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If the loss function returns one number for a whole batch.

    References
    ----------
    A. Sclocchi, M. Geiger and M. Wyart, Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning, ICML
    2023, arXiv:2301.13703.

    Examples
    --------
    >>> losses = torch.tensor([0.0, 0.0, 0.0, 2.0])
    >>> Unfitted()(torch.nn.Identity(), lambda model, batch: batch, losses)
    {'': 0.25, 'loss': 0.5}
    """

    examples: int | None = fixed(None, low=1)

    card = Card(
        title="Share of examples whose loss is not 0",
        axes=("regime",),
        source="Sclocchi et al. 2023, arXiv:2301.13703",
        when="Training with a margin: how far is it from its end? It only looks, so there is no claim to re-test.",
        cost="a forward of all training examples",
        shelf="atlas",
        rows=("sgd-noise-regimes",),
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return the share and the mean loss."""
        view.model.eval()
        wanted = self.examples if self.examples is not None else view.size if view.size is not None else _BATCH
        batch = view.fixed(wanted)
        parts = (piece(batch, start, start + _BATCH) for start in range(0, length(batch), _BATCH))
        losses = torch.cat([view.example_losses(part) for part in parts]).double()
        return {"": (losses != 0).double().mean().item(), "loss": losses.mean().item()}
