"""Model transforms: what happens to the model on entering a phase."""

from regimes.model_transforms.centered_output import Centered, CenteredOutput
from regimes.model_transforms.double_rounding import DoubleRounding
from regimes.model_transforms.emulate_precision import EmulatePrecision
from regimes.model_transforms.float_format import FloatFormat
from regimes.model_transforms.freeze import Freeze
from regimes.model_transforms.ghost_batch_norm import GhostBatchNorm, GhostBatchNorms
from regimes.model_transforms.gptq import GPTQ
from regimes.model_transforms.grow_depth import GrowDepth
from regimes.model_transforms.grow_width import GrowWidth
from regimes.model_transforms.input_dropout import InputDropout
from regimes.model_transforms.lora import LoRA, MergeLoRA
from regimes.model_transforms.low_rank_init import LowRankInit, effective_rank
from regimes.model_transforms.mup_init import MuPInit
from regimes.model_transforms.qk_norm import QKNorm
from regimes.model_transforms.reinitialise import Reinitialise
from regimes.model_transforms.round_to_nearest import RoundToNearest
from regimes.model_transforms.rounding import at_width
from regimes.model_transforms.start_from import StartFrom
from regimes.model_transforms.stochastic_depth import StochasticDepth
from regimes.model_transforms.unfreeze import Unfreeze
from regimes.model_transforms.upcycle import Upcycle

__all__ = [
    "GPTQ",
    "Centered",
    "CenteredOutput",
    "DoubleRounding",
    "EmulatePrecision",
    "FloatFormat",
    "Freeze",
    "GhostBatchNorm",
    "GhostBatchNorms",
    "GrowDepth",
    "GrowWidth",
    "InputDropout",
    "LoRA",
    "LowRankInit",
    "MergeLoRA",
    "MuPInit",
    "QKNorm",
    "Reinitialise",
    "RoundToNearest",
    "StartFrom",
    "StochasticDepth",
    "Unfreeze",
    "Upcycle",
    "at_width",
    "effective_rank",
]
