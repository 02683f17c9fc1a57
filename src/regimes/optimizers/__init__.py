"""Optimizers: evaluations become new parameters."""

from regimes.optimizers.closed_form.recursive_ridge import RecursiveRidge
from regimes.optimizers.federated.fed_avg import FedAvg
from regimes.optimizers.foreign.pytorch_optimizer_class import PytorchOptimizer
from regimes.optimizers.foreign.torch_class import Torch
from regimes.optimizers.groups import Group, Groups
from regimes.optimizers.kronecker.kfac import KFAC
from regimes.optimizers.kronecker.mkor import MKOR
from regimes.optimizers.orthogonal.conda import Conda
from regimes.optimizers.orthogonal.muon import Muon
from regimes.optimizers.orthogonal.normuon import NorMuon
from regimes.optimizers.second_order.ada_hessian import AdaHessian
from regimes.optimizers.second_order.gradient_regularized_newton import GradientRegularizedNewton
from regimes.optimizers.second_order.mfac import MFAC
from regimes.optimizers.second_order.sophia import Sophia
from regimes.optimizers.tensorwise.ada_grad_norm import AdaGradNorm
from regimes.optimizers.tensorwise.adamw import AdamW
from regimes.optimizers.tensorwise.dog import DoG
from regimes.optimizers.tensorwise.lamb import LAMB
from regimes.optimizers.tensorwise.lars import LARS
from regimes.optimizers.tensorwise.lion import Lion
from regimes.optimizers.tensorwise.schedule_free_adamw import ScheduleFreeAdamW
from regimes.optimizers.tensorwise.schedule_free_sgd import ScheduleFreeSGD
from regimes.optimizers.tensorwise.sgd import SGD
from regimes.optimizers.tensorwise.sgd_sai import SGDSaI
from regimes.optimizers.tensorwise.spam import SPAM
from regimes.optimizers.tensorwise.stable_spam import StableSPAM
from regimes.optimizers.wrappers.allora import ALLoRA
from regimes.optimizers.wrappers.alrs import ALRS
from regimes.optimizers.wrappers.lanton import LANTON
from regimes.optimizers.wrappers.momentum_reset import MomentumReset
from regimes.optimizers.wrappers.normalize_and_project import NormalizeAndProject
from regimes.optimizers.wrappers.rewind import Rewind
from regimes.optimizers.wrappers.round_states import RoundStates
from regimes.optimizers.wrappers.sam import SAM
from regimes.optimizers.zeroth_order.black_box import BlackBox
from regimes.optimizers.zeroth_order.estimators import CoordinateDifferences, RandomDirections
from regimes.optimizers.zeroth_order.mezo import MeZO
from regimes.optimizers.zeroth_order.zeroth_order import ZerothOrder
from regimes.optimizers.zeroth_order.zo2 import ZO2
from regimes.optimizers.zeroth_order.zo_grasp import zo_grasp_layer_ratios

__all__ = [
    "ALLoRA",
    "ALRS",
    "LAMB",
    "LANTON",
    "LARS",
    "KFAC",
    "MFAC",
    "MKOR",
    "SAM",
    "SGD",
    "SPAM",
    "ZO2",
    "AdaGradNorm",
    "AdaHessian",
    "AdamW",
    "BlackBox",
    "CoordinateDifferences",
    "Conda",
    "DoG",
    "FedAvg",
    "GradientRegularizedNewton",
    "Group",
    "Groups",
    "Lion",
    "MeZO",
    "MomentumReset",
    "Muon",
    "NormalizeAndProject",
    "NorMuon",
    "PytorchOptimizer",
    "RandomDirections",
    "RecursiveRidge",
    "Rewind",
    "RoundStates",
    "SGDSaI",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Sophia",
    "StableSPAM",
    "Torch",
    "ZerothOrder",
    "zo_grasp_layer_ratios",
]
