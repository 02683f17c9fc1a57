"""Unfreezing parameters."""

from __future__ import annotations

from torch import nn

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import ModelTransform
from regimes.core.registry import register
from regimes.model_transforms.patterns import matching


@register
class Unfreeze(ModelTransform):
    """Train these parameters from this phase on, whatever froze them.

    Where the phase carries the optimizer's state, they join it with fresh slots and an update count of their own.

    Parameters
    ----------
    patterns : tuple of str
        Patterns of parameter names. Default "*": all, those too that the model itself had frozen.

    Raises
    ------
    DeclarationError
        If there is no pattern, or one matches nothing.

    References
    ----------
    J. Howard and S. Ruder, Universal Language Model Fine-tuning, ACL 2018, arXiv:1801.06146 (gradual unfreezing).

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).requires_grad_(False)
    >>> [name for name, p in Unfreeze("1.*").structure(net).named_parameters() if p.requires_grad]
    ['1.weight', '1.bias']
    """

    patterns: tuple[str, ...] = fixed(("*",))

    keeps_values = True
    card = Card(
        title="Unfreeze parameters",
        axes=("phases",),
        source="Howard and Ruder 2018, arXiv:1801.06146",
        when="After the head has been trained; gradual unfreezing from the top.",
    )

    def validate(self) -> None:
        """Refuse an empty list."""
        if not self.patterns:
            raise DeclarationError("got no pattern; allowed: one or more, for example 'encoder.*'", "patterns")

    def structure(self, model: nn.Module) -> nn.Module:
        """Give the gradient back to what matches."""
        for p in matching(model, self.patterns).values():
            p.requires_grad_(True)
        return model
