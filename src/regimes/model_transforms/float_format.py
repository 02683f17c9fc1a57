"""Numbers of few bits, emulated: which ones a format has, and how any other number becomes one of them."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import Component, fixed
from regimes.core.registry import register

#: By type: that of its bits, those that hold the exponent (alone, they are the power of two at or below), the highest power.
_BITS = {
    torch.float32: (torch.int32, 0x7F800000, 2.0**127),
    torch.float64: (torch.int64, 0x7FF0000000000000, 2.0**1023),
}


@register
class FloatFormat(Component):
    r"""Floating-point numbers with e bits of exponent and m bits of mantissa.

    With the bias b = 2^(e-1) - 1, these are 0 and, of either sign,

    .. math:: 2^{k} \left(1 + \frac{j}{2^m}\right), \quad k \ge 1 - b, \ 0 \le j < 2^m
        \qquad\text{and}\qquad 2^{1 - b} \frac{j}{2^m} \quad \text{(subnormal)}

    up to the largest, (2 - 2^-m) 2^b where the highest exponent is kept for infinities (IEEE 754), or
    (2 - 2^(1-m)) 2^(b+1) where all but one of its codes are numbers (`finite`).

    Parameters
    ----------
    exponent, mantissa : int
        e and m; up to 8 and 23, which are float32's.
    rounding : "nearest", "zero" or "stochastic"
        To the nearest of the format's numbers (of two as near to the one whose last bit is 0), to the one towards zero
        (low bits are cleared), or to one of the two neighbors, with the probabilities for which the mean is the number
        itself. Default nearest.
    finite : bool
        There are no infinities. Default False.
    saturate : bool
        What is too large becomes the largest number, infinities too. Otherwise it becomes infinite, or NaN where the
        format is finite; towards zero, numbers become the largest in any case, as IEEE 754 has it. Default False; "e4m3"
        does, as torch 2.13 casts, where earlier ones gave NaN.
    scaled : bool
        Each tensor is multiplied before by the power of two for which its largest entry is within a factor 4 of the
        format's largest number, and divided after: as recipes for 8 bits do, but that theirs is no power of two.
        Default False.

    Notes
    -----
    "e4m3", "e5m2", "bfloat16" and "float16" stand for `FORMATS`, which are torch's: ``torch.float8_e4m3fn``,
    ``torch.float8_e5m2``, ``torch.bfloat16``, ``torch.float16``. NaN stays NaN, zeros keep their signs, and a tensor its
    type.

    References
    ----------
    P. Micikevicius et al., FP8 Formats for Deep Learning, 2022, arXiv:2209.05433.

    Examples
    --------
    >>> x = torch.tensor([0.3, 1.7, 17.0, 500.0])
    >>> FORMATS["e4m3"].round(x).tolist()
    [0.3125, 1.75, 16.0, 448.0]
    >>> FloatFormat(4, 3, rounding="zero").round(x).tolist()  # with infinities: the largest is 240
    [0.28125, 1.625, 16.0, 240.0]
    >>> FORMATS["e4m3"].largest, FORMATS["e5m2"].largest, FORMATS["bfloat16"].smallest_normal == 2.0**-126
    (448.0, 57344.0, True)
    """

    kind = "float_format"
    card = Card(
        title="A floating-point format of few bits",
        axes=("regime",),
        source="Micikevicius et al. 2022, arXiv:2209.05433",
        when="In EmulatePrecision, RoundGradients and RoundStates.",
        cost="a dozen passes over what is rounded",
        shelf="atlas",
        rows=("fp8-stability",),
    )

    exponent: int = fixed(low=2, high=8)
    mantissa: int = fixed(low=1, high=23)
    rounding: Literal["nearest", "zero", "stochastic"] = fixed("nearest")
    finite: bool = fixed(False)
    saturate: bool = fixed(False)
    scaled: bool = fixed(False)

    @property
    def smallest_normal(self) -> float:
        """2^(1 - b): below it numbers are evenly spaced."""
        return 2.0 ** (2 - 2 ** (self.exponent - 1))

    @property
    def largest(self) -> float:
        """The largest finite number."""
        top = 2.0 ** (2 ** (self.exponent - 1) - 1)
        return (2.0 - 2.0 ** (1 - self.mantissa)) * 2.0 * top if self.finite else (2.0 - 2.0**-self.mantissa) * top

    def uniform(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """Return the random numbers that rounding `x` takes, of the global generator by default; None where it takes none."""
        if self.rounding != "stochastic":
            return None
        return torch.rand(x.shape, generator=generator, dtype=torch.float64, device=x.device)

    @torch.no_grad()
    def round(self, x: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Return the numbers of the format that stand for `x`, in its type.

        Parameters
        ----------
        x : Tensor
            Of any floating-point type up to float64.
        uniform : Tensor, optional
            In [0, 1), of the same shape: what decides stochastic rounding. Default: drawn from the global generator.
        """
        wide = x.to(self._workspace(x.dtype))
        if not self.scaled:
            return self._rounded(wide, uniform).to(x.dtype)
        factor = self._factor(wide)
        return (self._rounded(wide * factor, uniform) / factor).to(x.dtype)

    def _workspace(self, dtype: torch.dtype) -> torch.dtype:
        """The type in which rounding is exact; float32 where that will do, which takes half the time."""
        double = dtype == torch.float64 or self.scaled or self.rounding == "stochastic"
        return torch.float64 if double else torch.float32

    def _factor(self, wide: Tensor) -> Tensor:
        """The power of two that brings the largest entry into [largest / 4, largest]; 1 where nothing is to be brought."""
        size = torch.linalg.vector_norm(wide, math.inf)
        factor = 2.0 ** (math.frexp(self.largest)[1] - 2) / _power(size)
        return torch.where((size > 0.0) & size.isfinite(), factor, 1.0)

    def _rounded(self, wide: Tensor, uniform: Tensor | None) -> Tensor:
        spacing = _power(wide, self.smallest_normal) * 2.0**-self.mantissa
        places = wide / spacing
        if self.rounding == "nearest":
            places = places.round()  # of halves to even
        elif self.rounding == "zero":
            places = torch.copysign(places.abs().floor(), wide)  # a tenth of the time of trunc
        else:
            drawn = torch.rand_like(wide) if uniform is None else uniform
            places = torch.copysign((places.abs() + drawn).floor(), wide)
        found = places * spacing
        if self.saturate:
            return found.clamp(-self.largest, self.largest)
        if self.exponent == 8 and not self.finite and wide.dtype == torch.float32:
            return found  # what is too large for the format is so for float32, too
        if self.rounding == "zero":
            found = torch.where(wide.isinf(), wide, found.clamp(-self.largest, self.largest))
        beyond = math.nan if self.finite else math.inf
        return torch.where(found.abs() > self.largest, wide.sign() * beyond, found)


