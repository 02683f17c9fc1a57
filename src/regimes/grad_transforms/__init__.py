"""Gradient transforms: what happens to the final gradient before the rule sees it; and what is a spike of it."""

from regimes.grad_transforms.ada_clip import AdaClip
from regimes.grad_transforms.ada_gn import AdaGN
from regimes.grad_transforms.clip_norm import ClipNorm
from regimes.grad_transforms.clip_spikes import ClipSpikes
from regimes.grad_transforms.clip_value import ClipValue
from regimes.grad_transforms.modified_z_score import ModifiedZScore
from regimes.grad_transforms.noise import Noise
from regimes.grad_transforms.round_gradients import RoundGradients
from regimes.grad_transforms.skip_spikes import SkipSpikes
from regimes.grad_transforms.z_score import ZScore

__all__ = [
    "AdaClip",
    "AdaGN",
    "ClipNorm",
    "ClipSpikes",
    "ClipValue",
    "ModifiedZScore",
    "Noise",
    "RoundGradients",
    "SkipSpikes",
    "ZScore",
]
