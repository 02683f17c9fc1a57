"""Gradients in a format of few bits."""

from __future__ import annotations

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.kinds import GradTransform, State, TransformContext
from regimes.core.registry import register
from regimes.model_transforms.float_format import FloatFormat, Format, format_of


@register
class RoundGradients(GradTransform):
    r"""Round the gradient of every tensor, as where gradients are sent or kept in few bits.

    .. math:: g \leftarrow R(g)

    Parameters
    ----------
    format : FloatFormat or its name
        R. Without `scaled`, what lies below half of the format's smallest number becomes 0: gradients often do.

    References
    ----------
    P. Micikevicius et al., FP8 Formats for Deep Learning, 2022, arXiv:2209.05433.

    Examples
    --------
    >>> context = TransformContext(("w",), (torch.zeros(3),), None, 1.0)
    >>> (g,) = RoundGradients("e5m2").apply({}, (torch.tensor([1.1, 3e-5, 1e-6]),), context)
    >>> g.tolist()
    [1.0, 3.0517578125e-05, 0.0]
    """

    format: Format = fixed()

    card = Card(
        title="Gradients in few bits",
        axes=("regime",),
        source="Micikevicius et al. 2022, arXiv:2209.05433",
        when="To see whether training stays stable where gradients are sent or kept in 8 bits.",
        cost="a dozen passes over the gradients",
        shelf="atlas",
        rows=("fp8-stability",),
        deviations=("The sum over micro-batches and processes is rounded once, not what each of them sends.",),
    )

    @classmethod
    def example(cls) -> list[RoundGradients]:
        """By name, scaled, and by chance."""
        return [cls("e5m2"), cls(FloatFormat(4, 3, finite=True, scaled=True)), cls(FloatFormat(8, 1, "stochastic"))]

    def apply(self, state: State, gradients: tuple[Tensor, ...], ctx: TransformContext) -> tuple[Tensor, ...]:
        """Round each."""
        precision = format_of(self.format)
        generator = ctx.generator("round") if precision.rounding == "stochastic" else None
        with torch.no_grad():
            return tuple(precision.round(g, precision.uniform(g, generator)) for g in gradients)
