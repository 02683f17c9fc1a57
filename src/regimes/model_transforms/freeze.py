"""Freezing parameters."""

from __future__ import annotations

from torch import nn

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import ModelTransform
from regimes.core.registry import register
from regimes.model_transforms.patterns import matching


@register
class Freeze(ModelTransform):
    """Train these parameters no more, from this phase on, until `Unfreeze`.

    They get no gradient, are in no optimizer and are not decayed: their bits stay. Buffers are not parameters:
    BatchNorm's running statistics still move.

    Parameters
    ----------
    patterns : tuple of str
        Patterns of parameter names; one may stand without a list. A tied weight is frozen under any of its names.

    Raises
    ------
    DeclarationError
        If there is no pattern, or one matches nothing.

    References
    ----------
    J. Howard and S. Ruder, Universal Language Model Fine-tuning, ACL 2018, arXiv:1801.06146 (gradual unfreezing).

    Examples
    --------
    >>> net = Freeze("0.*").structure(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    >>> [name for name, p in net.named_parameters() if p.requires_grad]
    ['1.weight', '1.bias']
    """

    patterns: tuple[str, ...] = fixed()

    keeps_values = True
    card = Card(
        title="Freeze parameters",
        axes=("phases",),
        source="Howard and Ruder 2018, arXiv:1801.06146",
        when="Fine-tuning a head first; training in stages.",
        cost="less: what is frozen needs no gradient",
    )

    def validate(self) -> None:
        """Refuse an empty list."""
        if not self.patterns:
            raise DeclarationError("got no pattern; allowed: one or more, for example 'encoder.*'", "patterns")

    def structure(self, model: nn.Module) -> nn.Module:
        """Take the gradient from what matches."""
        for p in matching(model, self.patterns).values():
            p.requires_grad_(False)
        return model
