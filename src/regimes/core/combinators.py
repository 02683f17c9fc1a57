"""Schedules around schedules: one after another, kept within bounds, read every so often."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from regimes.core.algebra import Pair
from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, show
from regimes.core.kinds import EDGE, Schedule, Span
from regimes.core.progress import Progress
from regimes.core.registry import register


class _Holder(Schedule):
    """Base of combinators with a stretch of their own, which what they hold follows too."""

    def validate(self) -> None:
        """Refuse parts that follow something else, and progress that would run ahead twice."""
        for name, part in self.children():
            if not isinstance(part, Schedule):
                continue
            others = clocks(part) - {self.over}
            if others:
                raise DeclarationError(
                    f"got {show(part)}, which follows the {others.pop()} while {type(self).__name__} follows the "
                    f"{self.over}; allowed: over='{self.over}' here, or the same over= on {type(self).__name__}",
                    f"{name}.over",
                )
            if self.inclusive and any(inner.inclusive for inner in _all_schedules(part)):
                raise DeclarationError(
                    f"got True on {type(self).__name__} and on {show(part)}; allowed: on one of them", "inclusive"
                )

    def held(self, name: str, span: Span) -> Callable[[float], float]:
        """Bind the part called `name` in its stretch, as a function of the stretch's fraction."""
        try:
            inner = getattr(self, name).bind(span.alone())
        except DeclarationError as why:
            raise why.within(name) from None
        return lambda x: inner(Progress(fraction=x, run_fraction=x))


def clocks(schedule: Schedule) -> set[str]:
    """What a schedule follows: "phase", "run", or, in a product or sum, both."""
    if isinstance(schedule, Pair):
        return set().union(*(clocks(side) for _, side in schedule.children() if isinstance(side, Schedule)))
    return {schedule.over}


def clock(schedule: Schedule) -> str:
    """What a combinator around `schedule` follows if nothing else is said."""
    return "run" if clocks(schedule) == {"run"} else "phase"


def _all_schedules(schedule: Schedule) -> Iterator[Schedule]:
    yield schedule
    for _, part in schedule.children():
        if isinstance(part, Schedule):
            yield from _all_schedules(part)


@register
class Then(_Holder):
    r"""One schedule until `at`, another after it, each over its own part of the stretch.

    With a the place of `at`

    .. math:: s(x) = \begin{cases} \text{first}(x / a) & x < a \\
              \text{second}((x - a) / (1 - a)) & x \ge a \end{cases}

    Parameters
    ----------
    first, second : Schedule
        Each sees its own part as a whole: its percentages are of that part, its warm-up is at the part's beginning.
        Other Durations keep their length.
    at : Duration
        Where the second begins, counted from the beginning of the stretch, a warm-up of the sequence included.
    warmup : Duration
        Linear rise from 0 to the first value of `first`; default none.

    Raises
    ------
    DeclarationError
        If `at` is not inside the stretch, or a part follows the run and the sequence the phase.

    Notes
    -----
    `peak` is that of `first` alone. ``1e-3 * Then(Constant(1.0), Linear(1.0), "80%")`` has a peak that moves both.

    Examples
    --------
    >>> from regimes.schedules import Constant, Linear
    >>> s = Constant(1.0).then(Linear(1.0, 0.0), "50%")
    >>> s, [s(f) for f in (0.0, 0.5, 0.75, 1.0)]
    (Then(Constant(1.0), second=Linear(1.0), at='50%'), [1.0, 1.0, 0.5, 0.0])
    """

    first: Schedule = fixed()
    second: Schedule = fixed()
    at: Duration = fixed()

    card = Card(
        title="One schedule after another",
        axes=("rates", "phases"),
        source="torch.optim.lr_scheduler.SequentialLR; optax.join_schedules",
        when="A rate that does one thing first and another afterwards, without a seam.",
        deviations=("Each part is a whole of its own: percentages in it are of the part.",),
    )

    def shape(self, span: Span) -> Callable[[float], float]:
        """Place the border, and each schedule in its part."""
        border = self._border(span)
        first, second = self.held("first", span.part(0.0, border)), self.held("second", span.part(border, 1.0))

        def value(x: float) -> float:
            if x < border - EDGE:
                return first(x / border)
            return second(max(x - border, 0.0) / (1.0 - border))

        return value

    def _border(self, span: Span) -> float:
        try:
            border = span.place(self.at)
        except DeclarationError as why:
            raise why.within("at") from None
        if not EDGE < border < 1.0 - EDGE:
            raise DeclarationError(f"got '{self.at}'; allowed: after the warm-up and before the end", "at")
        return border

    def alias(self, segment: str) -> str | None:
        """`peak` of a sequence is that of its first part."""
        return "first" if segment == "peak" else None


