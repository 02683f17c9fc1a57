"""Features are chosen and combined by one hold-out set, read raw or through Thresholdout; what is reported, and what is true."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import regimes as rg
from regimes.core.randomness import philox

Half = tuple[NDArray[np.int8], NDArray[np.int8]]
Ask = Callable[[Callable[[Half], NDArray[np.float64]]], float]


@dataclass(frozen=True)
class Analysis:
    """Features of -1 and 1 are kept where both halves agree on their correlation with the label, and vote.

    Parameters
    ----------
    examples : int
        n, of each half; fresh data are as many. A feature is kept if both correlations exceed 1 / sqrt(n), of one sign.
    features : int
    planted : int
        Features that agree with the label: their correlation is 6 / sqrt(n). Labels are random.
    most : int or None
        At most so many vote: those of the largest correlation on the training half.
    """

    examples: int
    features: int
    planted: int = 0
    most: int | None = None

    def made(self, seed: int, guarded: bool) -> tuple[float, float]:
        """Return the accuracy of the vote that the hold-out set reports, read through Thresholdout or raw, and the true one."""
        train, holdout, fresh = (self._half(seed, place) for place in range(3))
        ask = self._asking(train, holdout, seed, guarded)
        on_train = np.array([_agreement(train, place).mean() for place in range(self.features)])
        on_holdout = np.array([ask(functools.partial(_agreement, place=place)) for place in range(self.features)])
        least = 1 / np.sqrt(self.examples)
        agree = np.minimum(np.sign(on_train) * on_holdout, np.abs(on_train)) > least
        kept = np.flatnonzero(agree)
        kept = kept[np.argsort(-np.abs(on_train[kept]), kind="stable")[: self.most]]
        votes = np.sign(on_train[kept]).astype(np.float32)

        def right(half: Half) -> NDArray[np.float64]:
            return (votes @ half[0][kept].astype(np.float32) * half[1] > 0).astype(np.float64)

        return ask(right), float(right(fresh).mean())

    def _asking(self, train: Half, holdout: Half, seed: int, guarded: bool) -> Ask:
        if not guarded:
            return lambda question: float(question(holdout).mean())
        scale = 1 / np.sqrt(self.examples)
        budget = self.features + 1  # how much is spent is not the question here
        return rg.ReusableHoldout(train, holdout, 4 * scale, scale, budget=budget, seed=seed).query

    def _half(self, seed: int, place: int) -> Half:
        stream = philox(seed, "reusable hold-out data", place)
        features = 2 * stream.integers(0, 2, (self.features, self.examples), dtype=np.int8) - 1
        labels = 2 * stream.integers(0, 2, self.examples, dtype=np.int8) - 1
        told = stream.random((self.planted, self.examples)) < (1 + 6 / np.sqrt(self.examples)) / 2
        features[: self.planted] = np.where(told, labels, -labels)
        return features, labels


def _agreement(half: Half, place: int) -> NDArray[np.float64]:
    """Label times feature, per example: its mean is their correlation."""
    return (half[0][place] * half[1]).astype(np.float64)


def nearer(seed: int) -> tuple[float, float]:
    """Minus the distance of the reported from the true accuracy, through Thresholdout and raw; all features are noise.

    Parameters
    ----------
    seed : int
        Of the data and of the noise.
    """
    (mine, truth), (raw, raw_truth) = (Analysis(5000, 5000).made(seed, guarded) for guarded in (True, False))
    return -abs(mine - truth), -abs(raw - raw_truth)


def still_learns(seed: int) -> tuple[float, float]:
    """Accuracy on fresh data of 50 features of which 20 tell of the label, chosen through Thresholdout and raw.

    Parameters
    ----------
    seed : int
        Of the data and of the noise.
    """
    analysis = Analysis(2000, 2000, planted=20, most=50)
    return analysis.made(seed, guarded=True)[1], analysis.made(seed, guarded=False)[1]
