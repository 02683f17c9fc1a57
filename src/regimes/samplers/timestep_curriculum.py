"""Noise levels of a diffusion model from the easy ones on: the noisiest first, the others added as the loss stands still."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Draw, DrawContext, Sampler, SourceView, State
from regimes.core.progress import Progress, amount
from regimes.core.registry import register
from regimes.samplers.columns import column
from regimes.samplers.reshuffle import Reshuffle

#: The column of a plan that says how noisy each example is to be made; data that read it have a column of that name.
LEVEL = "noise_level"


@register
class TimestepCurriculum(Sampler):
    r"""Draw noise levels from the noisiest of `clusters` equal parts, and add the next noisiest as training converges.

    A noise level u in [0, 1) is a quantile of the noise that the diffusion is trained on: of T discrete timesteps u
    means number :math:`\lfloor u T \rfloor`. In stage n of N

    .. math:: u \sim U[1 - n / N, 1)

    so that in the last stage, which lasts to the end, all levels come alike. Of the losses of a stage's steps a moving
    average is kept; a step that gives a new least one sets a counter to 0, any other adds 1, and more than tau of these
    in a row end the stage: the average, the least and the counter begin anew.

    Parameters
    ----------
    clusters : int
        N. 1 is training on all levels from the beginning. Default 20 (a third-party code that cites the paper).
    patience : int
        tau, in steps. Default 200 (as `clusters`).
    smoothing : float
        Of the average: its part of each next one. 0 looks at the losses themselves. Default 0.99 (as `clusters`).
    direction : "high_to_low" or "low_to_high"
        Which levels come first: the noisiest (paper), or the least noisy.
    until : Duration
        From here on all levels come, whatever stage training is in. Default 50% of the phase (ours).
    sampler : Sampler
        Which examples. Default Reshuffle().

    Raises
    ------
    DeclarationError
        If the data do not take a noise level from the plan; if `until` is in a unit that a position does not show.

    Notes
    -----
    The plan's column is called ``noise_level``. Data that read it offer a column of that name; the losses of validation
    are over all levels alike, whatever the stage.

    References
    ----------
    J.-Y. Kim, H. Go, S. Kwon and H.-G. Kim, Denoising Task Difficulty-based Curriculum for Training Diffusion Models,
    ICLR 2025, arXiv:2403.10348.

    Examples
    --------
    >>> from regimes.samplers.preview import draws, view_of
    >>> view = view_of(6, {"noise_level": [1.0] * 6})
    >>> (first,) = draws(TimestepCurriculum(4), view, n=1000, seed=0, batches=1)
    >>> levels = first.columns["noise_level"]
    >>> round(float(levels.min()), 2), round(float(levels.max()), 2)
    (0.75, 1.0)
    """

    clusters: int = fixed(20, low=1)
    patience: int = fixed(200, low=0)
    smoothing: float = fixed(0.99, low=0, below=1)
    direction: Literal["high_to_low", "low_to_high"] = fixed("high_to_low")
    until: Duration = fixed(Duration(50, "%"))
    sampler: Sampler = fixed(Reshuffle())

    needs = ("units",)
    card = Card(
        title="Noise levels of a diffusion, easy ones first",
        axes=("order",),
        source="Kim et al. 2025, arXiv:2403.10348 (its abstract and a third-party code)",
        when="Diffusion models; beside any weighting of the loss.",
        shelf="atlas",
        rows=("diffusion-timestep-curriculum",),
        defaults={
            "clusters": "20, a third-party code that cites the paper",
            "patience": "200, the same code; the paper's own was not read",
            "smoothing": "0.99, the same code",
            "until": "ours",
        },
        deviations=(
            "`until` ends the curriculum in runs that are too short for its patience.",
            "Whether the paper smooths the loss that it waits for is not known; 0.99 is a third party's.",
            "With a lag some losses after a change of stage are of levels drawn before it.",
        ),
        claims=(
            Claim(
                "After as many steps the loss over all noise levels is lower than with all levels from the beginning.",
                {
                    "workload": "two_moons_diffusion",
                    "compare": {
                        "baseline": "uniform",
                        "metric": "loss",
                        "better": "lower",
                        "margin": 0.01,
                        "seeds": 12,
                        "trials": 4,
                    },
                    "tune": {"*.lr.peak": "times(1/4, 4)"},
                    "arms": {
                        "uniform": {
                            "optimizer": "AdamW(lr=Cosine(2e-3, warmup='5%'))",
                            "batch_size": 64,
                            "budget": "2000 steps",
                            "sampler": "Reshuffle()",
                        },
                        # The defaults are for long runs: in 2,000 steps they would leave most levels to `until`.
                        "curriculum": {"like": "uniform", "sampler": "TimestepCurriculum(patience=10, smoothing=0.9)"},
                    },
                },
                paper_scale="DiT, EDM and others on FFHQ, ImageNet and MS-COCO, by FID",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[TimestepCurriculum]:
        """Patience that ends within a few steps, both directions, and an end that comes first."""
        return [
            cls(6, 1, 0.9, until="100%"),
            cls(4, 1, 0.0, "low_to_high"),
            cls(5, 100, until="3 steps"),
        ]

    def validate(self) -> None:
        """Refuse an end that no position shows."""
        if self.until.unit not in ("%", "steps", "samples", "tokens"):
            raise DeclarationError(f"got '{self.until}'; allowed: an amount in %, steps, samples or tokens", "until")

    def init(self, view: SourceView) -> State:
        """Before the first loss of the first stage."""
        return super().init(view) | _stage(1)

    def start(self, view: SourceView, key: tuple[str | int, ...]) -> State:
        """Begin where the inner sampler begins; refuse data that take no noise level."""
        column(view, LEVEL, "sampler")
        return super().start(view, key)

    def draw(self, state: State, cursor: State, n: int, ctx: DrawContext) -> Draw:
        """Let the inner sampler draw, then say how noisy every example is to be."""
        inner = self.sampler.draw(state["sampler"], cursor["sampler"], n, ctx)
        levels = self.levels(state["stage"], ctx.rng("noise-level").random(n))
        columns = {**inner.columns, LEVEL: levels}
        return Draw(inner.indices, {"sampler": inner.cursor}, inner.weights, inner.sources, columns)

    def levels(self, stage: int, u: np.ndarray) -> np.ndarray:
        """Noise levels of a stage, from numbers that are uniform in [0, 1).

        Examples
        --------
        >>> u = np.array([0.0, 0.5])
        >>> TimestepCurriculum(4).levels(2, u), TimestepCurriculum(4, direction="low_to_high").levels(2, u)
        (array([0.5 , 0.75]), array([0.  , 0.25]))
        """
        share = stage / self.clusters
        low = 1.0 - share if self.direction == "high_to_low" else 0.0
        # A sum that was rounded up to 1 would be a level that there is not.
        return np.minimum(low + share * u, np.nextafter(1.0, 0.0))

    def observe(self, state: State, signals: Mapping[str, Any], at: Progress) -> State:
        """Go on by one step of the stage, and perhaps to the next."""
        state = super().observe(state, signals, at)
        units = signals["units"]
        if state["stage"] >= self.clusters or not len(units.indices):
            return state
        if amount(at, self.until.unit) >= self.until.value:
            return state | _stage(self.clusters)
        return state | self._paced(state, float(units.per_example().double().mean()))

    def _paced(self, state: State, loss: float) -> State:
        """The stage after one more loss."""
        last, best = state["average"], state["best"]
        average = loss if last is None else self.smoothing * last + (1.0 - self.smoothing) * loss
        if best is None or average < best:
            return {"average": average, "best": average, "counter": 0}
        if state["counter"] + 1 > self.patience:
            return _stage(state["stage"] + 1)
        return {"average": average, "counter": state["counter"] + 1}


def _stage(number: int) -> State:
    """The beginning of a stage."""
    return {"stage": number, "average": None, "best": None, "counter": 0}


def timestep_difficulty(table: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    r"""Relative entropy of each two consecutive distributions of a diffusion, for normal data: the paper's difficulty.

    Data with independent normal coordinates, of mean mu and variance s, have after step t mean
    :math:`\sqrt{\bar\alpha_t} \mu` and variance :math:`v_t = \bar\alpha_t s + 1 - \bar\alpha_t`, and

    .. math:: D(p_t \,\|\, p_{t-1}) = \frac12 \sum_d \Big(\frac{v_t}{v_{t-1}} - 1 - \log \frac{v_t}{v_{t-1}} +
              \frac{(\sqrt{\bar\alpha_t} - \sqrt{\bar\alpha_{t-1}})^2 \mu^2}{v_{t-1}}\Big)

    Parameters
    ----------
    table : Tensor, shape (T,)
        alpha-bar of every step, as of `regimes.workloads.synthetic.alpha_bar`.
    mean, variance : Tensor, shape (d,)
        mu and s.

    Returns
    -------
    Tensor, shape (T - 1,)
        For t = 1 ... T - 1.

    Examples
    --------
    >>> import torch
    >>> left = torch.tensor([0.99, 0.9, 0.5, 0.1], dtype=torch.float64)
    >>> timestep_difficulty(left, torch.ones(2), torch.full((2,), 0.01)).numpy().round(3)
    array([2.885, 2.635, 0.508])
    """
    left = table.double()[:, None]
    v, root = left * variance.double() + 1.0 - left, left.sqrt()
    ratio = v[1:] / v[:-1]
    shift = (root[1:] - root[:-1]).square() * mean.double().square() / v[:-1]
    return 0.5 * (ratio - 1.0 - ratio.log() + shift).sum(1)