@register
class Clip(_Holder):
    r"""A schedule kept within bounds.

    .. math:: s(x) = \min(\max(\text{schedule}(x), \text{low}), \text{high})

    Parameters
    ----------
    schedule : Schedule
    low, high : float, optional
        Bounds; one at least.
    warmup : Duration
        Linear rise from 0, below `low`, to the first clipped value. A warm-up of `schedule` itself is clipped.

    Raises
    ------
    DeclarationError
        If there is no bound, or they cross.

    Examples
    --------
    >>> from regimes.schedules import Linear
    >>> s = Linear(1.0, 0.0).clip(low=0.25)
    >>> s, s(0.5), s(0.9)
    (Clip(Linear(1.0), low=0.25), 0.5, 0.25)
    """

    schedule: Schedule = fixed()
    low: float | None = fixed(None)
    high: float | None = fixed(None)

    card = Card(
        title="A schedule kept within bounds",
        axes=("rates",),
        source="folklore",
        when="A floor under a decay, or a ceiling over a product.",
    )

    def validate(self) -> None:
        """Refuse bounds that do nothing or cross."""
        super().validate()
        if self.low is None and self.high is None:
            raise DeclarationError("got no bound; allowed: low=, high= or both", "low")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise DeclarationError(f"got {self.high:g}; allowed: at least low ({self.low:g})", "high")

    def shape(self, span: Span) -> Callable[[float], float]:
        """Place the inner schedule and clip it."""
        inner = self.held("schedule", span)
        low = float("-inf") if self.low is None else self.low
        high = float("inf") if self.high is None else self.high
        return lambda x: min(max(inner(x), low), high)

    def alias(self, segment: str) -> str | None:
        """`peak` is that of the schedule inside."""
        return "schedule" if segment == "peak" else None


@register
class Sampled(_Holder):
    r"""A schedule read only every so often and held in between.

    With e the share of `every`

    .. math:: s(x) = \text{schedule}(e \lfloor x / e \rfloor)

    Parameters
    ----------
    schedule : Schedule
    every : Duration
        Between two readings, counted from the end of the warm-up.
    warmup : Duration
        Linear rise from 0 to the first reading, not sampled. A warm-up of `schedule` itself is sampled.

    Raises
    ------
    DeclarationError
        If `every` is nothing, or cannot be converted to the budget's unit.

    References
    ----------
    J. Chen, C. Wolfe and A. Kyrillidis, REX: Revisiting Budgeted Training with an Improved Schedule, MLSys 2022,
    arXiv:2107.04197 (a schedule is a profile and a sampling rate).

    Examples
    --------
    >>> from regimes.schedules import Linear
    >>> s = Linear(1.0, 0.0).sampled("25%")
    >>> s, [s(f) for f in (0.0, 0.2, 0.3, 0.99)]
    (Sampled(Linear(1.0), every='25%'), [1.0, 1.0, 0.75, 0.25])
    """

    schedule: Schedule = fixed()
    every: Duration = fixed()

    card = Card(
        title="A schedule read every so often",
        axes=("rates",),
        source="Chen, Wolfe and Kyrillidis 2022, arXiv:2107.04197",
        when="Steps on a profile; one value per epoch.",
        rows=("rex-schedule",),
    )

    def shape(self, span: Span) -> Callable[[float], float]:
        """Place the inner schedule and hold it."""
        inner, every = self.held("schedule", span), self.share_of(span, "every")
        # The nudge puts the step that begins the k-th hold into it although k * every is rounded.
        return lambda x: inner(min(int(x / every + 1e-9) * every, 1.0))

    def alias(self, segment: str) -> str | None:
        """`peak` is that of the schedule inside."""
        return "schedule" if segment == "peak" else None


@register
class Window(_Holder):
    r"""A schedule that runs its whole course within a window of the stretch, held before and after it.

    With b the place of `start` and w the share of `length`

    .. math:: s(x) = \text{schedule}(\min(\max((x - b) / w, 0), 1))

    Parameters
    ----------
    schedule : Schedule
        Sees the window as a whole: its percentages are of the window. Other Durations keep their length.
    start : Duration
        Where the window begins, counted from the beginning of the stretch.
    length : Duration

    Raises
    ------
    DeclarationError
        If `length` is nothing, or a Duration cannot be converted to the budget's unit.

    Examples
    --------
    >>> from regimes.schedules import Linear
    >>> s = Window(Linear(1.0, 0.0), start="50%", length="25%")
    >>> [s(f) for f in (0.0, 0.5, 0.625, 0.75, 1.0)]
    [1.0, 1.0, 0.5, 0.0, 0.0]
    """

    schedule: Schedule = fixed()
    start: Duration = fixed()
    length: Duration = fixed()

    card = Card(
        title="A schedule within a window",
        axes=("rates",),
        source="folklore",
        when="Something is to be tried, or to happen, in a part of a phase.",
    )

    def shape(self, span: Span) -> Callable[[float], float]:
        """Place the window, and the inner schedule in it."""
        length = self.share_of(span, "length")
        begin = span.place(self.start) if self.start.value else 0.0
        inner = self.held("schedule", span.part(begin, begin + length))
        return lambda x: inner(min(max((x - begin) / length, 0.0), 1.0))

    def alias(self, segment: str) -> str | None:
        """`peak` is that of the schedule inside."""
        return "schedule" if segment == "peak" else None
