"""Where tuning tries next: points laid out beforehand, or chosen from what has been tried."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regimes.core.errors import DeclarationError, nearest
from regimes.study.ranges import Range, points
from regimes.study.tuning_noise import fit_and_refine

Shares = dict[str, float]
#: A search that looks at its trials first tries this share of them where they are laid out beforehand.
FIRST = 0.5


@dataclass(frozen=True)
class Tried:
    """A trial that has ended.

    Parameters
    ----------
    shares : dict of str to float
        Its place in each range, in [0, 1].
    value : float
        What tuning reads; NaN where it diverged.
    """

    shares: Shares
    value: float


@dataclass(frozen=True)
class Search:
    """How an arm's trials are placed; every arm has as many, and the first of all arms lie alike.

    Parameters
    ----------
    name : "quasi", "random", "refine", "bayes" or "optuna"
        - quasi: one knob, equally spaced in its logarithm with a random offset; several, a scrambled Halton sequence.
        - random: uniform in the logarithm of each knob.
        - refine, for one knob: half of the trials as quasi, then each at the best of a parabola through what was tried,
          or between the best and its wider gap.
        - bayes: half of the trials as quasi, then each where the expected improvement of a Gaussian process (Matern 5/2,
          scikit-learn's) is largest.
        - optuna: its tree-structured Parzen estimator (needs optuna).
    ranges : dict of str to Range
        What is tuned.
    trials : int
        Per arm.
    better : "lower" or "higher"

    Raises
    ------
    DeclarationError
        Another name, "refine" with several knobs, "optuna" where it is not installed.

    Examples
    --------
    >>> from regimes.study.ranges import times
    >>> search = Search("refine", {"lr": times(1/4, 4)}, 6, "lower")
    >>> first = [search.at(number, []) for number in range(3)]
    >>> [round(found["lr"], 3) for found in first]
    [0.236, 0.569, 0.902]
    >>> search.at(3, [Tried(found, (found["lr"] - 0.6) ** 2) for found in first[:2]]) is None
    True
    >>> round(search.at(3, [Tried(found, (found["lr"] - 0.7) ** 2) for found in first])["lr"], 3)
    0.7
    """

    name: str
    ranges: dict[str, Range]
    trials: int
    better: str

    def __post_init__(self) -> None:
        if self.name == "halving":
            raise DeclarationError(
                "got 'halving', but trials are whole runs: of one knob, shortened ones choose worse at the same cost, and of "
                "several, intervals know too little of their luck; allowed: quasi, random, "
                f"{', '.join(_NEXT)} (many arms are halved by until='halved')",
                "search",
            )
        if self.name not in _NEXT and self.name not in ("quasi", "random"):
            raise DeclarationError(f"got '{self.name}'; {nearest(self.name, ['quasi', 'random', *_NEXT])}", "search")
        if self.name == "refine" and len(self.ranges) > 1:
            raise DeclarationError(f"got 'refine' with {len(self.ranges)} knobs; allowed of several: bayes", "search")
        if self.name == "optuna":
            _optuna()

    @property
    def laid_out(self) -> list[Shares]:
        """The points that are known beforehand."""
        if self.name == "random":
            stream = _stream("random", self.trials)
            return [dict(zip(self.ranges, map(float, row))) for row in stream.random((self.trials, len(self.ranges)))]
        return points(self.ranges, self.first, seed=0)

    @property
    def clusters(self) -> bool:
        """Whether trials crowd where earlier ones were lucky: what a parabola through them leaves is then too small."""
        return self.name in ("bayes", "optuna")

    @property
    def first(self) -> int:
        """How many trials are placed without a look at others."""
        if self.name in ("quasi", "random"):
            return self.trials
        return min(self.trials, max(math.ceil(FIRST * self.trials), len(self.ranges) + 1, 3))

    def at(self, number: int, tried: Sequence[Tried]) -> Shares | None:
        """Return where a trial is placed; None as long as it waits for earlier ones.

        Parameters
        ----------
        number : int
            From 0.
        tried : sequence of Tried
            The arm's trials before this one that have ended.
        """
        if number < self.first:
            return self.laid_out[number]
        if len(tried) < number:
            return None
        x = np.array([[one.shares[name] for name in self.ranges] for one in tried])
        sign = 1.0 if self.better == "lower" else -1.0
        y = sign * np.array([one.value for one in tried])
        chosen = np.clip(_NEXT[self.name](x, y), 0.0, 1.0)
        return dict(zip(self.ranges, map(float, chosen)))


def _stream(*address: str | int) -> np.random.Generator:
    digest = hashlib.blake2b(f"regimes.study.search:{address}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _refined(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best of a parabola where nothing has been tried there yet, else the middle of the best one's wider gap."""
    places = x[:, 0]
    order = np.sort(np.concatenate([[0.0], places, [1.0]]))
    if not np.isfinite(y).any():
        gap = int(np.diff(order).argmax())
        return np.array([(order[gap] + order[gap + 1]) / 2])
    found = fit_and_refine(places, y)
    spacing = 1.0 / (4 * len(places))
    if found.curve is not None and np.abs(places - found.log_rate).min() > spacing:
        return np.array([found.log_rate])
    best = places[int(np.where(np.isfinite(y), y, math.inf).argmin())]
    below, above = order[order < best].max(initial=0.0), order[order > best].min(initial=1.0)
    side = below if best - below > above - best else above
    return np.array([(best + side) / 2])


def _expected(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a Gaussian process expects most improvement over the best trial; diverged trials are as bad as the worst."""
    from scipy import special
    from sklearn.gaussian_process import GaussianProcessRegressor, kernels

    stream = _stream("bayes", *x.shape)
    there = stream.random((2000, x.shape[1]))
    if not np.isfinite(y).any():
        return _farthest(there, x)
    worst = float(y[np.isfinite(y)].max())
    y = np.where(np.isfinite(y), y, worst)
    # A value far off a cliff would flatten everything worth telling apart.
    y = np.minimum(y, np.median(y) + 3 * (np.median(y) - y.min()))
    kernel = kernels.Matern(0.3, (0.05, 3.0), nu=2.5) + kernels.WhiteKernel(1e-2, (1e-6, 1.0))
    process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length or noise at its bound, with few trials, is nothing to tell
        process.fit(x, y)
        mean, sd = process.predict(there, return_std=True)
        best = float(process.predict(x).min())
    z = (best - mean) / np.maximum(sd, 1e-12)
    gain = (best - mean) * special.ndtr(z) + sd * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return there[int(gain.argmax())]


def _farthest(there: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    return there[int(np.linalg.norm(there[:, None] - x, axis=2).min(1).argmax())]


def _parzen(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=len(y), n_startup_trials=len(y), multivariate=True)
    study = optuna.create_study(sampler=sampler)
    names = [str(place) for place in range(x.shape[1])]
    space = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in names}
    worst = float(np.max(y[np.isfinite(y)], initial=0.0))
    for row, value in zip(x, np.where(np.isfinite(y), y, worst)):
        params = dict(zip(names, map(float, row)))
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=float(value)))
    asked = study.ask(space)
    return np.array([asked.params[name] for name in names])


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise DeclarationError(
            "got 'optuna', which is not installed; pip install optuna, or take bayes", "search"
        ) from None
    return optuna


_NEXT: Mapping[str, Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]] = {
    "refine": _refined,
    "bayes": _expected,
    "optuna": _parzen,
}
