"""Averagers: weights averaged over training, to evaluate and to keep."""

from regimes.averagers.ema import EMA
from regimes.averagers.lawa import LAWA
from regimes.averagers.polynomial_decay import PolynomialDecay
from regimes.averagers.swa import SWA

__all__ = ["EMA", "LAWA", "SWA", "PolynomialDecay"]
