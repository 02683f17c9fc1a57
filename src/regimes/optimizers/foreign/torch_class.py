"""Any optimizer of torch.optim, by the name of its class."""

from __future__ import annotations

import torch

from regimes.core.card import Card
from regimes.core.errors import DeclarationError, nearest
from regimes.core.registry import register
from regimes.optimizers.foreign.rule import Class, Foreign


@register
class Torch(Foreign):
    """Any class of torch.optim, with torch's own options.

    Parameters
    ----------
    name : str
        Name of the class: "Adagrad", "RMSprop", "NAdam", ...
    **options
        What the class takes. Numbers are knobs (``lr=Cosine(1e-2)``, ``betas=(Linear(0.8, 0.9), 0.999)``).

    Raises
    ------
    DeclarationError
        If torch.optim has no such class, it has no such option or refuses the value, needs a closure (LBFGS), or
        needs sparse gradients (SparseAdam).

    References
    ----------
    https://docs.pytorch.org/docs/stable/optim.html

    Examples
    --------
    >>> Torch("Adagrad", lr=0.1)
    Torch('Adagrad', lr=0.1)
    >>> Torch("LBFGS")
    Traceback (most recent call last):
        ...
    regimes.core.errors.DeclarationError: name: LBFGS evaluates several times a step through a closure; allowed: \
classes whose step takes gradients that are there already
    """

    card = Card(
        title="Any optimizer of torch.optim by name",
        axes=("rates",),
        source="torch.optim",
        when="A rule that has no class of its own here.",
        cost="that of the class; its instance costs about 50 us a step more than a rule of ours",
        defaults={"options": "torch's"},
    )

    @staticmethod
    def find(name: str) -> Class:
        """Return the class of torch.optim called `name`."""
        found = _classes()
        if name not in found:
            raise DeclarationError(f"torch.optim has no optimizer {name!r}; {nearest(name, found)}", "name")
        return found[name]

    @classmethod
    def named(cls, other: str | type) -> str | None:
        """Return its name in torch.optim, of a name in any case."""
        found = _classes()
        if isinstance(other, type):
            return next((name for name, known in found.items() if known is other), None)
        return next((name for name in found if name.lower() == other.lower()), None)


def _classes() -> dict[str, Class]:
    return {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and key != "Optimizer"
    }
