"""Model transforms: what happens to the model on entering a phase."""

from regimes.model_transforms.freeze import Freeze
from regimes.model_transforms.gptq import GPTQ
from regimes.model_transforms.low_rank_init import LowRankInit, effective_rank
from regimes.model_transforms.reinitialise import Reinitialise
from regimes.model_transforms.round_to_nearest import RoundToNearest
from regimes.model_transforms.unfreeze import Unfreeze

__all__ = ["GPTQ", "Freeze", "LowRankInit", "Reinitialise", "RoundToNearest", "Unfreeze", "effective_rank"]
