"""Training as on hardware of few bits: what every product of matrices is given has a format of its own."""

from __future__ import annotations

import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from regimes.core.attention import Attention
from regimes.core.calls import Calls
from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import ModelTransform
from regimes.core.registry import register
from regimes.model_transforms.float_format import FloatFormat, Format, format_of
from regimes.model_transforms.patterns import matching_modules, outermost
from regimes.model_transforms.swapped import Swapped, put, take

_SCALE = "char_lm of 0.04 M parameters, 200 steps of 8 windows of 32 bytes, five rates from 0.001 to 0.1"


class RoundedProducts(Swapped):
    """In front of a module's class: inside its forward, products are of rounded factors."""

    rounding: EmulatePrecision

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module among the answers that round."""
        with self.rounding.products():
            return super().forward(*args, **kwargs)


@register
class EmulatePrecision(ModelTransform):
    r"""Round what goes into every product of matrices, forward and backward; weights are kept as they are.

    With R the rounding to `format` and G that to `gradient`, a product Y = X W becomes

    .. math::
        Y = R(X)\, R(W), \qquad \frac{\partial L}{\partial X} = G\!\left(\frac{\partial L}{\partial Y}\right) R(W)^\top,
        \qquad \frac{\partial L}{\partial W} = R(X)^\top\, G\!\left(\frac{\partial L}{\partial Y}\right)

    so rounding itself has the derivative 1. Sums are float32's, as nothing emulates an accumulator.

    Products are those of linear layers, convolutions, ``@``, `torch.matmul`, ``mm``, ``bmm``, ``addmm``, ``baddbmm``,
    `torch.einsum`, and both of attention (`torch.nn.functional.scaled_dot_product_attention`, taken apart into torch's plain
    form, and `torch.nn.MultiheadAttention`), whoever calls them in the forward of the modules that match; not those that LSTM
    and GRU make inside. Evaluation mode is rounded, too.

    Parameters
    ----------
    format : FloatFormat or its name
        R. The paper clears low bits: ``FloatFormat(8, 3, rounding="zero")`` is its E8M3.
    gradient : FloatFormat, its name or None
        G; None: gradients that come back are taken as they are. Recipes for 8 bits: "e4m3" and "e5m2", `scaled`.
    patterns : tuple of str
        Patterns of module names: in their forwards products are rounded. Default "*", all, as the paper.

    Raises
    ------
    DeclarationError
        If a pattern matches no module.

    Notes
    -----
    In a later phase, another one takes the place of this in the modules that it matches: ``FloatFormat(8, 23)`` rounds
    nothing of what is float32. In a run, gradients that come back are those of the sum of the units' losses: the division by
    their number comes after. A module inside another that rounds is rounded by both. The optimizer's part is
    `RoundGradients` and `RoundStates`. Gradients of examples are rounded each by itself.

    References
    ----------
    J. Lee, J. Bae, B. Kim, S. J. Kwon and D. Lee, To FP8 and Back Again: Quantifying Reduced Precision Effects on LLM
    Training Stability, 2024, arXiv:2405.18710; P. Micikevicius et al., FP8 Formats for Deep Learning, 2022, arXiv:2209.05433.

    Examples
    --------
    >>> net = nn.Linear(2, 1, bias=False)
    >>> with torch.no_grad(): _ = net.weight.copy_(torch.tensor([[1.3, 1.0]]))
    >>> EmulatePrecision("e4m3").structure(net)(torch.tensor([[1.0, 0.3]])).item()
    1.5625
    >>> [round(w, 4) for w in net.weight.view(-1).tolist()]
    [1.3, 1.0]
    """

    format: Format = fixed()
    gradient: Format | None = fixed(None)
    patterns: tuple[str, ...] = fixed(("*",))

    keeps_values = True
    card = Card(
        title="Products of matrices in an emulated precision",
        axes=("regime",),
        source="Lee et al. 2024, arXiv:2405.18710",
        when="To see, before any hardware does, whether training stays stable with fewer bits.",
        cost="a dozen passes over everything that is multiplied: two to four times the time of a small model's step",
        shelf="atlas",
        rows=("fp8-stability",),
        deviations=(
            "Whether the paper clears bits of the gradients that come back into a product, too, was not read: `gradient` says "
            "it, and is nothing by default.",
            "A format of fewer exponent bits has its own range, subnormal numbers included; the paper clips.",
            "Accumulation is float32's.",
        ),
        claims=(
            Claim(
                "The fewer bits of the mantissa (23, 7, 3, 2, 1, towards zero), the smaller the largest usable rate: Spearman's "
                "correlation of its logarithm with the bits taken away is at most -0.8.",
                {"seeds": 5, "margin": 0.01, "scale": _SCALE},
                paper_scale="GPT-2 124M and LLaMA 120M, E8M3 to E8M7",
                measure="regimes.claims.precision:range_shrinks",
            ),
            Claim(
                "LogitSharpness after a third of the steps tells which of these runs will end half a nat or more above the best of "
                "full precision: the area under the ROC curve is at least 0.7.",
                {"seeds": 5, "margin": 0.01, "scale": _SCALE},
                paper_scale="LLaMA 7B, E8M3 to E8M7",
                measure="regimes.claims.precision:sharpness_tells",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[EmulatePrecision]:
        """Names and formats, one part of a model, and rounding by chance."""
        drawn = FloatFormat(8, 2, rounding="stochastic")
        return [cls("e4m3", "e5m2"), cls(FloatFormat(8, 3, rounding="zero"), patterns="0"), cls(drawn, drawn)]

    def validate(self) -> None:
        """Refuse an empty list."""
        if not self.patterns:
            raise DeclarationError("got no pattern; allowed: one or more, '*' for the whole model", "patterns")

    def structure(self, model: nn.Module) -> nn.Module:
        """Give the modules that match, the outermost of each, a forward that rounds."""
        whole = any(fnmatch.fnmatchcase("", pattern) for pattern in self.patterns)
        for name in [""] if whole else outermost(matching_modules(model, self.patterns)):
            region = model.get_submodule(name)
            take(region, RoundedProducts, "rounding")
            put(region, RoundedProducts, rounding=self)
        return model

    def products(self) -> Calls:
        """Return a context inside which products are rounded."""
        rounded = dict.fromkeys(_OPERANDS, self._product)
        attention = functional.scaled_dot_product_attention
        return Calls({**rounded, torch.einsum: self._einsum, attention: self._attention})

    def operand(self, x: Any) -> Any:
        """Return R(x), with the derivative 1; what is no tensor of floating-point numbers as it is."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        precision = format_of(self.format)
        return _Rounded.apply(x, precision, precision.uniform(x))

    def result(self, y: Tensor) -> Tensor:
        """Return y, whose gradient will come back as G of it."""
        if self.gradient is None:
            return y
        precision = format_of(self.gradient)
        # Drawn now: a backward stands at no address of its own.
        return _Incoming.apply(y, precision, precision.uniform(y))

    def _product(self, function: Any, args: Any, kwargs: Any) -> Tensor:
        args, kwargs = list(args), dict(kwargs)
        for place, name in _OPERANDS[function]:
            if place < len(args):
                args[place] = self.operand(args[place])
            elif name in kwargs:
                kwargs[name] = self.operand(kwargs[name])
        return self.result(function(*args, **kwargs))

    def _einsum(self, function: Any, args: Any, kwargs: Any) -> Tensor:
        equation, *operands = args
        if len(operands) == 1 and isinstance(operands[0], list | tuple):
            operands = list(operands[0])
        return self.result(function(equation, *(self.operand(x) for x in operands), **kwargs))

    def _attention(self, function: Any, args: Any, kwargs: Any) -> Tensor:
        """torch's plain form: two products, the second of the softmax's probabilities."""
        call = Attention.of(args, kwargs)
        products = self.result(self.operand(call.query) @ self.operand(call.key).mT)
        shares = call.logits(products).softmax(-1)
        shares = functional.dropout(shares, call.dropout) if call.dropout else shares
        return self.result(self.operand(shares) @ self.operand(call.value))


