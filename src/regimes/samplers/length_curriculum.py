"""Short sequences first: sequence-length warm-up."""

from __future__ import annotations

import numpy as np

from regimes.core.card import Card
from regimes.core.component import fixed, knob
from regimes.core.kinds import Draw, DrawContext, Knob, Sampler, SourceView, State
from regimes.core.registry import register
from regimes.samplers.columns import column
from regimes.samplers.reshuffle import Reshuffle


@register
class LengthCurriculum(Sampler):
    r"""Cut every window of a batch to `length` tokens, at a random place inside the window.

    .. math:: \ell_t = m \max(1, \lfloor \mathrm{length}_t / m \rfloor), \qquad
              o_i \sim U\{0, \dots, L_i - \ell_t\}

    with m = `multiple` and L_i the length of window i, which l_t never exceeds. The number of windows per step stays
    the batch size, so a short step trains on fewer tokens, and costs less; give the budget in tokens to compare.

    Parameters
    ----------
    length : knob
        Tokens per window, usually a schedule: ``Linear(8, 64).then(Constant(64), "30%")``.
    multiple : int
        m; lengths are rounded down to it. Default 8, the paper's (its tensor cores want it).
    sampler : Sampler
        Which windows. Default Reshuffle().

    Raises
    ------
    DeclarationError
        If the data has no ``length`` column (`TextWindows` has).

    References
    ----------
    C. Li, M. Zhang and Y. He, The Stability-Efficiency Dilemma: Investigating Sequence Length Warmup for Training GPT
    Models, NeurIPS 2022, arXiv:2108.06084, section 4.

    Examples
    --------
    >>> from regimes.samplers.preview import draws, view_of
    >>> from regimes.schedules import Linear
    >>> view = view_of(6, {"length": [64] * 6})
    >>> [d.columns["length"] for d in draws(LengthCurriculum(Linear(8, 64)), view, n=2, seed=0, batches=4)]
    [8, 16, 32, 48]
    """

    length: Knob = knob(low=1, integer=True)
    multiple: int = fixed(8, low=1)
    sampler: Sampler = fixed(Reshuffle())

    card = Card(
        title="Short sequences first",
        axes=("order",),
        source="Li, Zhang and He 2021, arXiv:2108.06084",
        when="Language models that are unstable early on, or to make early steps cheap.",
        cost="cheaper while sequences are short",
        defaults={"multiple": "8, section 4 of the paper"},
        deviations=(
            "The piece begins at a random place of the window instead of at its beginning, so that no token is left "
            "out by its place.",
        ),
    )

    def start(self, view: SourceView, key: tuple[str | int, ...]) -> State:
        """Begin where the inner sampler begins; refuse data without lengths."""
        return super().start(view, key) | {"cache:lengths": column(view, "length", "sampler")}

    def draw(self, state: State, cursor: State, n: int, ctx: DrawContext) -> Draw:
        """Let the inner sampler draw, then say how long the pieces are and where they begin."""
        inner = self.sampler.draw(state["sampler"], cursor["sampler"], n, ctx)
        lengths = cursor.get("cache:lengths")
        if lengths is None:
            lengths = column(ctx.view, "length", "sampler")
        windows = lengths[_places(inner, ctx.view)]
        length = min(max(self.length // self.multiple, 1) * self.multiple, int(windows.min()))
        offsets = ctx.rng("length-curriculum").integers(windows - length + 1)
        columns = {**inner.columns, "length": length, "offset": offsets}
        return Draw(
            inner.indices, {"sampler": inner.cursor, "cache:lengths": lengths}, inner.weights, inner.sources, columns
        )


def _places(drawn: Draw, view: SourceView) -> np.ndarray:
    """Places of the drawn examples among those of all sources."""
    if drawn.sources is None:
        return drawn.indices
    return drawn.indices + np.cumsum([0, *view.sizes.values()])[drawn.sources]
