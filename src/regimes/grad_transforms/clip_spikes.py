"""Gradients that spike are clipped to where gradients usually are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.kinds import GradTransform, State, TransformContext
from regimes.core.progress import Progress
from regimes.core.registry import register
from regimes.grad_transforms.detector import Detector, length
from regimes.grad_transforms.pending import PENDING
from regimes.grad_transforms.z_score import ZScore


@register
class ClipSpikes(GradTransform):
    r"""Scale a gradient whose norm is a spike down, the further the higher it is; ZClip with the default detector.

    With n the norm over all parameters, mu, sigma, z and k the detector's

    .. math:: g \leftarrow g\, \frac{n^*}{n}, \qquad n^* = \mu + \frac{k^2}{z} \sigma \text{ where } z > k, \text{ else } n

    Just above the threshold the norm stays; a spike without end is brought to mu.

    Parameters
    ----------
    detector : Detector
        Says what a spike is. Default ``ZScore()``, the paper's.

    References
    ----------
    A. Kumar, L. Owen, N. Roy Chowdhury and F. Güra, ZClip: Adaptive Spike Mitigation for LLM Pre-Training, 2025,
    arXiv:2504.02507; its code.

    Examples
    --------
    >>> p = torch.zeros(1); clip = ClipSpikes(ZScore(warmup=2)); state = clip.init({"w": p})
    >>> context = TransformContext(("w",), (p,), None, 1.0)
    >>> for g in (1.0, 3.0, 2.0, 12.0):
    ...     (g,) = clip.apply(state, (torch.tensor([g]),), context); state = clip.observe(state, {}, None)
    ...     round(g.item(), 3)
    1.0
    3.0
    2.0
    2.606
    """

    detector: Detector = fixed(ZScore())

    card = Card(
        title="Clip gradients that spike to their usual norm",
        axes=("rates",),
        source="Kumar et al. 2025, arXiv:2504.02507; its code",
        when="What a large gradient is changes while training, so that no fixed bound fits.",
        cost="one pass over the gradients, and a wait for the device",
        shelf="atlas",
        defaults={"detector": "the paper's"},
        deviations=(
            "The authors' code also clips at a fixed norm, 1, after this; here ClipNorm stands beside it.",
            "The factor is n*/n; the authors' code divides by n + 1e-6.",
        ),
        claims=(
            Claim(
                "AdamW whose gradient is a thousand times as large on one step in a hundred ends at a loss lower by 0.05 nats "
                "with it than alone, each at the best of three rates.",
                {"seeds": 6, "margin": 0.05, "scale": "char_lm, 2 layers of width 32, 300 steps of 16 windows of 32"},
                paper_scale="LLaMA of 1 B parameters, spikes of its own",
                measure="regimes.claims.spikes:clipping",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[ClipSpikes]:
        """With a memory that fills in a few steps."""
        return [cls(ZScore(0.5, warmup=2)), cls()]

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """The detector's memory."""
        return {"detector": self.detector.init()}

    def apply(self, state: State, gradients: tuple[Tensor, ...], ctx: TransformContext) -> tuple[Tensor, ...]:
        """Scale in place; what is to be learned waits for `observe`, as the step may still be skipped."""
        norm = length(gradients)
        state[PENDING] = {"value": norm}
        bound = self.detector.tamed(state["detector"], norm)
        if bound != norm:
            torch._foreach_mul_(gradients, bound / norm)
        return gradients

    def observe(self, state: State, signals: Any, at: Progress) -> State:
        """Let the detector learn from the step that was made."""
        shown = state.pop(PENDING, None)
        return state if shown is None else {"detector": self.detector.learn(state["detector"], shown["value"])}
