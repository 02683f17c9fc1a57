"""Probes: one question per file; they disturb nothing, and work on (model, loss_fn, batch) alone."""

from regimes.probes.alpha_req import AlphaReQ
from regimes.probes.attention_logits import AttentionLogits
from regimes.probes.batch_hessian_spectrum import BatchHessianSpectrum, heavy_ball, spiked_eigenvalue
from regimes.probes.distance_from_start import DistanceFromStart, log_growth
from regimes.probes.effective_learning_rate import EffectiveLearningRate
from regimes.probes.example_loss import ExampleLoss
from regimes.probes.feature_response import FeatureResponse, feature_response
from regimes.probes.gradient_noise_scale import GradientNoiseScale
from regimes.probes.gradient_norm import GradientNorm
from regimes.probes.gradient_rms import GradientRMS
from regimes.probes.gradient_snr import GradientSNR
from regimes.probes.layer_norms import LayerNorms
from regimes.probes.laziness import Laziness
from regimes.probes.log_z import LogZ
from regimes.probes.logit_sharpness import LogitSharpness, logit_sharpness
from regimes.probes.loss_spikes import LossSpikes
from regimes.probes.order_memorization import OrderMemorization, order_memorization_test
from regimes.probes.rank_me import RankMe
from regimes.probes.residual_oscillation import ResidualOscillation
from regimes.probes.reusable_holdout import ReusableHoldout
from regimes.probes.sharpness import Sharpness
from regimes.probes.spectrum import detect_phases
from regimes.probes.stability_margins import StabilityMargins, stability_radius
from regimes.probes.trust_ratio import TrustRatio
from regimes.probes.unfitted import Unfitted
from regimes.probes.update_rank import UpdateRank
from regimes.probes.update_ratio import UpdateRatio
from regimes.probes.weight_norm import WeightNorm

__all__ = [
    "AlphaReQ",
    "AttentionLogits",
    "BatchHessianSpectrum",
    "DistanceFromStart",
    "EffectiveLearningRate",
    "ExampleLoss",
    "FeatureResponse",
    "GradientNoiseScale",
    "GradientNorm",
    "GradientRMS",
    "GradientSNR",
    "LayerNorms",
    "Laziness",
    "LossSpikes",
    "LogZ",
    "LogitSharpness",
    "OrderMemorization",
    "RankMe",
    "ResidualOscillation",
    "ReusableHoldout",
    "Sharpness",
    "StabilityMargins",
    "TrustRatio",
    "Unfitted",
    "UpdateRank",
    "UpdateRatio",
    "WeightNorm",
    "detect_phases",
    "feature_response",
    "heavy_ball",
    "log_growth",
    "logit_sharpness",
    "order_memorization_test",
    "spiked_eigenvalue",
    "stability_radius",
]
