"""Any optimizer of the package pytorch_optimizer, by name."""

from __future__ import annotations

import functools
from importlib.util import find_spec

from regimes.core.card import Card
from regimes.core.errors import DeclarationError, nearest
from regimes.core.registry import register
from regimes.optimizers.foreign.rule import Class, Foreign
from regimes.optimizers.foreign.torch_class import Torch


@register
class PytorchOptimizer(Foreign):
    """Any optimizer of the package pytorch_optimizer that plain gradients can drive.

    Parameters
    ----------
    name : str
        Name of the class in any case: "lion", "AdaBelief", ...
    **options
        What the class takes. Numbers are knobs.

    Raises
    ------
    DeclarationError
        If the package is not installed; if it has no such class or the class no such option; if the class needs a
        closure, a graph or a model, leaves evaluation weights to the user, or keeps memory outside its state.

    References
    ----------
    H. Kim, pytorch_optimizer: optimizer and lr scheduler collections in PyTorch, 2021,
    https://github.com/kozistr/pytorch_optimizer

    Examples
    --------
    >>> PytorchOptimizer("AdaBelief", lr=1e-3)
    PytorchOptimizer('AdaBelief', lr=0.001)
    """

    card = Card(
        title="Any optimizer of pytorch_optimizer by name",
        axes=("rates",),
        source="https://github.com/kozistr/pytorch_optimizer",
        when="A published rule that has no class of its own here; its formula is that package's.",
        cost="that of the class",
        defaults={"options": "the package's"},
    )

    @staticmethod
    def find(name: str) -> Class:
        """Return the class called `name`."""
        return _find(name.lower())

    @classmethod
    def named(cls, other: str | type) -> str | None:
        """Return its name where the package is installed; what torch.optim has is torch's."""
        name = other.__name__ if isinstance(other, type) else other
        if find_spec("pytorch_optimizer") is None or Torch.named(other) is not None:
            return None
        try:
            found = _find(name.lower())
        except DeclarationError:
            return None
        return name if other in (name, found) else None


@functools.cache
def _find(name: str) -> Class:
    try:
        import pytorch_optimizer
    except ImportError:
        raise DeclarationError(
            "the package pytorch_optimizer is not installed; write pip install 'regimes[optim]'", "name"
        ) from None
    known = pytorch_optimizer.get_supported_optimizers()
    if name not in known:
        raise DeclarationError(f"pytorch_optimizer has no optimizer '{name}'; {nearest(name, known)}", "name")
    return pytorch_optimizer.load_optimizer(name)
