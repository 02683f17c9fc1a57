"""Warm-up, stable, decay."""

from __future__ import annotations

from collections.abc import Callable

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import EDGE, Schedule, Span
from regimes.core.registry import register
from regimes.schedules.shapes import Shape, fall, held_then, refuse_zero


@register
class WSD(Schedule):
    r"""Warm up, hold the peak, decay at the end: the stable part can be branched from and prolonged.

    With D the decay share of the whole, u = (f - (1 - D)) / D in the decay, h = peak and l = final

    .. math:: s(f) = \begin{cases} h & f < 1 - D \\ l + (h - l)\, d(u) & f \ge 1 - D \end{cases}

    with d(u) = 1 - u (linear), 1 - sqrt(u) (sqrt) or (1 + cos(pi u)) / 2 (cosine). Two shapes need a final value above 0:
    the decay h (l / h)^u (exponential), a straight line of the logarithm, and 1 / ((1 - u) / h + u / l) (inverse), one of
    the inverse.

    Parameters
    ----------
    peak : float
        Value of the stable part.
    decay : Duration
        Length of the decay, of the whole stretch. Default 10%, as MiniCPM reports sufficient (section 4.3).
    final : float
        Value at the end. Default 0.
    decay_shape : {"linear", "sqrt", "cosine", "exponential", "inverse"}
        Default "linear"; "sqrt" is Hägele et al.'s 1-sqrt, "exponential" MiniCPM's, "inverse" Wen et al.'s.
    warmup : Duration
        Linear rise from 0; default none.

    Raises
    ------
    DeclarationError
        If warm-up and decay together are longer than the stretch, or an exponential or inverse decay goes to 0.

    References
    ----------
    S. Hu et al., MiniCPM, arXiv:2404.06395, section 4; A. Hägele et al., Scaling Laws and Compute-Optimal
    Training Beyond Fixed Training Durations, NeurIPS 2024, arXiv:2405.18392; K. Wen et al., Understanding
    Warmup-Stable-Decay Learning Rates, ICLR 2025, arXiv:2410.05192.

    Examples
    --------
    >>> s = WSD(1e-3, warmup="10%", decay="20%")
    >>> [round(s(f), 6) for f in (0.0, 0.05, 0.1, 0.8, 0.9, 1.0)]
    [0.0, 0.0005, 0.001, 0.001, 0.0005, 0.0]
    """

    peak: float = fixed()
    decay: Duration = fixed(Duration(10.0, "%"))
    final: float = fixed(0.0)
    decay_shape: Shape = fixed("linear")

    card = Card(
        title="Warm-up, stable, decay",
        axes=("rates", "phases"),
        source="Hu et al. 2024, MiniCPM, arXiv:2404.06395",
        when="The length of the run is open, or several lengths are wanted from one trunk.",
        defaults={"decay": "10%, MiniCPM section 4.3", "decay_shape": "linear, Hägele et al. 2024"},
        deviations=(
            "MiniCPM decays exponentially, by a half-life; here by decay_shape='exponential' and the value at the end.",
        ),
    )

    def validate(self) -> None:
        """Refuse shapes that never reach 0 on the way to it."""
        refuse_zero(self.decay_shape, self.peak, self.final, "decay_shape")

    def shape(self, span: Span) -> Callable[[float], float]:
        """Place the decay at the end of the stretch."""
        length = self.share_of(span, "decay", above=None)
        if length > 1.0 + EDGE:
            raise DeclarationError(f"got '{self.decay}'; warm-up and decay together exceed the stretch", "decay")
        return held_then(fall(self.decay_shape, self.peak, self.final), self.peak, 1.0 - length, length)
