"""First values of the maximal update parametrization."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.kinds import ModelTransform, TransformResult
from regimes.core.randomness import Streams
from regimes.core.registry import register
from regimes.model_transforms.growth import first_values, growth

_SCALE = "100 digits, MLP 64-n-n-10, n = 64 to 512, full batch, 300 steps of SGD, nine rates"
_ADAMW = _SCALE.replace("SGD", "AdamW")


@register
class MuPInit(ModelTransform):
    r"""Make the first values of a wide network those of the maximal update parametrization (muP).

    What the model drew is multiplied, with r_in how many times as many inputs as in the base network a layer has, by

    .. math:: \text{output weights: } r_\text{in}^{-1/2}, \qquad \text{biases of layers: } r_\text{in}^{1/2}

    so that, where weights were drawn with variance 1 / fan_in (torch's layers) and embeddings with one that does not follow
    the width, input and hidden weights keep 1 / fan_in, output weights have 1 / fan_in^2 (times the base's fan_in), and
    biases, which torch draws in +-fan_in^(-1/2), one size at every width. On entry to the first phase, beside
    `regimes.groups.mup` with the same base; neither is muP alone. `regimes.groups.mup_table` prints the factors.

    Parameters
    ----------
    base : int
        Width of the base network, at which nothing changes. The model says how it changes its width: it has a number
        ``width`` and a method ``grown(width)`` that returns a fresh model of the same form.

    Raises
    ------
    DeclarationError
        If the model does not say how it changes its width or cannot have that of the base, nothing says which axis of a
        parameter is read, or a weight that grows serves as embedding and as head.

    References
    ----------
    G. Yang, E. Hu et al., Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer, 2022,
    arXiv:2203.03466, table 3; L. Noci, A. Meterez, T. Hofmann and A. Orvieto, Why do Learning Rates Transfer? Reconciling
    Optimization and Scaling Limits for Deep Learning, 2024, arXiv:2402.17457.

    Examples
    --------
    >>> from regimes.workloads.models import MLP
    >>> net = MLP((3, 16, 2))
    >>> drawn = net.layers[1].weight.detach().clone()
    >>> _ = MuPInit(base=4).fill(net, net, iter(()), Streams(0))
    >>> torch.equal(net.layers[1].weight, drawn * 0.5)
    True
    """

    base: int = fixed(low=1)

    card = Card(
        title="First values under which rates transfer over widths",
        axes=("rates", "regime"),
        source="Yang et al. 2022, arXiv:2203.03466; Noci et al. 2024, arXiv:2402.17457",
        when="A rate was tuned on a narrow network and a wide one is to be trained; with groups.mup.",
        cost="none",
        shelf="atlas",
        rows=("lr-transfer-sharpness",),
        deviations=(
            "Relative to the model's own first values, which are taken to have variance 1 / fan_in; it draws none anew.",
            "Table 3 of the paper, without multipliers in the forward: attention's 1 / d and the 1 / sqrt(L) of residual "
            "branches are the model's.",
            "A weight that serves as embedding and as head is refused: it would need a multiplier in the forward.",
            "The output starts at variance 1 / fan_in^2, not at zero, which the paper also recommends.",
        ),
        claims=(
            Claim(
                "From width 64 to 512 the best of nine rates of SGD moves over a range that is at least a factor of two smaller "
                "under muP than under the standard parametrization.",
                {"seeds": 5, "margin": 1.0, "scale": _SCALE + ", log2"},
                paper_scale="ResNets, vision transformers, language models on WikiText",
                measure="regimes.claims.width_transfer:spread_under_sgd",
            ),
            Claim(
                "The same holds of AdamW.",
                {"seeds": 5, "margin": 1.0, "scale": _ADAMW + ", log2"},
                paper_scale="ResNets, vision transformers, language models on WikiText",
                measure="regimes.claims.width_transfer:spread_under_adamw",
            ),
            Claim(
                "At the rate that is best at width 64, between steps 100 and 300, the coefficient of variation of sharpness "
                "over these widths is at most half that of the neural tangent parametrization (each in the metric of its rates).",
                {"seeds": 5, "margin": 1.0, "scale": _SCALE + ", log2"},
                paper_scale="ResNets, vision transformers, language models on WikiText",
                measure="regimes.claims.width_transfer:sharpness_at_the_best_rate",
            ),
            Claim(
                "It is at half of that rate. (Added after the first trial: the best rate is the largest with which training does "
                "not fail, and there runs of one width differ as much.)",
                {"seeds": 5, "margin": 1.0, "scale": _SCALE + ", log2"},
                paper_scale="ResNets, vision transformers, language models on WikiText",
                measure="regimes.claims.width_transfer:sharpness_at_half_of_it",
            ),
            Claim(
                "Under the standard parametrization, the rate that `regimes tune-lr --transfer width=` recommends for widths 128, "
                "256 and 512 from the best at 64 is nearer to the best there than the rate at 64 is, by half an octave or more.",
                {"seeds": 5, "margin": 0.5, "scale": _SCALE + ", mean distance in log2"},
                paper_scale="not in the paper",
                measure="regimes.claims.width_transfer:law_of_sgd",
            ),
            Claim(
                "The same holds of AdamW, at the law for adaptive rules.",
                {"seeds": 5, "margin": 0.5, "scale": _ADAMW + ", mean distance in log2"},
                paper_scale="not in the paper",
                measure="regimes.claims.width_transfer:law_of_adamw",
            ),
        ),
    )

    @classmethod
    def example(cls) -> MuPInit:
        """Half the width of the conformance suite's small transformer."""
        return cls(4)

    def structure(self, model: nn.Module) -> nn.Module:
        """Nothing but a check that the base can be made and compared."""
        growth(model, self.base)
        return model

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Multiply; what has the factor 1 keeps its bits."""
        factors = first_values(model, growth(model, self.base))
        with torch.no_grad():
            for name, p in model.named_parameters():
                if factors[name] != 1.0:
                    p.mul_(factors[name])
        return TransformResult({name: name for name, _ in model.named_parameters()})
