"""Schedules: pure functions of progress, all with `peak` and `warmup=`, their decay starting after it."""

from regimes.core.combinators import Clip, Sampled, Then, Window
from regimes.schedules.constant import Constant
from regimes.schedules.cosine import Cosine
from regimes.schedules.damped_cosine import DampedCosine
from regimes.schedules.exponential import Exponential
from regimes.schedules.infinite_lr import InfiniteLR
from regimes.schedules.inverse_sqrt import InverseSqrt
from regimes.schedules.linear import Linear
from regimes.schedules.one_cycle import OneCycle
from regimes.schedules.piecewise import Piecewise
from regimes.schedules.polynomial import Polynomial
from regimes.schedules.rewarm import Rewarm
from regimes.schedules.rex import REX
from regimes.schedules.step import Step
from regimes.schedules.triangular import Triangular
from regimes.schedules.warm_restarts import WarmRestarts
from regimes.schedules.wsd import WSD
from regimes.schedules.wsdc import WSDC
from regimes.schedules.wsds import WSDS

__all__ = [
    "Clip",
    "Constant",
    "Cosine",
    "DampedCosine",
    "Exponential",
    "InfiniteLR",
    "InverseSqrt",
    "Linear",
    "OneCycle",
    "Piecewise",
    "Polynomial",
    "REX",
    "Rewarm",
    "Sampled",
    "Step",
    "Then",
    "Triangular",
    "WSD",
    "WSDC",
    "WSDS",
    "WarmRestarts",
    "Window",
]
