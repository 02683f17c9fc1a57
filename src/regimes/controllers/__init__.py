"""Controllers: closed loops that set a knob from what is measured."""

from regimes.controllers.adaptive_batch import AdaptiveBatch
from regimes.controllers.auto_lrs import AutoLRS
from regimes.controllers.noise_scale_growth import NoiseScaleGrowth
from regimes.controllers.plateau import Plateau
from regimes.controllers.range_test import RangeTest

__all__ = ["AdaptiveBatch", "AutoLRS", "NoiseScaleGrowth", "Plateau", "RangeTest"]
