"""Dropout before given layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import ModelTransform
from regimes.core.registry import register
from regimes.model_transforms.patterns import matching_modules
from regimes.model_transforms.swapped import Swapped, put, take


class DroppedInput(Swapped):
    """In front of a module's class: dropout of its first input while training."""

    input_dropout: float

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Drop, and run the module."""
        return super().forward(functional.dropout(input, self.input_dropout, self.training), *args, **kwargs)

    def extra_repr(self) -> str:
        """What the module says of itself, and the share."""
        return f"{super().extra_repr()}, input_dropout={self.input_dropout:g}".lstrip(", ")


@register
class InputDropout(ModelTransform):
    r"""Dropout of what goes into given layers, such as the classifier.

    While training each number of the input is set to 0 with probability p and divided by 1 - p else; in evaluation nothing
    is done. From this phase on, until another `InputDropout` (one of p = 0 ends it). Names and values of weights stay.

    Parameters
    ----------
    p : float
        In [0, 1). Default 0.25, ResNet-RS.
    patterns : tuple of str
        Patterns of names of modules, whose first input is a tensor. Default "head".

    Raises
    ------
    DeclarationError
        If there is no pattern, or one matches no module, or an embedding, whose input cannot be dropped.

    Notes
    -----
    Rules that look at linear layers and convolutions (K-FAC, MKOR) leave such a layer to their base rule.

    References
    ----------
    N. Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, JMLR 2014; I. Bello et al.,
    Revisiting ResNets: Improved Training and Scaling Strategies, NeurIPS 2021, arXiv:2103.07579.

    Examples
    --------
    >>> net = InputDropout(0.5, "1").structure(nn.Sequential(nn.Identity(), nn.Linear(2, 2)))
    >>> net[1]
    DroppedInputLinear(in_features=2, out_features=2, bias=True, input_dropout=0.5)
    """

    p: float = fixed(0.25, low=0, below=1)
    patterns: tuple[str, ...] = fixed(("head",))

    keeps_values = True
    card = Card(
        title="Dropout before given layers",
        axes=("regime",),
        source="Srivastava et al. 2014; Bello et al. 2021, arXiv:2103.07579",
        when="A network without dropout of its own is to be regularized, from some phase on.",
        cost="a mask a forward",
        shelf="atlas",
        rows=("resnet-rs",),
        defaults={"p": "0.25, ResNet-RS", "patterns": "the head, ResNet-RS"},
    )

    @classmethod
    def example(cls) -> list[InputDropout]:
        """Layers of the conformance suite's models."""
        return [cls(0.2, ("4",)), cls(0.2, ("0", "4")), cls()]

    def validate(self) -> None:
        """Refuse an empty list."""
        if not self.patterns:
            raise DeclarationError("got no pattern; allowed: one or more, for example 'head'", "patterns")

    def structure(self, model: nn.Module) -> nn.Module:
        """Take away what an earlier one has put there, and put dropout before every layer that matches."""
        take(model, DroppedInput, "input_dropout")
        for name in matching_modules(model, self.patterns):
            module = model.get_submodule(name)
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                raise DeclarationError(
                    f"got '{name}', an {type(module).__name__}, whose input is whole numbers; allowed: layers that take real "
                    "numbers",
                    "patterns",
                )
            if self.p > 0.0:
                put(module, DroppedInput, input_dropout=self.p)
        return model
