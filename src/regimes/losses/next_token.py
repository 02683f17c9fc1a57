"""Cross-entropy of the next token, one unit per token, padding weightless."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.registry import register
from regimes.core.unit_losses import UnitLosses
from regimes.losses.forward import OutputLoss, drawn_classes, flat_tokens, kept


@register
class NextToken(OutputLoss):
    r"""Negative log-likelihood of each target token.

    .. math:: \ell_{i,t} = -\log p(y_{i,t} \mid x_{i,\le t}), \qquad w_{i,t} = [y_{i,t} \ne \text{ignore}]

    Parameters
    ----------
    ignore : int
        Target that marks padding; its units have weight 0 and count as no tokens. Default -100, torch's.

    Examples
    --------
    >>> import torch
    >>> units = NextToken().per_unit(torch.zeros(1, 3, 4), torch.tensor([[1, 2, -100]]))
    >>> [round(v, 4) for v in units.values.tolist()], units.weights.tolist(), units.examples.tolist()
    ([1.3863, 1.3863, 0.0], [1.0, 1.0, 0.0], [0, 0, 0])
    """

    ignore: int = fixed(-100)

    card = Card(
        title="Cross-entropy of the next token",
        axes=("regime",),
        source="folklore",
        when="Language models: output (n, length, vocabulary), target (n, length).",
    )

    def per_unit(self, output: Tensor, target: Tensor) -> UnitLosses:
        """Loss of each token."""
        logits, flat, examples = flat_tokens(output, target)
        values = functional.cross_entropy(logits, flat, reduction="none", ignore_index=self.ignore)
        counts = kept(flat, self.ignore)
        return UnitLosses(values, None if counts is None else counts.to(values.dtype), examples)

    def logits(self, output: Tensor, target: Tensor) -> Tensor:
        """Logits of every token."""
        return flat_tokens(output, target)[0]

    def per_unit_drawn(self, output: Tensor, target: Tensor, generator: torch.Generator) -> UnitLosses:
        """Loss of tokens drawn from softmax(output); padding stays padding."""
        logits, flat, _ = flat_tokens(output, target)
        return self.per_unit(output, drawn_classes(logits, flat, self.ignore, generator).view(target.shape))
