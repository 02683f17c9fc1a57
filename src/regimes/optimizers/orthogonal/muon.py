"""Muon: momentum whose matrix is orthogonalized before it is applied."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.optimizers.orthogonal.newton_schulz import COEFFICIENTS, newton_schulz
from regimes.optimizers.tensorwise.rule import Tensorwise

_ADAMW = "AdamW(lr=Cosine(0.008, warmup='5%'), betas=(0.9, 0.95), weight_decay=0.1)"
#: The demo's comparison with AdamW, whose rates and ranges are not chosen here.
_STUDY = {
    "workload": "char_lm",
    "compare": {"baseline": "adamw", "metric": "test/loss", "better": "lower", "margin": 0.02, "seeds": 6, "trials": 4},
    "tune": {"*.lr.peak": "times(1/8, 8)"},
    "arms": {
        "adamw": {"optimizer": _ADAMW, "batch_size": 16, "budget": "200k tokens"},
        "muon": {
            "like": "adamw",
            "optimizer": f"Groups([Group('@matrices', Muon(lr=Cosine(0.02, warmup='5%'))), Group('*', {_ADAMW})])",
        },
    },
}
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


@register
class Muon(Tensorwise):
    r"""Momentum, orthogonalized by Newton-Schulz, for the matrices of hidden layers.

    For a weight of shape (A, B) (a convolution's kernel counts as (out, in * height * width)) with gradient g_t,
    momentum mu and weight decay lambda

    .. math::
        b_t &= \mu b_{t-1} + (1 - \mu) g_t \\
        o_t &= \operatorname{NS}((1 - \mu) g_t + \mu b_t) \quad (\text{nesterov; else } \operatorname{NS}(b_t)) \\
        \theta_t &= (1 - \text{lr}\,\lambda)\,\theta_{t-1} - \text{lr}\,s(A, B)\,o_t

    with s = sqrt(max(1, A / B)) ("original") or s = 0.2 sqrt(max(A, B)) ("match_rms_adamw"). NS is
    `regimes.optimizers.orthogonal.newton_schulz`.

    Parameters
    ----------
    lr : knob
        Learning rate. Default 1e-3, torch's; with "original" Jordan et al. use 0.02.
    momentum : knob
        mu. Default 0.95 (Jordan et al. and torch).
    weight_decay : knob
        lambda, multiplied by the learning rate. Default 0.1, torch's.
    nesterov : bool
        Look ahead along the momentum. Default True.
    adjust_lr : "original" or "match_rms_adamw"
        s: Jordan's, or Moonshot's, under which rates and decay tuned for AdamW can be kept (torch calls it
        ``adjust_lr_fn``).
    ns_coefficients : three floats
        a, b, c of the iteration. Default (3.4445, -4.775, 2.0315).
    ns_steps : int
        Iterations. Default 5.
    eps : knob
        Least norm divided by. Default 1e-7.
    iteration_dtype : "auto", "bfloat16", "float32" or "float64"
        In which the iteration runs. "bfloat16" is torch's, and gives its bits; "auto" is float32 on a CPU, where
        bfloat16 costs three times as much (but two thirds where the CPU has instructions for it), and bfloat16 elsewhere.
        "float64" is for weights of that type.

    Raises
    ------
    DeclarationError
        On meeting a parameter of fewer than two dimensions.

    References
    ----------
    K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024,
    https://kellerjordan.github.io/posts/muon/; J. Liu et al., Muon is Scalable for LLM Training, 2025,
    arXiv:2502.16982 ("match_rms_adamw", weight decay).

    Examples
    --------
    >>> p = torch.zeros(2, 2); rule = Muon(lr=0.1, momentum=0.0, weight_decay=0.0); slot = rule.slots(p)
    >>> rule.update(p, torch.diag(torch.tensor([2.0, 1.0])), slot, 1)
    >>> [round(v, 4) for v in p.diag().tolist()]
    [-0.0689, -0.1114]
    """

    lr: Knob = knob(1e-3, low=0)
    momentum: Knob = knob(0.95, low=0, below=1)
    weight_decay: Knob = knob(0.1, low=0)
    nesterov: bool = fixed(True)
    adjust_lr: Literal["original", "match_rms_adamw"] = fixed("original")
    ns_coefficients: tuple[float, float, float] = fixed(COEFFICIENTS)
    ns_steps: int = fixed(5, low=1, below=100)
    eps: Knob = knob(1e-7, above=0)
    iteration_dtype: Literal["auto", "bfloat16", "float32", "float64"] = fixed("auto")

    card = Card(
        title="Orthogonalized momentum for matrices",
        axes=("rates",),
        source="Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; Liu et al. 2025, arXiv:2502.16982",
        when="Matrices of hidden layers, with another rule for the rest: groups.muon(Muon(...), rest=AdamW(...)).",
        cost="one slot per parameter; up to 15 products of matrices per weight and step",
        rows=("muon-mla-moe",),
        defaults={
            "lr": "1e-3, torch",
            "momentum": "0.95, Jordan et al.",
            "weight_decay": "0.1, torch (Jordan et al.: 0)",
            "ns_coefficients": "Jordan et al.",
        },
        deviations=(
            "Kernels of convolutions are scaled by their flattened shape (out, rest); Jordan's first code used "
            "the last two dimensions, torch refuses them.",
            "The iteration runs in float32 on a CPU unless told otherwise.",
        ),
        claims=(
            Claim(
                "A lower held-out loss than AdamW after as many tokens, with AdamW for what is no hidden matrix, rates tuned "
                "alike.",
                _STUDY,
                paper_scale="decoders of 30 M to 200 M parameters, with latent attention and experts: 8% to 12% of perplexity",
            ),
            Claim(
                "It takes at most 0.8 of the steps that AdamW takes to AdamW's final loss, each at the best of five rates.",
                {
                    "seeds": 6,
                    "margin": 0.3219,
                    "scale": "char_lm of width 32, 28,672 parameters, 600 steps, log2 of steps",
                },
                paper_scale="decoders of 30 M to 200 M parameters: 0.48 to 0.52 of the training compute",
                measure="regimes.claims.orthogonal:muon_steps",
            ),
        ),
    )

    def check(self, name: str, p: Tensor) -> None:
        """Refuse vectors and scalars."""
        if p.ndim < 2:
            raise DeclarationError(
                f"{type(self).__name__} updates matrices, and '{name}' has the shape {tuple(p.shape)}; give the rest to "
                f"another rule with rg.groups.muon({type(self).__name__}(...), rest=AdamW(...))",
                "optimizer",
            )

    def slots(self, p: Tensor) -> dict[str, Tensor]:
        """The momentum buffer, zero."""
        return {"momentum_buffer": torch.zeros_like(p)}

    def update(self, p: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> None:
        """Apply the formula above."""
        direction = self.direction(p, g, slot)
        p.mul_(1.0 - self.lr * self.weight_decay)
        p.add_(direction.reshape(p.shape), alpha=-self.lr * self._scale(*direction.shape))

    def direction(self, p: Tensor, g: Tensor, slot: dict[str, Any]) -> Tensor:
        """Move the momentum, and return o as a matrix of shape (A, B)."""
        b = slot["momentum_buffer"]
        b.lerp_(g, 1.0 - self.momentum)
        ahead = (g.lerp(b, self.momentum) if self.nesterov else b).reshape(len(p), -1)  # (A, B)
        return newton_schulz(ahead, self.ns_steps, self.ns_coefficients, self.eps, self._dtype(p))

    def _scale(self, rows: int, columns: int) -> float:
        if self.adjust_lr == "original":
            return math.sqrt(max(1.0, rows / columns))
        return 0.2 * math.sqrt(max(rows, columns))

    def _dtype(self, p: Tensor) -> torch.dtype:
        if self.iteration_dtype == "auto":
            return torch.float32 if p.device.type == "cpu" else torch.bfloat16
        return _DTYPES[self.iteration_dtype]
