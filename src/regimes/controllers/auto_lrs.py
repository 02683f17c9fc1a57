"""Stage after stage, the rate whose short trial promises the least loss at the stage's end."""

from __future__ import annotations

import math
import warnings

import numpy as np

from regimes.controllers.forecast import fit_exponential
from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Controller, State
from regimes.core.progress import Progress, amount
from regimes.core.registry import register
from regimes.core.trial import Trial, TrialEnd
from regimes.schedules.constant import Constant

#: Rates among which the next candidate is chosen, evenly spaced in the logarithm.
_GRID = 257


@register
class AutoLRS(Controller):
    r"""A piecewise constant rate, each piece found by Bayesian optimization over short trials from where training is.

    A stage of tau steps begins with k trials of tau' steps, all from the same weights and on the same batches. The
    losses of trial i at rate eta_i are fitted by an exponential and forecast to the stage's end,

    .. math:: L_i(t) = a e^{b t} + c, \; b < 0, \qquad \hat L_i = L_i(\tau)

    and a Gaussian process over log eta with mean mu and deviation sigma says which rate to try next:

    .. math:: \eta_{i+1} = \arg\min_\eta \; \mu(\eta) - \kappa\, \sigma(\eta)

    The stage is then trained at the rate with the least forecast. After each stage tau and tau' double, up to
    `longest`.

    Parameters
    ----------
    low, high : float
        The range of rates. A product such as ``AutoLRS(1e-3, 1.0) * Cosine(1.0)`` scales a schedule of height 1.
    stage : Duration
        tau of the first stage. Default 1,000 steps (reference code).
    trial : Duration
        tau' of the first stage, in the same unit. Default 100 steps (reference code: a tenth).
    tries : int
        k. Default 10 (reference code).
    longest : Duration
        Where tau stops doubling, in the same unit. Default 8,000 steps (reference code).
    kappa : float
        How much the search prefers what it does not know. Default 1000 (paper; the reference code has 1e6).
    outliers : float
        Share of a trial's losses, in its first half, that the fit leaves out. Default 0.03 (reference code).

    Raises
    ------
    DeclarationError
        If high <= low, the amounts are in different units or in one that a position does not show, or a trial is no
        shorter than its stage.

    References
    ----------
    Y. Jin, T. Zhou, L. Zhao, Y. Zhu, C. Guo, M. Canini and A. Krishnamurthy, AutoLRS: Automatic Learning-Rate Schedule
    by Bayesian Optimization on the Fly, ICLR 2021, arXiv:2105.10762.

    Examples
    --------
    >>> auto = AutoLRS(0.01, 1.0, "50 steps", "5 steps", tries=2); state = auto.init()
    >>> auto.propose(state, Progress()).edit
    {'': Constant(0.1)}
    >>> falling = [{"loss": 1.0 + 0.5**t} for t in range(5)]
    >>> state = auto.absorb(state, TrialEnd(Progress(), falling))
    >>> state = auto.absorb(state, TrialEnd(Progress(), [], "loss"))  # the next one was not finite
    >>> auto.value(state, Progress()), auto.propose(state, Progress(phase_step=49)), state["until"]
    (0.1, None, 50.0)
    """

    low: float = fixed(above=0)
    high: float = fixed(above=0)
    stage: Duration = fixed(Duration(1000, "steps"))
    trial: Duration = fixed(Duration(100, "steps"))
    tries: int = fixed(10, low=1)
    longest: Duration = fixed(Duration(8000, "steps"))
    kappa: float = fixed(1000.0, low=0)
    outliers: float = fixed(0.03, low=0, below=0.5)

    trial_lengths = ("trial",)

    card = Card(
        title="Rates found by short trials as training goes",
        axes=("rates",),
        source="Jin et al. 2021, arXiv:2105.10762; its code",
        when="One long run, no knowledge of a good schedule.",
        cost="k tau' steps of trials for every tau steps: as much again at the defaults",
        shelf="atlas",
        rows=("autolrs",),
        defaults={
            "stage": "1,000 steps, the reference code",
            "trial": "a tenth of a stage, the reference code",
            "tries": "10, the reference code",
            "longest": "8,000 steps, the reference code",
            "kappa": "1000, the paper's",
            "outliers": "0.03, the reference code",
        },
        deviations=(
            "Forecasts are of the training loss throughout; the code turns to validation loss at the longest stage.",
            "Losses are fitted as they are; the code first smooths them by splines.",
            "The first candidate is the middle of the range; the code draws it at random.",
            "A trial that is not finite counts as the worst forecast and the range of all again; the code says 1e6.",
        ),
        claims=(
            Claim(
                "After five stages of 200 steps its validation loss is no higher than that of the best of six constant rates "
                "over the range that it searches (its trials, 600 steps more, are charged beside).",
                {"seeds": 12, "margin": 0.01, "scale": "digits_mlp, 4,810 parameters, 1,000 steps"},
                paper_scale="ResNet-50 on ImageNet, Transformer, BERT pre-training",
                says="not worse",
                measure="regimes.claims.forecasts:against_constants",
            ),
            Claim(
                "What 20 steps forecast for the end of a stage of 200 ranks twelve rates with a correlation of at least 0.6.",
                {"seeds": 12, "margin": 0.05, "scale": "digits_mlp, 4,810 parameters, first and second stage"},
                paper_scale="no number known to us",
                says="not worse",
                measure="regimes.claims.forecasts:rank_correlation",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[AutoLRS]:
        """Short ones, in which every setting shows."""
        return [
            cls(0.01, 1.0, "9 steps", "8 steps", 4, "18 steps", 0.1, 0.3),
            cls(0.001, 0.1, "10%", "5%", 2, "20%", 0.0),
        ]

    def validate(self) -> None:
        """Refuse an empty range and amounts that cannot be compared."""
        if self.high <= self.low:
            raise DeclarationError(f"got {self.high}; allowed: above low ({self.low})", "high")
        for key in ("stage", "trial", "longest"):
            own = getattr(self, key)
            if own.unit != self.stage.unit or own.unit not in ("%", "steps", "samples", "tokens"):
                raise DeclarationError(
                    f"got '{own}'; allowed: stage, trial and longest all in %, steps, samples or tokens", key
                )
            if own.value <= 0:
                raise DeclarationError(f"got '{own}'; allowed: more than nothing", key)
        if self.trial.value >= self.stage.value:
            raise DeclarationError(f"got '{self.trial}'; allowed: less than a stage ({self.stage})", "trial")

    def init(self) -> State:
        """Nothing tried; the first stage is to begin."""
        middle = math.sqrt(self.low * self.high)
        return {"rate": None, "next": middle, "until": 0.0, "stages": 0, "rates": [], "forecasts": [], "chosen": []}

    def value(self, state: State, at: Progress) -> float:
        """The rate of the stage; before any, that of the first trial."""
        return state["next"] if state["rate"] is None else state["rate"]

    def propose(self, state: State, at: Progress) -> Trial | None:
        """The next candidate, where a stage begins."""
        if amount(at, self.stage.unit) < state["until"] * (1.0 - 1e-12):
            return None
        return Trial({"": Constant(state["next"])}, Duration(self.trial.value * self._doubled(state), self.trial.unit))

    def _doubled(self, state: State) -> float:
        """How many times as long as the first this stage is."""
        return min(2.0 ** state["stages"], max(self.longest.value / self.stage.value, 1.0))

    def absorb(self, state: State, end: TrialEnd) -> State:
        """Forecast, and choose the next candidate, or the rate of the stage."""
        rates, forecasts = [*state["rates"], state["next"]], [*state["forecasts"], self._forecast(end)]
        if len(rates) < self.tries:
            return state | {"rates": rates, "forecasts": forecasts, "next": self._candidate(rates, forecasts)}
        ranked = penalized(forecasts)
        rate = rates[ranked.index(min(ranked))]
        until = amount(end.at, self.stage.unit) + self.stage.value * self._doubled(state)
        return state | {
            "rate": rate,
            "next": math.sqrt(self.low * self.high),
            "until": until,
            "stages": state["stages"] + 1,
            "rates": [],
            "forecasts": [],
            "chosen": [*state["chosen"], rate],
        }

    def _forecast(self, end: TrialEnd) -> float | None:
        """Loss at the stage's end if the trial went on; None where it broke off."""
        losses = end.losses
        if end.failed is not None or not losses:
            return None
        if len(losses) < 3:
            return losses[-1]
        # How many losses a stage would give: the phase may have cut the trial, its last step may have gone beyond it.
        steps = len(losses) / end.fraction * self.stage.value / self.trial.value
        return fit_exponential(losses, self.outliers)(steps)

    def _candidate(self, rates: list[float], forecasts: list[float | None]) -> float:
        """The rate of least lower confidence bound, not yet tried."""
        wide = math.log(self.high / self.low)
        x = np.array([math.log(rate / self.low) / wide for rate in rates])
        grid = np.linspace(0.0, 1.0, _GRID)
        grid = grid[np.abs(grid[:, None] - x).min(1) > 1e-9]
        mean, deviation = posterior(x, np.array(penalized(forecasts)), grid)
        best = float(grid[np.argmin(mean - self.kappa * deviation)])
        return self.low * math.exp(best * wide)


def penalized(forecasts: list[float | None]) -> list[float]:
    """Forecasts, with a bad number for those that broke off: the worst of the others and their range again.

    Examples
    --------
    >>> penalized([1.0, None, 3.0]), penalized([None])
    ([1.0, 5.0, 3.0], [1.0])
    """
    known = [value for value in forecasts if value is not None]
    if not known:
        return [1.0] * len(forecasts)
    worst = max(known) + ((max(known) - min(known)) or abs(max(known)) or 1.0)
    return [worst if value is None else value for value in forecasts]


def posterior(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation at some places of a Gaussian process (Matern 5/2, its scale and noise by likelihood).

    Examples
    --------
    >>> mean, deviation = posterior(np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.0, 1.0]), np.array([0.5, 0.75]))
    >>> bool(abs(mean[0]) < 1e-3 and deviation[0] < 1e-2 < deviation[1])
    True
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kernel = ConstantKernel(1.0) * Matern(0.3, (0.05, 5.0), nu=2.5) + WhiteKernel(1e-4, (1e-8, 1.0))
    process = GaussianProcessRegressor(kernel, normalize_y=len(y) > 1 and bool(np.ptp(y) > 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters at their bounds, which few points often are
        mean, deviation = process.fit(x[:, None], y).predict(at[:, None], return_std=True)
    return mean, deviation
