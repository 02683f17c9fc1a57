"""One weight at several bit widths: rounded to integers once, and those to fewer bits by a second rounding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from regimes.core.errors import DeclarationError


def second_rounding(q: Tensor, high: int, low: int) -> Tensor:
    r"""Return integers of `low` bits from those of `high` bits, by additions and shifts.

    .. math:: q_l = \mathrm{clip}(\mathrm{round}(q_h / 2^{h-l}), -2^{l-1}, 2^{l-1} - 1)

    with halves rounded to the even neighbor, as torch rounds.

    Parameters
    ----------
    q : Tensor of integers
        q_h.
    high, low : int
        h >= l.

    Examples
    --------
    >>> second_rounding(torch.tensor([-128, -96, 31, 32, 33, 96, 127], dtype=torch.int8), 8, 2)
    tensor([-2, -2,  0,  0,  1,  1,  1], dtype=torch.int8)
    """
    shift, wide = high - low, q.to(torch.int64)
    if shift:
        wide = (wide + (2 ** (shift - 1) - 1) + ((wide >> shift) & 1)) >> shift
    return wide.clamp(-(2 ** (low - 1)), 2 ** (low - 1) - 1).to(q.dtype)


def first_rounding(w: Tensor, step: Tensor, high: int) -> Tensor:
    """Return clip(round(w / s), -2^(h-1), 2^(h-1) - 1), of the weight's type; its gradient passes the rounding."""
    return _rounded(w / step, high)


def double_rounded(w: Tensor, step: Tensor, high: int, low: int) -> Tensor:
    r"""Return a weight at `low` bits, by its integers of `high` bits.

    .. math:: \hat w = s \, 2^{h-l} \, q_l

    Gradients pass both roundings as if they were not there, and stop where one is clipped; so within the range that of s is
    2^{h-l} q_l - w / s (LSQ's), beyond it 2^{h-l} times the bound.

    Parameters
    ----------
    w : Tensor
    step : Tensor, one number
        s > 0.
    high, low : int
        h >= l.

    Examples
    --------
    >>> double_rounded(torch.tensor([-1.0, 0.3, 0.6, 9.0]), torch.tensor(0.01), 8, 2)
    tensor([-1.2800,  0.0000,  0.6400,  0.6400])
    """
    q = _rounded(w / step, high)
    if low < high:
        q = _rounded(q / 2 ** (high - low), low)
    return q * (step * 2 ** (high - low))


def _rounded(x: Tensor, bits: int) -> Tensor:
    # The difference is exactly 0, and has the gradient.
    return (x.detach().round() + (x - x.detach())).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


class DoubleRound(nn.Module):
    """A parametrization of a weight: what it is at the bit width that is chosen.

    Parameters
    ----------
    bits : sequence of int
        Widths, falling; the first is that in which the weight is stored.
    like : Tensor
        The weight.
    by_width : bool
        Have ``step_taps``, zeros of shape (widths,), which are added to the step: their gradients are the step's, by width.

    Attributes
    ----------
    step_size : Parameter, one number
        s, of all widths.
    width : int
        The one that is chosen, see `at_width`; at first the highest.
    """

    def __init__(self, bits: Sequence[int], like: Tensor, by_width: bool = False) -> None:
        super().__init__()
        self.bits, self.width = tuple(bits), bits[0]
        self.step_size = nn.Parameter(like.new_ones(()))
        if by_width:
            self.step_taps = nn.Parameter(like.new_zeros(len(self.bits)))

    def forward(self, w: Tensor) -> Tensor:
        """Return the weight at the chosen width."""
        step: Tensor = self.step_size
        if hasattr(self, "step_taps"):
            step = step + self.step_taps[self.bits.index(self.width)]
        largest = max(2 ** (self.width - 1) - 1, 1)
        # LSQ's: with it a step of the rate moves s, relative to its size, about as it moves weights.
        still = step.detach()
        scaled = still + (step - still) * (w.numel() * largest) ** -0.5
        return double_rounded(w, scaled.abs().clamp_min(torch.finfo(w.dtype).tiny), self.bits[0], self.width)

    @torch.no_grad()
    def fit(self, w: Tensor) -> None:
        """Choose s so that the largest entry of the weight is the largest integer."""
        self.step_size.fill_((w.abs().max() / (2 ** (self.bits[0] - 1) - 1)).clamp_min(torch.finfo(w.dtype).tiny))

    @torch.no_grad()
    def integers(self, w: Tensor) -> Tensor:
        """Return what is stored: integers of the highest width, int8 up to 8 bits, else int32."""
        stored = torch.int8 if self.bits[0] <= 8 else torch.int32
        return first_rounding(w, self.step_size, self.bits[0]).to(stored)

    def extra_repr(self) -> str:
        """Widths, and the chosen one."""
        return f"bits={self.bits}, width={self.width}"


def rounders(model: nn.Module) -> list[DoubleRound]:
    """Return the model's parametrizations of this kind.

    Raises
    ------
    DeclarationError
        If there is none.
    """
    found = [module for module in model.modules() if isinstance(module, DoubleRound)]
    if not found:
        raise DeclarationError(
            "the model has no weights of several bit widths; DoubleRounding makes them on entering a phase"
        )
    return found


@contextlib.contextmanager
def at_width(model: nn.Module, bits: int) -> Iterator[None]:
    """Inside, the weights that `DoubleRounding` has made have this many bits; afterwards as many as before.

    Parameters
    ----------
    model : Module
    bits : int
        One of the widths that were declared.

    Raises
    ------
    DeclarationError
        If the model has no such weights, or they do not have this width.

    Examples
    --------
    >>> from regimes.model_transforms import DoubleRounding
    >>> net = DoubleRounding("0.weight", bits=(8, 2)).structure(nn.Sequential(nn.Linear(2, 1, bias=False)))
    >>> _ = net[0].parametrizations.weight.original.data.copy_(torch.tensor([[5.0, 70.0]]))  # the step is 1
    >>> with at_width(net, 2): print(net[0].weight.detach().tolist())
    [[0.0, 64.0]]
    >>> net[0].weight.detach().tolist()
    [[5.0, 70.0]]
    """
    found = rounders(model)
    for one in found:
        if bits not in one.bits:
            raise DeclarationError(f"got {bits} bits; allowed: {', '.join(map(str, one.bits))}", "bits")
    before = [one.width for one in found]
    try:
        for one in found:
            one.width = bits
        yield
    finally:
        for one, width in zip(found, before):
            one.width = width