#: The factors of each product, by place and name.
_PAIR, _SUMMED = ((0, "input"), (1, "other")), ((1, "mat1"), (2, "mat2"))
_LAYER, _BATCHED = ((0, "input"), (1, "weight")), ((0, "input"), (1, "mat2"))
_OPERANDS: dict[Any, tuple[tuple[int, str], ...]] = {
    **dict.fromkeys((functional.linear, torch.conv1d, torch.conv2d, torch.conv3d), _LAYER),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _LAYER),
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__), _PAIR),
    **dict.fromkeys((torch.bmm, Tensor.bmm, torch.mm, Tensor.mm), _BATCHED),
    **dict.fromkeys((torch.mv, Tensor.mv), ((0, "input"), (1, "vec"))),
    **dict.fromkeys((torch.addmm, Tensor.addmm), _SUMMED),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), ((1, "batch1"), (2, "batch2"))),
}


class _Rounded(torch.autograd.Function):
    """Rounding with the derivative 1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, precision: FloatFormat, uniform: Tensor | None) -> Tensor:
        """Round."""
        return precision.round(x, uniform)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """As it comes."""
        return gradient, None, None


class _Incoming(torch.autograd.Function):
    """The identity, whose gradient is rounded on its way back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, precision: FloatFormat, uniform: Tensor | None) -> Tensor:
        """The same numbers."""
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep how the gradient is rounded."""
        ctx.precision, uniform = inputs[1:]
        ctx.save_for_backward(uniform)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Round."""
        (uniform,) = ctx.saved_tensors
        return _Rounded.apply(gradient, ctx.precision, uniform), None, None
