"""A mixture of named sources, with weights that may be scheduled."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from typing import Any

import numpy as np

from regimes.core.card import Card
from regimes.core.component import fixed, observes, proposes
from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.fields import Spec, coerce_knob, table
from regimes.core.kinds import Draw, DrawContext, Sampler, SourceView, State
from regimes.core.progress import Progress
from regimes.core.registry import register
from regimes.core.trial import Trial, TrialEnd
from regimes.samplers.reshuffle import Reshuffle
from regimes.samplers.shares import deal

_WEIGHT = Spec("knob", low=0)
_DEFAULT = Reshuffle()


@register
class Mixture(Sampler):
    r"""Draw from named sources in proportion to their weights: ``Mixture(code=0.8, prose=0.2)``.

    With weights v_s, the sources' shares are :math:`\lambda_s = v_s / \sum_r v_r`. The examples of a step are dealt so
    that source s has had c_s(t) of the first t examples with

    .. math:: |c_s(t) - \textstyle\sum_{\tau \le t} \lambda_s(\tau)| < 1

    (for shares that are constant or drift; where they jump, more than two sources may be further off for a while).
    Inside a source the inner sampler decides; the order inside a batch is random.

    Parameters
    ----------
    **sources : knob
        Weight of each source of the workload, by name: a number, a schedule or a controller, not negative. Sources
        that are not named are not drawn from.
    sampler : Sampler or None
        Which examples of a source; each source has its own state and its own place. The phase's ``sampler`` where it
        has one; else Reshuffle().
    random : bool
        Deal by chance, multinomially, instead of evenly. Default False.

    Raises
    ------
    DeclarationError
        Without sources, for weights that are negative or all zero, for a source that the workload does not have.

    References
    ----------
    S. M. Xie et al., DoReMi: Optimizing Data Mixtures Speeds Up Language Model Pretraining, NeurIPS 2023,
    arXiv:2305.10429, section 2 (domain weights).

    Examples
    --------
    >>> mixture = Mixture(code=0.75, prose=0.25)
    >>> mixture, mixture.replace("prose", 0.5)
    (Mixture(code=0.75, prose=0.25), Mixture(code=0.75, prose=0.5))
    >>> view = SourceView({"prose": 6, "code": 9}, lambda source, name: None)
    >>> from regimes.samplers.preview import draws
    >>> [sorted(d.sources.tolist()) for d in draws(mixture, view, n=4, seed=0, batches=2)]
    [[0, 1, 1, 1], [0, 1, 1, 1]]
    """

    open_field = "sources"

    sources: tuple[tuple[str, Any], ...] = fixed((), kw_only=True)
    sampler: Sampler | None = fixed(None, kw_only=True)
    random: bool = fixed(False, kw_only=True)

    card = Card(
        title="Named sources in proportion to their weights",
        axes=("distribution",),
        source="Xie et al. 2023, arXiv:2305.10429 (domain weights)",
        when="Data of several kinds, or kinds that matter at different times.",
    )

    def __post_init__(self) -> None:
        pairs = tuple((name, coerce_knob(value, _WEIGHT, name)) for name, value in self.sources)
        object.__setattr__(self, "sources", pairs)
        super().__post_init__()

    def validate(self) -> None:
        """Refuse a mixture of nothing."""
        if not self.sources:
            raise DeclarationError("Mixture needs the weight of at least one source: Mixture(code=0.8, prose=0.2)")
        for name, _ in self.sources:
            if not name.isidentifier() or keyword.iskeyword(name):
                raise DeclarationError(f"got {show(name)}; allowed: a source whose name is a word", "sources")
        if all(value == 0 for _, value in self.sources):
            raise DeclarationError("got the weight 0 for every source; allowed: at least one above 0", "sources")

    def spec(self, segment: str) -> Spec:
        """Weights are knobs."""
        return super().spec(segment) if segment in table(type(self)) else _WEIGHT

    @property
    def inside(self) -> Sampler:
        """The sampler inside each source."""
        return _DEFAULT if self.sampler is None else self.sampler

    def init(self, view: SourceView) -> State:
        """Learned memory of the inner sampler for each source; and the places of the sources in the view."""
        names, places = self._names(view), {name: place for place, name in enumerate(view.sizes)}
        return {
            "sources": {name: self.inside.init(view.narrow(name)) for name in names},
            "positions": {name: places[name] for name in names},
        }

    def start(self, view: SourceView, key: tuple[str | int, ...]) -> State:
        """Begin every source at its first place, nothing owed to any."""
        names = self._names(view)
        return {
            "sources": {name: self.inside.start(view.narrow(name), (*key, name)) for name in names},
            "credit": dict.fromkeys(names, 0.0),
        }

    def draw(self, state: State, cursor: State, n: int, ctx: DrawContext) -> Draw:
        """Deal `n` to the sources, let the inner sampler draw in each, and mix."""
        names = [name for name, _ in self.sources]
        counts, credit = self._deal(cursor["credit"], n, ctx)
        dealt = counts.nonzero()[0]
        counts, names = counts[dealt], [names[place] for place in dealt.tolist()]
        positions = [state["positions"][name] for name in names]
        sources = ctx.rng("mixture").permutation(np.repeat(positions, counts))
        drawn, cursors, inside = {}, dict(cursor["sources"]), self.inside
        for name, position, count in zip(names, positions, counts.tolist()):
            inner, begun = _narrow(ctx, name), cursors.get(name)
            if begun is None:  # the cursor was carried from a mixture without this source
                begun = inside.start(inner.view, inner.key)
            drawn[position] = inside.draw(state["sources"][name], begun, count, inner)
            cursors[name] = drawn[position].cursor
        return _mixed(sources, drawn, {"sources": cursors, "credit": credit})

    def _deal(self, owed: dict[str, float], n: int, ctx: DrawContext) -> tuple[np.ndarray, dict[str, float]]:
        """How many each source gets, and the credits afterwards."""
        names, weights = [name for name, _ in self.sources], np.array([value for _, value in self.sources])
        if not weights.sum() > 0:
            raise DeclarationError(f"every weight is 0 at step {ctx.step}; allowed: at least one above 0", "sources")
        shares = weights / weights.sum()
        if self.random:
            return ctx.rng("mixture-counts").multinomial(n, shares), owed
        counts, credit = deal(np.array([owed.get(name, 0.0) for name in names]), shares, n)
        return counts, owed | dict(zip(names, credit.tolist()))

    def observe(self, state: State, signals: Mapping[str, Any], at: Progress) -> State:
        """Hand every source's inner sampler the units of its own examples."""
        if not observes(self.inside):
            return state
        for name, position in state["positions"].items():
            own = signals
            if "units" in signals:
                own = {**signals, "units": signals["units"].of(position)}
            state["sources"][name] = self.inside.observe(state["sources"][name], own, at)
        return state

    def propose(self, state: State, at: Progress) -> Trial | None:
        """The trial of the first source whose inner sampler asks for one; it serves all that do."""
        if not proposes(self.inside):
            return None
        proposed = (self.inside.propose(own, at) for own in state["sources"].values())
        trial = next((trial for trial in proposed if trial is not None), None)
        return None if trial is None else trial.within("sampler")

    def absorb(self, state: State, end: TrialEnd) -> State:
        """Hand what came of the trial to every inner sampler that asked."""
        for name, own in state["sources"].items():
            if self.inside.propose(own, end.at) is not None:
                state["sources"][name] = self.inside.absorb(own, end.inside())
        return state

    def _names(self, view: SourceView) -> list[str]:
        names = [name for name, _ in self.sources]
        for name in names:
            if name not in view.sizes:
                raise DeclarationError(f"the workload has no source '{name}'; {nearest(name, view.sizes)}", "sources")
        return names


