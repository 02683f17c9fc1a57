"""Warm up again after a decay, and decay again."""

from __future__ import annotations

from collections.abc import Callable

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import EDGE, Schedule, Span
from regimes.core.registry import register
from regimes.schedules.cosine import Cosine


@register
class Rewarm(Schedule):
    r"""From the rate at which training ended up to the peak in a straight line, then down half a cosine.

    With r the share of the rise, a = start, h = peak, l = final and u = (x - r) / (1 - r)

    .. math:: s(x) = \begin{cases} a + (h - a)\, x / r & x < r \\
              l + \tfrac12 (h - l) (1 + \cos \pi u) & x \ge r \end{cases}

    With start = 0 it is `Cosine` with a warm-up.

    Parameters
    ----------
    peak : float
        eta_max: the higher, the more is learned of the new data and forgotten of the old.
    rise : Duration
        Length of the rise; ``"0%"`` starts at the peak. Default 1%, the papers' as we recall it.
    final : float, optional
        eta_min. Default a tenth of the peak, the papers'.
    start : float, optional
        Where the rise begins. Default `final`: the rate at which a run of this schedule ended.
    warmup : Duration
        Linear rise from 0 to `start`, before; default none.

    Raises
    ------
    DeclarationError
        If the rise is longer than the stretch.

    Notes
    -----
    A phase of its own for each data set, with ``carry`` where the optimizer's moments go on (the papers begin anew with
    them). A share r of old data among the new, the papers' replay, is ``Mixture(old=r, new=1 - r)``.

    References
    ----------
    K. Gupta, B. Thérien, A. Ibrahim et al., Continual Pre-Training of Large Language Models: How to (re)warm your model?,
    2023, arXiv:2308.04014; A. Ibrahim et al., Simple and Scalable Strategies to Continually Pre-train Large Language
    Models, TMLR 2024, arXiv:2403.08763.

    Examples
    --------
    >>> s = Rewarm(1.0, rise="20%")
    >>> [round(s(f), 6) for f in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.1, 0.55, 1.0, 0.55, 0.1]
    """

    peak: float = fixed()
    rise: Duration = fixed(Duration(1.0, "%"))
    final: float | None = fixed(None)
    start: float | None = fixed(None)

    card = Card(
        title="Warm up again, decay again",
        axes=("rates", "phases"),
        source="Gupta et al. 2023, arXiv:2308.04014; Ibrahim et al. 2024, arXiv:2403.08763",
        when="New data for a model whose rate has been annealed.",
        shelf="atlas",
        rows=("rewarm-continual-pretraining", "cpt-rewarm-replay"),
        defaults={
            "rise": "1%, the papers' as we recall it",
            "final": "a tenth of the peak, the papers'",
            "start": "final; whether the papers' begins there or at 0 we do not know",
        },
    )

    def shape(self, span: Span) -> Callable[[float], float]:
        """Place the rise."""
        rise = self.share_of(span, "rise", above=None)
        if rise > 1.0 + EDGE:
            raise DeclarationError(f"got '{self.rise}'; allowed: no longer than the stretch after the warm-up", "rise")
        peak, left = self.peak, max(1.0 - rise, EDGE)
        final = peak / 10.0 if self.final is None else self.final
        start, down = final if self.start is None else self.start, Cosine(peak, final)

        def value(x: float) -> float:
            if x < rise:
                return start + (peak - start) * (x / rise)
            u = (x - rise) / left
            return down.curve(u if u < 1.0 - EDGE else 1.0)

        return value
