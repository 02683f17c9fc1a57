"""Weights that are trained for several bit widths at once, stored at the highest."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError, show
from regimes.core.kinds import ModelTransform, TransformResult
from regimes.core.randomness import Streams
from regimes.core.registry import register
from regimes.model_transforms.patterns import matching
from regimes.model_transforms.rounding import DoubleRound


@register
class DoubleRounding(ModelTransform):
    r"""Round weights to integers of the highest bit width h, and those, for a lower width l, once more.

    With the step s of a weight W, learned,

    .. math::
        q_h &= \mathrm{clip}(\mathrm{round}(W / s), -2^{h-1}, 2^{h-1} - 1) \\
        q_l &= \mathrm{clip}(\mathrm{round}(q_h / 2^{h-l}), -2^{l-1}, 2^{l-1} - 1), \qquad \hat W_l = s \, 2^{h-l} q_l

    so q_h and s are all that has to be stored, and going to fewer bits is a shift
    (`regimes.model_transforms.rounding.second_rounding`). Gradients pass both roundings; that of s is LSQ's, times 1 /
    sqrt(N (2^(l-1) - 1)) for N entries. `JointWidths` trains all widths, `at_width` chooses one, `ALRS` balances what they
    ask of s. Outside of those the network has the highest width.

    Parameters
    ----------
    patterns : tuple of str
        Patterns of parameter names; matrices and kernels among those that match.
    bits : tuple of int
        Widths, falling, from 2 to 16. Default (8, 6, 4, 2) (paper).
    by_width : bool
        Keep beside each step what lets `ALRS` see its gradient by width: ``step_taps``, zeros that are added to it. Default
        no: with another rule these would be trained.

    Raises
    ------
    DeclarationError
        If widths do not fall, a pattern matches nothing, none of what matches is a matrix, or one is shared, or made of other
        parameters.

    References
    ----------
    H. Huang, Z. Liu, T. Xia, W. Zhao and P. Ren, Nearly Lossless Adaptive Bit Switching, 2025, arXiv:2502.01199; S. Esser,
    J. McKinstry, D. Bablani, R. Appuswamy and D. Modha, Learned Step Size Quantization, ICLR 2020, arXiv:1902.08153.

    Examples
    --------
    >>> net = DoubleRounding("0.weight", bits=(8, 4)).structure(nn.Sequential(nn.Linear(2, 3)))
    >>> [name for name, _ in net.named_parameters()]
    ['0.bias', '0.parametrizations.weight.original', '0.parametrizations.weight.0.step_size']
    """

    patterns: tuple[str, ...] = fixed()
    bits: tuple[int, ...] = fixed((8, 6, 4, 2), low=2, high=16)
    by_width: bool = fixed(False)

    keeps_values = True
    card = Card(
        title="Weights of several bit widths in one",
        axes=("phases",),
        source="Huang et al. 2025, arXiv:2502.01199; Esser et al. 2020, arXiv:1902.08153",
        when="One model is to be used at several precisions, stored once.",
        cost="a forward and backward per width and step, with JointWidths",
        shelf="atlas",
        rows=("double-rounding-alrs",),
        defaults={"bits": "(8, 6, 4, 2), the paper's"},
        deviations=(
            "Weights alone: activations keep their precision, where the paper rounds them, too, with a step of each width.",
            "The step begins at the weight's largest entry over the largest integer of the highest width; LSQ's own start "
            "would leave nothing of the weight at two bits of this step. The paper's start is not known here.",
            "Normalization layers share their statistics over widths.",
            "Mixed precision (a width for each layer, drawn by its Hessian's trace) is not built.",
        ),
    )

    @classmethod
    def example(cls) -> list[DoubleRounding]:
        """Of the weights that the conformance suite's networks have."""
        return [cls("4.weight"), cls("*.weight", bits=(8, 3))]

    def validate(self) -> None:
        """Refuse an empty list, and widths that do not fall."""
        if not self.patterns:
            raise DeclarationError("got no pattern; allowed: one or more, for example '*.weight'", "patterns")
        if not self.bits or any(after >= before for before, after in zip(self.bits, self.bits[1:])):
            raise DeclarationError(
                f"got {show(list(self.bits))}; allowed: falling widths, for example (8, 4, 2)", "bits"
            )

    def structure(self, model: nn.Module) -> nn.Module:
        """Put the rounding before each weight's use."""
        for module, own, p in self._weights(model).values():
            rounding = DoubleRound(self.bits, p, self.by_width)
            parametrize.register_parametrization(module, own, rounding)
        return model

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Choose each step; weights keep their values."""
        names: dict[str, str | None] = {name: name for name, _ in model.named_parameters()}
        for old in self._weights(before):
            place, _, own = old.rpartition(".")
            lead = f"{place}.parametrizations.{own}".lstrip(".")
            holder: Any = model.get_submodule(lead)
            holder[0].fit(holder.original)
            names |= {f"{lead}.0.{name}": None for name, _ in holder[0].named_parameters()} | {f"{lead}.original": old}
        return TransformResult(names)

    def _weights(self, model: nn.Module) -> dict[str, tuple[nn.Module, str, Tensor]]:
        """Owner, own name and tensor of every matrix that matches."""
        found: dict[str, tuple[nn.Module, str, Tensor]] = {}
        for name, p in matching(model, self.patterns).items():
            place, _, own = name.rpartition(".")
            module = model.get_submodule(place)
            if p.ndim < 2:
                continue
            if isinstance(module, parametrize.ParametrizationList):
                raise DeclarationError(
                    f"got '{name}', of which another weight is made already; leave it out", "patterns"
                )
            if any(p is other for _, _, other in found.values()) or _holders(model, p) > 1:
                raise DeclarationError(f"got '{name}', which two modules share; leave it out", "patterns")
            found[name] = (module, own, p)
        if not found:
            raise DeclarationError(f"got {show(list(self.patterns))}, which match no matrix", "patterns")
        return found


def _holders(model: nn.Module, p: Tensor) -> int:
    return sum(p is other for module in model.modules() for other in module._parameters.values())