def _narrow(ctx: DrawContext, name: str) -> DrawContext:
    """What the sampler inside one source may use: that source, streams and a key of its own."""
    streams = ctx.streams.within("source", name)
    return ctx._replace(view=ctx.view.narrow(name), streams=streams, key=(*ctx.key, name))


def _mixed(sources: np.ndarray, drawn: Mapping[int, Draw], cursor: State) -> Draw:
    """Put the draws of the sources in the order in which `sources` names them."""
    order = np.argsort(sources, kind="stable")
    starts = np.searchsorted(sources[order], list(drawn)).tolist()
    where = {position: order[start : start + len(own.indices)] for start, (position, own) in zip(starts, drawn.items())}
    indices = np.empty(len(sources), dtype=np.int64)
    for position, own in drawn.items():
        indices[where[position]] = own.indices
    weights = None
    if any(own.weights is not None for own in drawn.values()):
        weights = np.ones(len(sources))
        for position, own in drawn.items():
            if own.weights is not None:
                weights[where[position]] = own.weights
    names = dict.fromkeys(name for own in drawn.values() for name in own.columns)
    columns = {name: _column(name, len(sources), drawn, where) for name in names}
    return Draw(indices, cursor, weights, sources, columns)


def _column(name: str, n: int, drawn: Mapping[int, Draw], where: Mapping[int, np.ndarray]) -> Any:
    """One column of all sources: a number where all agree on one, else a value per example."""
    values = [own.columns[name] for own in drawn.values()]
    if all(np.ndim(value) == 0 and value == values[0] for value in values):
        return values[0]
    mixed = np.empty(n, dtype=np.result_type(*values))
    for position, own in drawn.items():
        mixed[where[position]] = own.columns[name]
    return mixed
