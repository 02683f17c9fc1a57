"""Losses: a model and a batch become unit losses, never reduced."""

from regimes.losses.bce import BCE
from regimes.losses.cross_entropy import CrossEntropy
from regimes.losses.distillation import Distillation
from regimes.losses.from_criterion import FromCriterion
from regimes.losses.from_function import FromFunction
from regimes.losses.hinge import Hinge
from regimes.losses.hybrid_post_training import HybridPostTraining
from regimes.losses.joint_widths import JointWidths
from regimes.losses.load_balance import LoadBalance
from regimes.losses.mse import MSE
from regimes.losses.next_token import NextToken
from regimes.losses.noprop import NoProp
from regimes.losses.policy_gradient import PolicyGradient
from regimes.losses.self_distillation import kernel_self_distillation, optimal_weight, spectral_filter
from regimes.losses.z_loss import ZLoss

__all__ = [
    "BCE",
    "CrossEntropy",
    "Distillation",
    "FromCriterion",
    "FromFunction",
    "Hinge",
    "HybridPostTraining",
    "JointWidths",
    "LoadBalance",
    "MSE",
    "NextToken",
    "NoProp",
    "PolicyGradient",
    "ZLoss",
    "kernel_self_distillation",
    "optimal_weight",
    "spectral_filter",
]
