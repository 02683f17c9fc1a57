"""Samplers: which examples a step trains on."""

from regimes.samplers.cyclical_curriculum import CyclicalCurriculum
from regimes.samplers.length_curriculum import LengthCurriculum
from regimes.samplers.loss_weighted import LossWeighted
from regimes.samplers.ordered_prefix import OrderedPrefix
from regimes.samplers.preview import TorchBatches, preview
from regimes.samplers.random_subset import RandomSubset
from regimes.samplers.reshuffle import Reshuffle
from regimes.samplers.sequential import Sequential
from regimes.samplers.stratified import Stratified
from regimes.samplers.timestep_curriculum import TimestepCurriculum
from regimes.samplers.weighted import Weighted
from regimes.samplers.with_replacement import WithReplacement

__all__ = [
    "CyclicalCurriculum",
    "LengthCurriculum",
    "LossWeighted",
    "OrderedPrefix",
    "RandomSubset",
    "Reshuffle",
    "Sequential",
    "Stratified",
    "TimestepCurriculum",
    "TorchBatches",
    "Weighted",
    "WithReplacement",
    "preview",
]
