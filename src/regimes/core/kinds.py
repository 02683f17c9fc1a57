"""The plug-in kinds: what each slot of a phase promises and may rely on.

A component takes part only through the slot of its kind; nobody receives the trainer. Every method that uses
memory takes the state first and returns the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from regimes.core.component import Component, Stateful, fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, show
from regimes.core.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from regimes.core.randomness import Streams
    from regimes.core.unit_losses import UnitLosses, Units

State = dict[str, Any]
#: A step on a border is past it, although its fraction was rounded: what borders are nudged by.
EDGE = 1e-12


class Span(NamedTuple):
    """What a schedule may know of the stretch that it follows, for turning Durations into fractions.

    Parameters
    ----------
    share : callable
        Length of a Duration as a share of the stretch.
    steps : float or None
        Steps in the stretch, where known beforehand; not whole where it begins or ends between two steps.
    before : float
        What lies before the stretch (a warm-up), as a share of the stretch.
    run : Span or None
        The whole run as a stretch; None where only percentages of it can be placed.
    """

    share: Callable[[Duration], float]
    steps: float | None = None
    before: float = 0.0
    run: Span | None = None

    def place(self, moment: Duration) -> float:
        """Where a moment, counted from the beginning of everything (warm-up included), lies in the stretch."""
        return self.share(moment) - self.before

    def of(self, over: str) -> Span:
        """The stretch that a schedule with this `over` follows."""
        if over == "phase":
            return self
        return Span(_share_of_run) if self.run is None else self.run

    def after(self, rise: float) -> Span:
        """What follows a warm-up of share `rise`; a percentage stays one of the whole."""
        if rise == 0.0:
            return self
        left = max(1.0 - rise, EDGE)

        def share(duration: Duration) -> float:
            return self.share(duration) / left

        return Span(share, _whole(self.steps, left), (self.before + rise) / left)

    def part(self, start: float, end: float) -> Span:
        """The part [start, end] as a whole of its own: percentages are of the part."""
        length = end - start

        def share(duration: Duration) -> float:
            return duration.share if duration.unit == "%" else self.share(duration) / length

        return Span(share, _whole(self.steps, length)).alone()

    def alone(self) -> Span:
        """The stretch as the only one that schedules inside a combinator can follow."""
        return self._replace(run=Span(self.share, self.steps, self.before))


def _share_of_run(duration: Duration) -> float:
    if duration.unit != "%":
        raise DeclarationError(f"got '{duration}' with over='run'; allowed: a percentage, which is of the run")
    return duration.share


def _whole(steps: float | None, share: float) -> float | None:
    """A share of the steps, without the last digits that rounding leaves."""
    return None if steps is None else round(steps * share, 9)


def percent_span(steps: int | None = None) -> Span:
    """A stretch of unknown length: only percentages convert (and steps, where their number is given)."""

    def share(duration: Duration) -> float:
        if duration.unit == "steps" and steps:
            return duration.value / steps
        if duration.unit != "%":
            raise DeclarationError(f"got '{duration}', but nothing here says how many there are; write a percentage")
        return duration.share

    return Span(share, steps).alone()


class Schedule(Component):
    r"""A pure function of progress.

    Subclasses give the curve after the warm-up, `curve(x)` for x in [0, 1], or, where Durations of their own
    are to be placed, `shape(span)` returning such a function. With warm-up share w and progress f

    .. math:: s(f) = \begin{cases} s_0 f / w & f < w \\ \mathrm{curve}((f - w) / (1 - w)) & f \ge w \end{cases}

    where s_0 = curve(0).

    Parameters
    ----------
    warmup : Duration
        Linear rise from 0 to the curve's first value; the curve starts after it.
    over : "phase" or "run"
        Whose progress is followed.
    inclusive : bool
        Reach the last value at the last step (torch's one-cycle divides by T - 1) instead of at the end.
    """

    kind = "schedule"
    #: Whether its pieces begin anew, so that what it ends with is not one last value: it cannot be inclusive.
    repeats = False

    warmup: Duration = fixed(Duration(0.0, "%"), kw_only=True)
    over: Literal["phase", "run"] = fixed("phase", kw_only=True)
    inclusive: bool = fixed(False, kw_only=True)

    def curve(self, x: float) -> float:
        """Value at x in [0, 1] of the stretch after the warm-up."""
        raise NotImplementedError(f"{type(self).__name__} gives neither curve nor shape")

    def shape(self, span: Span) -> Callable[[float], float]:
        """Return the curve with the schedule's own Durations placed in `span` (after the warm-up)."""
        return self.curve

    def bind(self, span: Span) -> Callable[[Progress], float]:
        """Return the schedule as a function of Progress, Durations placed once."""
        span = span.of(self.over)
        rise = self.share_of(span, "warmup", above=None)
        if rise > 1.0 + EDGE:
            raise DeclarationError(
                f"got '{self.warmup}', {rise:.4g} times the stretch that it warms up; allowed: at most the whole of it",
                "warmup",
            )
        after = span.after(min(rise, 1.0))
        curve, stretch = self.shape(after), self._stretch(after)
        index = Progress._fields.index("fraction" if self.over == "phase" else "run_fraction")
        if rise == 0.0 and stretch == 1.0:
            return lambda at: curve(at[index])  # type: ignore[arg-type]
        first, left = curve(0.0), max(1.0 - rise, EDGE)

        def value(at: Progress) -> float:
            f: float = at[index]  # type: ignore[assignment]
            if f < rise:
                return first * (f / rise)
            x = (f - rise) / left * stretch
            return curve(x if x < 1.0 - EDGE else 1.0)

        return value

    def _stretch(self, after: Span) -> float:
        """By how much progress runs ahead, to have reached 1 at the last step."""
        if not self.inclusive:
            return 1.0
        if self.repeats:
            raise DeclarationError(
                f"got True; allowed: False for a {type(self).__name__}, whose pieces each have an end of their own",
                "inclusive",
            )
        if after.steps is None:
            raise DeclarationError(
                "needs a known number of steps: a plain batch_size, or a budget in steps", "inclusive"
            )
        return after.steps / (after.steps - 1.0) if after.steps > 1.0 else 1.0

    def share_of(self, span: Span, name: str, above: float | None = 0.0) -> float:
        """Return the length of the Duration in field `name` as a share of the stretch; refuse nothing at all."""
        try:
            share = span.share(getattr(self, name))
        except DeclarationError as why:
            raise why.within(name) from None
        if above is not None and share <= above:
            raise DeclarationError(f"got '{getattr(self, name)}'; allowed: more than nothing", name)
        return share

    def moments_of(self, span: Span, name: str) -> list[float]:
        """Return where the moments in field `name` lie; refuse those out of order or outside what the curve sees."""
        moments = getattr(self, name)
        try:
            places = [span.place(moment) for moment in moments]
        except DeclarationError as why:
            raise why.within(name) from None
        for moment, place, previous in zip(moments, places, [0.0, *places]):
            if place <= 0.0 or place > 1.0 + EDGE:
                raise DeclarationError(f"got '{moment}'; allowed: after the warm-up, up to the end", name)
            if place < previous:
                raise DeclarationError(f"got {[str(m) for m in moments]}; allowed: moments in order", name)
        return places

    def __call__(self, at: float | Progress, steps: int | None = None) -> float:
        """Value at a fraction or Progress; Durations in steps need the number of `steps`.

        Parameters
        ----------
        at : float or Progress
            Fraction in [0, 1], or a position.
        steps : int, optional
            Length of the stretch in steps.
        """
        progress = at if isinstance(at, Progress) else Progress(fraction=at, run_fraction=at)
        return self.bind(percent_span(steps))(progress)

    def __mul__(self, other: Any) -> Any:
        from regimes.core.algebra import combine

        return combine("*", self, other)

    def __rmul__(self, other: Any) -> Any:
        from regimes.core.algebra import combine

        return combine("*", other, self)

    def __add__(self, other: Any) -> Any:
        from regimes.core.algebra import combine

        return combine("+", self, other)

    def __radd__(self, other: Any) -> Any:
        from regimes.core.algebra import combine

        return combine("+", other, self)

    def then(self, other: Schedule, at: str | Duration) -> Schedule:
        """Return a schedule that follows this one until `at` and `other` after it, each over its own part."""
        from regimes.core.combinators import Then, clock

        return Then(self, other, at, over=clock(self))

    def clip(self, low: float | None = None, high: float | None = None) -> Schedule:
        """Return this schedule kept within bounds."""
        from regimes.core.combinators import Clip, clock

        return Clip(self, low, high, over=clock(self))

    def sampled(self, every: str | Duration) -> Schedule:
        """Return this schedule read only every so often, and held in between."""
        from regimes.core.combinators import Sampled, clock

        return Sampled(self, every, over=clock(self))

    def alias(self, segment: str) -> str | None:
        """Where a path goes on that names a field which this schedule does not have itself."""
        return None


class Controller(Stateful):
    """A closed loop: its value is defined before any signal, and moves when signals come."""

    kind = "controller"

    def init(self) -> State:
        """Return the state before any signal."""
        return {}

    def value(self, state: State, at: Progress) -> float:
        """Value of the knob at this step; reads the state, changes nothing."""
        raise NotImplementedError(f"{type(self).__name__} gives no value")

    def bind_parts(self, span: Span) -> Any:
        """Place Durations of schedules among the parts; plain controllers have none."""
        return self

    def __mul__(self, other: Any) -> Any:
        from regimes.core.algebra import combine

        return combine("*", self, other)

    def __rmul__(self, other: Any) -> Any:
        from regimes.core.algebra import combine

        return combine("*", other, self)

    def __add__(self, other: Any) -> Any:
        from regimes.core.algebra import combine

        return combine("+", self, other)

    def __radd__(self, other: Any) -> Any:
        from regimes.core.algebra import combine

        return combine("+", other, self)


if TYPE_CHECKING:
    # Declared as any of the three, read in methods as the plain number that the engine has put there.
    Knob = Any
else:
    Knob = float | Schedule | Controller


class SourceView(NamedTuple):
    """What a sampler may know of the data: sizes and per-example columns, by source name.

    Parameters
    ----------
    sizes : dict of str to int
        Examples in each source, in declared order.
    column : callable
        ``column(source, name)`` returns a per-example tensor, or None where the source has no such column.
    """

    sizes: dict[str, int]
    column: Callable[[str, str], Any]

    @property
    def only(self) -> str:
        """Name of the single source."""
        return next(iter(self.sizes))

    @property
    def size(self) -> int:
        """Examples in all sources together."""
        return sum(self.sizes.values())

    def narrow(self, source: str) -> SourceView:
        """The view of one source."""
        return SourceView({source: self.sizes[source]}, self.column)


class DrawContext(NamedTuple):
    """What a sampler may use while drawing: the view, addressed streams of that step, the position."""

    view: SourceView
    streams: Streams
    step: int
    at: Progress
    key: tuple[str | int, ...]

    def rng(self, *address: str | int) -> np.random.Generator:
        """Generator of this step at an address (shared: use it before asking for the next)."""
        return self.streams.rng("draw", self.step, *address)


class Draw(NamedTuple):
    """Which examples a step trains on.

    Parameters
    ----------
    indices : ndarray of int64, shape (n,)
        Example numbers within their source.
    cursor : dict
        Where in the data the next draw goes on.
    weights : ndarray or None
        Importance weights, which multiply the loss's in the numerator only.
    sources : ndarray of int64 or None
        Position of each example's source in the view; None where there is one source.
    columns : dict
        Extra columns by name, one value per example, or one number for all.
    """

    indices: np.ndarray
    cursor: State
    weights: np.ndarray | None = None
    sources: np.ndarray | None = None
    columns: Mapping[str, Any] = {}


class Sampler(Stateful):
    """Decides which examples. Learned memory is state; the place in the data is the cursor."""

    kind = "sampler"
    #: The weights of a plan also enter the denominator.
    self_normalised: ClassVar[bool] = False

    def init(self, view: SourceView) -> State:
        """Return what has been learned before any draw; the default asks sampler-valued fields."""
        return {name: part.init(view) for name, part in self.parts() if isinstance(part, Sampler)}

    def start(self, view: SourceView, key: tuple[str | int, ...]) -> State:
        """Return the cursor at the beginning; `key` addresses what must outlive a seam."""
        return {name: part.start(view, key) for name, part in self.parts() if isinstance(part, Sampler)}

    def draw(self, state: State, cursor: State, n: int, ctx: DrawContext) -> Draw:
        """Draw `n` examples; read the state, move the cursor."""
        raise NotImplementedError(f"{type(self).__name__} draws nothing")


class Loss(Stateful):
    """Turns a model and a batch into unit losses, never reduced."""

    kind = "loss"
    #: The loss of a batch is the sum over its examples of functions of each example alone.
    separable: ClassVar[bool] = True

    @property
    def asks(self) -> bool:
        """Whether it reads what data that ask the model (rollouts) are told; where it does not, they do not ask."""
        return True

    def init(self) -> State:
        """Return the memory of the loss (a teacher, a temperature) before training."""
        return {}

    def units(self, state: State, model: nn.Module, batch: Any) -> UnitLosses:
        """Return the losses per unit of one micro-batch; the state is read-only here."""
        raise NotImplementedError(f"{type(self).__name__} gives no units")

    def sampled(self, state: State, model: nn.Module, batch: Any, generator: Any) -> UnitLosses:
        """Return the losses of one micro-batch for targets drawn from what the model predicts.

        Targets and values are such that the gradient of a unit has, over draws, mean zero and as second moment the
        Gauss-Newton matrix of the unit's loss: what estimates of a curvature are made of.

        Parameters
        ----------
        state, model, batch
            As of `units`.
        generator : torch.Generator
            From which the targets are drawn.

        Raises
        ------
        DeclarationError
            If the loss says no distribution of targets.
        """
        raise no_distribution(self)

    def __call__(self, model: nn.Module, batch: Any) -> UnitLosses:
        """`units` with a fresh state, for use in a person's own loop."""
        return self.units(self.init(), model, batch)


def no_distribution(loss: Loss) -> DeclarationError:
    """Return the refusal of a loss from which no targets can be drawn."""
    return DeclarationError(
        f"got {show(loss)}, which says no distribution from which the rule could draw targets; allowed: a loss that says "
        "one (its method `sampled`), as the cross-entropies without class weights and the squared error do",
        "loss",
    )


class Selector(Stateful):
    """Chooses units after a scoring pass, and their weights."""

    kind = "selector"

    def init(self) -> State:
        """Return the memory before training."""
        return {}

    def select(self, state: State, units: Units) -> Tensor:
        """Return one weight per unit, from what a scoring pass found; 0 leaves a unit out.

        The weights multiply the loss's own, in numerator and denominator: the loss of a step is the mean over what
        was selected.

        Parameters
        ----------
        state : dict
            Read-only.
        units : Units
            Unit losses of the whole batch without graph, the loss's own weights, whose example each unit is.
        """
        raise NotImplementedError(f"{type(self).__name__} selects nothing")


class Augment(Stateful):
    """Changes a fetched batch with addressed randomness."""

    kind = "augment"

    def init(self) -> State:
        """Return the memory before training."""
        return {}

    def apply(self, state: State, batch: Any, generator: Any) -> Any:
        """Return the changed batch; `generator` is a torch generator of this step and micro-batch."""
        raise NotImplementedError(f"{type(self).__name__} changes nothing")


class TransformContext(NamedTuple):
    """What a gradient transform may use.

    Parameters
    ----------
    names : tuple of str
    parameters : sequence of Tensor
    generator : callable
        ``generator(name)`` is a torch generator at the start of a stream of this step.
    units : float
        Sum of the weights by which the loss was divided.
    loss : float
        Loss of the evaluation whose gradient it is.
    skipped : int
        How many steps in a row were skipped before this one.
    """

    names: tuple[str, ...]
    parameters: Sequence[Tensor]
    generator: Callable[..., Any]
    units: float
    loss: float = 0.0
    skipped: int = 0


class GradTransform(Stateful):
    """Changes the final gradient of a step."""

    kind = "grad_transform"

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Return the memory before training."""
        return {}

    def apply(self, state: State, gradients: tuple[Tensor, ...], ctx: TransformContext) -> tuple[Tensor, ...]:
        """Return the changed gradients (they may be changed in place), or raise StepSkipped where no step is to be made."""
        raise NotImplementedError(f"{type(self).__name__} changes nothing")


class Optimizer(Stateful):
    """Turns evaluations into new parameters."""

    kind = "optimizer"
    #: Whether a step makes exactly one plain evaluation, with gradients and nothing else asked for.
    single_evaluation: ClassVar[bool] = True
    #: Whether a step asks for gradients; a rule that does not leaves gradient transforms and gradient signals idle.
    uses_gradients: ClassVar[bool] = True
    #: Whether it treats the sources of the data apart, each a client, drawn in an order of the rule's own `sampler`.
    source_by_source: ClassVar[bool] = False
    #: Keys of the state under which copies of its earlier states lie, to go back to.
    copies: ClassVar[tuple[str, ...]] = ()
    #: Whether a step may put off writes, which `flush` then makes.
    puts_off: ClassVar[bool] = False

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Return the state for these parameters, per-parameter state under ``slots`` by name."""
        return {name: part.init(parameters) for name, part in self.parts() if isinstance(part, Optimizer)}

    def asks(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> Mapping[str, Any]:
        """Return what the one evaluation of the next step is asked for beyond loss and gradient.

        A rule that makes one evaluation, with these arguments, may stand inside Groups, which asks for several at once.

        Parameters
        ----------
        state, parameters
            As of `step`.
        evaluate : object
            Gives randomness of the step: ``evaluate.rng(name)``.

        Returns
        -------
        mapping
            Of ``capture``, ``vectors`` and ``sampled``, as `evaluate` takes them.
        """
        return {}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Evaluate, then write parameters and state, and return the state.

        Parameters
        ----------
        state : dict
            As `init` made it and earlier steps returned it; tensors may be updated in place.
        parameters : mapping of str to Tensor
            Those that this rule owns, in parameter order.
        evaluate : callable
            ``evaluate(grad=True, final=True, ...) -> Evaluation``; see design 3.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no step")

    def flush(self, state: State, parameters: Mapping[str, Tensor]) -> State:
        """Write what steps have put off, and return the state; asked before anything but a step reads the weights."""
        return state

    def evaluation_weights(self, state: State, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights at which to evaluate; the parameters themselves unless the rule keeps others."""
        return parameters

    def shared_evaluation_weights(self) -> bool:
        """Whether `evaluation_weights` are the parameters themselves."""
        return type(self).evaluation_weights is Optimizer.evaluation_weights


class Averager(Stateful):
    """Averages what the optimizer calls its evaluation weights."""

    kind = "averager"
    needs = ("weights",)
    weight_slots = ("*",)

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Return the memory before training."""
        raise NotImplementedError(f"{type(self).__name__} keeps nothing")

    def check(self, span: Span) -> None:
        """Refuse, on meeting a phase, what would never happen in it."""

    def average(self, state: State) -> Mapping[str, Tensor] | None:
        """Averaged weights by name; None while there is nothing to average yet."""
        raise NotImplementedError(f"{type(self).__name__} averages nothing")


class TransformResult(NamedTuple):
    """What a model transform's `fill` says of per-parameter state, total over the new parameters.

    Parameters
    ----------
    names : mapping of str to (str or None)
        New parameter name -> old name, or None for a new parameter.
    rules : mapping of str to str
        State key -> "copy", "zeros" or "tile", for parameters whose shape changed; "*" speaks for all other keys.
    indices : mapping of str to tuple of (Tensor or None)
        New parameter whose shape changed -> for each axis, the old index of every new one (None: as it was). What
        "tile" follows; without it, state is repeated as a whole.
    """

    names: Mapping[str, str | None]
    rules: Mapping[str, str] = {}
    indices: Mapping[str, tuple[Tensor | None, ...]] = {}


class ModelTransform(Stateful):
    """Changes the model on entering a phase, in two functions: structure (replayed) and values (once)."""

    kind = "model_transform"
    #: Whether every parameter that has an old name (`TransformResult.names`) begins with its old values.
    keeps_values: ClassVar[bool] = False

    def structure(self, model: nn.Module) -> nn.Module:
        """Return the model with its new structure: a pure function of the declaration, replayed on resume."""
        return model

    def check(self, model: nn.Module) -> None:
        """Refuse a model of its new structure that `fill` could not fill; asked before anything is spent."""

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Write values into the new model once, and map parameter names."""
        return TransformResult({name: name for name, _ in model.named_parameters()})


class Weights(Component):
    """The weights of a model as a value: a teacher, a start, an ingredient."""

    kind = "weights"

    def load(self) -> Mapping[str, Tensor]:
        """Return parameters and buffers by name."""
        raise NotImplementedError(f"{type(self).__name__} loads nothing")

    def flops(self) -> float:
        """Return the work that they cost and that counts as the run's; parts count for themselves."""
        return 0.0

    def digest(self) -> str:
        """Return a digest of their content, for the identity of the run that uses them."""
        raise NotImplementedError(f"{type(self).__name__} has no digest")


class Probe(Component):
    """An observation that nobody needs; provably disturbs nothing."""

    kind = "probe"

    every: Duration | None = fixed(None, kw_only=True)

    def init(self) -> State:
        """Return what is remembered before the first step; most probes look at one moment, and remember nothing."""
        return {}

    def observe(self, state: State, signals: Mapping[str, Any], at: Progress) -> State:
        """Take in what a step of the run has measured, skipped ones included, and return the next state.

        Parameters
        ----------
        state : dict
            Numbers, strings, lists and dicts of these.
        signals : mapping
            As in the step's record.
        at : Progress
            Position of the step.
        """
        return state

    def measure(self, run: Any) -> dict[str, float]:
        """Return named numbers; `run` is the read-only `regimes.probes.view.View`, `run.memory` what was remembered."""
        raise NotImplementedError(f"{type(self).__name__} measures nothing")
