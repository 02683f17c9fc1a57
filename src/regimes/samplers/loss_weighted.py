"""Draw examples in proportion to their last known loss, with importance weights that keep the mean unbiased."""

from __future__ import annotations

import numpy as np
import torch

from regimes.core.card import Card
from regimes.core.component import fixed, knob
from regimes.core.kinds import Draw, DrawContext, Knob, Sampler, SourceView, State
from regimes.core.progress import Progress
from regimes.core.registry import register


@register
class LossWeighted(Sampler):
    r"""Sample with replacement, p_i proportional to (last loss of i)^temperature, mixed with the uniform.

    .. math:: p_i = (1 - u) \frac{\ell_i^{\tau}}{\sum_j \ell_j^{\tau}} + \frac{u}{N}, \qquad
              w_i = \left(\frac{1}{N p_i}\right)^{c}

    Parameters
    ----------
    temperature : knob
        tau; 0 is uniform, 1 proportional. Default 1.
    uniform : knob
        u, the share of uniform draws, which bounds w_i by 1/u. Default 0.1.
    correction : knob
        c; 1 keeps the expected gradient that of the uniform mean, 0 optimizes the re-weighted loss. Default 1.
    initial : float
        Loss assumed of an example that was never seen. Default 1.

    References
    ----------
    A. Katharopoulos and F. Fleuret, Not All Samples Are Created Equal, ICML 2018, arXiv:1803.00942 (which
    scores by an upper bound of the gradient norm); T. Schaul et al., Prioritized Experience Replay, ICLR 2016,
    arXiv:1511.05952, section 3.3 (temperature and correction).

    Examples
    --------
    >>> from regimes.samplers import preview
    >>> len(preview(LossWeighted(), size=6, batches=1, n=4)[0])
    4
    """

    temperature: Knob = knob(1.0, low=0)
    uniform: Knob = knob(0.1, above=0, high=1)
    correction: Knob = knob(1.0, low=0, high=1)
    initial: float = fixed(1.0, above=0)

    needs = ("units",)
    card = Card(
        title="Draw in proportion to the last known loss",
        axes=("order", "distribution"),
        source="Katharopoulos and Fleuret 2018, arXiv:1803.00942; Schaul et al. 2016, arXiv:1511.05952",
        when="Few examples carry most of the loss.",
        cost="one pass over a table of N numbers per step",
        deviations=("Scores are the losses of the ordinary step; no extra scoring pass.",),
    )

    def init(self, view: SourceView) -> State:
        """Every example starts at the assumed loss."""
        return {"losses": torch.full((view.size,), self.initial, dtype=torch.float64)}

    def start(self, view: SourceView, key: tuple[str | int, ...]) -> State:
        """Draws are addressed by step: there is no place in the data to remember."""
        return {}

    def draw(self, state: State, cursor: State, n: int, ctx: DrawContext) -> Draw:
        """Draw `n` with replacement by inverting the cumulative distribution."""
        size = ctx.view.size
        scores = np.power(state["losses"].numpy(), self.temperature)
        total = scores.sum()
        shares = scores / total if total > 0 else np.full(size, 1.0 / size)
        chances = (1.0 - self.uniform) * shares + self.uniform / size
        edges = np.cumsum(chances)
        places = ctx.rng("loss-weighted").random(n) * edges[-1]
        indices = np.minimum(np.searchsorted(edges, places, side="right"), size - 1)
        weights = (size * chances[indices]) ** -self.correction
        return Draw(indices, cursor, weights)

    def observe(self, state: State, signals, at: Progress) -> State:
        """Remember the mean unit loss of every example of the step."""
        units = signals["units"]
        # Through numpy: where an example was drawn twice, the last value stays, which torch does not promise.
        state["losses"].numpy()[units.indices.numpy()] = units.per_example().double().clamp_min(0.0).numpy()
        return state