def _power(wide: Tensor, least: float = 0.0) -> Tensor:
    """The power of two at or below each entry's size, but no less than `least`; of what is not finite, the highest."""
    whole, exponent, most = _BITS[wide.dtype]
    if torch._C._functorch.is_legacy_batchedtensor(
        wide
    ):  # gradients by example: no other view of their bits is to be had
        shares = torch.frexp(wide).mantissa
        return (wide / torch.where(shares == 0.0, 1.0, 2.0 * shares)).clamp(least, most)
    return (wide.view(whole) & exponent).view(wide.dtype).clamp(least, most)


#: The formats that a name stands for.
FORMATS = {
    "e4m3": FloatFormat(4, 3, finite=True, saturate=True),
    "e5m2": FloatFormat(5, 2),
    "bfloat16": FloatFormat(8, 7),
    "float16": FloatFormat(5, 10),
}
#: A format or the name of one, as fields take it.
Format = FloatFormat | Literal["e4m3", "e5m2", "bfloat16", "float16"]


def format_of(said: Format) -> FloatFormat:
    """Return the format that a field holds.

    Examples
    --------
    >>> format_of("e5m2"), format_of(FloatFormat(8, 3))
    (FloatFormat(5, mantissa=2), FloatFormat(8, mantissa=3))
    """
    return FORMATS[said] if isinstance(said, str) else said
