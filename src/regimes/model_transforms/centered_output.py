"""An output that begins at zero and is scaled: from lazy training to learning features."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError, show
from regimes.core.kinds import ModelTransform, TransformResult
from regimes.core.listening import apart
from regimes.core.randomness import Streams
from regimes.core.registry import register


class Centered(nn.Module):
    r"""A model less what it was when it was wrapped, scaled: :math:`\alpha\,(f(w, x) - f(w_0, x))`.

    Parameters
    ----------
    model : nn.Module
        f, whose output is a tensor; its parameters are those of the wrapper, under ``model.``.
    alpha : float

    Notes
    -----
    The weights w_0 are buffers, under ``start.``. A norm in the copy keeps running statistics of its own.

    Raises
    ------
    DeclarationError
        In the forward, if the model's output is no tensor.

    Examples
    --------
    >>> net = Centered(nn.Linear(1, 1, bias=False), alpha=10.0)
    >>> with torch.no_grad(): _ = net.model.weight.add_(0.5)
    >>> net(torch.tensor([[2.0]])).detach().round(decimals=4)
    tensor([[10.]])
    """

    def __init__(self, model: nn.Module, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        # First, so that the last layer is still the model's.
        self.start = _without_parameters(copy.deepcopy(model))
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run both."""
        with torch.no_grad(), apart():
            begun = self.start(*args, **kwargs)
        now = self.model(*args, **kwargs)
        if not isinstance(now, Tensor):
            raise DeclarationError(f"got an output {show(now)}; allowed: a model whose output is a tensor", "model")
        return self.alpha * (now - begun)

    def extra_repr(self) -> str:
        """The scale."""
        return f"alpha={self.alpha}"


def _without_parameters(model: nn.Module) -> nn.Module:
    """Lay every parameter in its place as a buffer: it is kept and moved with the model, and nobody trains it."""
    held = {id(p): p.detach() for p in model.parameters()}  # tied ones stay one tensor
    for module in model.modules():
        for name, p in list(module._parameters.items()):
            del module._parameters[name]
            module.register_buffer(name, None if p is None else held[id(p)])
    return model


@register
class CenteredOutput(ModelTransform):
    r"""Take what the network says at the phase's beginning off its output, and scale the rest.

    .. math:: x \mapsto \alpha F(x), \qquad F(x) = f(w, x) - f(w_0, x)

    with w_0 the weights with which the phase begins, so that the output begins at 0, exactly, whatever alpha is. With a
    loss :math:`\ell(\alpha F, y) / \alpha` (`Hinge`) alpha says in which regime a network learns: far above 1 the weights
    need hardly move and it stays the linear model of its tangent kernel (lazy); far below 1 it has to learn features. A
    network that is centered already is centered anew.

    Parameters
    ----------
    alpha : float
        Above 0. Default 1.

    Raises
    ------
    DeclarationError
        In the first forward, if the model's output is no tensor.

    Notes
    -----
    Dropout draws for the two networks apart, so that the output is 0 at the beginning in evaluation mode alone. In
    float32 the difference of two outputs of size 1 is known to 1e-7: an alpha of 1e5 makes 1e-2 of that.

    References
    ----------
    A. Sclocchi, M. Geiger and M. Wyart, Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning, ICML
    2023, arXiv:2301.13703; L. Chizat, E. Oyallon and F. Bach, On Lazy Training in Differentiable Programming, NeurIPS
    2019, arXiv:1812.07956.

    Examples
    --------
    >>> net = CenteredOutput(100.0).structure(nn.Linear(3, 1))
    >>> net(torch.ones(2, 3)).tolist(), [name for name, _ in net.named_parameters()]
    ([[0.0], [0.0]], ['model.weight', 'model.bias'])
    """

    alpha: float = fixed(1.0, above=0)

    keeps_values = True
    card = Card(
        title="Output less that of the beginning, scaled by alpha",
        axes=("regime",),
        source="Sclocchi et al. 2023, arXiv:2301.13703; Chizat et al. 2019, arXiv:1812.07956",
        when="Is what is observed a matter of lazy training or of learned features? Both, and all between, by one number.",
        cost="a second forward, without gradient, and a copy of the weights",
        shelf="atlas",
        rows=("sgd-noise-regimes",),
        defaults={"alpha": "1: centered alone; the paper's command line has the same"},
    )

    def structure(self, model: nn.Module) -> nn.Module:
        """Wrap the model; one that is wrapped already is wrapped anew."""
        inner = model.model if isinstance(model, Centered) else model
        made = Centered(inner, self.alpha)
        made.training = model.training
        return made

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Nothing but names: the copy was made with the structure."""
        old = "model." if isinstance(before, Centered) else ""
        return TransformResult({name: old + name.removeprefix("model.") for name, _ in model.named_parameters()})
