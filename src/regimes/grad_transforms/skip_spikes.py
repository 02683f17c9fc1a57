"""Steps whose gradient or loss spikes are not made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import StepSkipped
from regimes.core.kinds import GradTransform, State, TransformContext
from regimes.core.progress import Progress
from regimes.core.registry import register
from regimes.grad_transforms.detector import Detector, length
from regimes.grad_transforms.modified_z_score import ModifiedZScore
from regimes.grad_transforms.pending import PENDING


@register
class SkipSpikes(GradTransform):
    r"""Leave a step out whose gradient's norm, or loss, is a spike.

    The step is recorded as skipped, with the reason; its work counts, the position moves on, nobody learns from it, the
    detector neither. Weights and memories are then those of a run that never drew this batch. After `patience` skipped
    steps in a row the level has changed: the next step is made whatever it shows, and the detector begins anew.

    Parameters
    ----------
    detector : Detector
        Says what a spike is. Default ``ModifiedZScore()``.
    watch : "gradient_norm" or "loss"
        Default the norm of the gradient, over all parameters, as it comes here: before clipping where it stands before it.
    patience : int
        Default 5; below the run's ``give_up``, which is 10.

    Notes
    -----
    During the detector's warm-up nothing is left out; a fixed bound (`ClipNorm`) behind this one holds there, too.

    References
    ----------
    A. Chowdhery et al., PaLM, 2022, arXiv:2204.02311, section 5.1 (batches around a spike were left out, and it did not
    come again); arXiv:2504.02507, whose alternative to clipping it is.

    Examples
    --------
    >>> import torch
    >>> p = torch.zeros(1); guard = SkipSpikes(ModifiedZScore(window=4, warmup=3)); state = guard.init({"w": p})
    >>> for g in (1.0, 1.2, 0.9, 1000.0):
    ...     _ = guard.apply(state, (torch.tensor([g]),), TransformContext(("w",), (p,), None, 1.0))
    ...     state = guard.observe(state, {}, None)
    Traceback (most recent call last):
    ...
    regimes.core.errors.StepSkipped: spike: gradient_norm 1000 is 6738.1 times 0.148 above 1
    """

    detector: Detector = fixed(ModifiedZScore())
    watch: Literal["gradient_norm", "loss"] = fixed("gradient_norm")
    patience: int = fixed(5, low=1)

    card = Card(
        title="Leave out steps that spike",
        axes=("rates", "order"),
        source="Chowdhery et al. 2022, arXiv:2204.02311",
        when="Single batches, or faults of a machine, give gradients that no clipping makes useful.",
        cost="one pass over the gradients, and a wait for the device",
        shelf="atlas",
        defaults={"detector": "ours", "watch": "ours", "patience": "5, ours"},
        deviations=("PaLM went back before it left batches out: Rewind does.",),
        claims=(
            Claim(
                "AdamW whose gradient is a thousand times as large on one step in a hundred ends at a loss lower by 0.05 nats "
                "with it than alone, each at the best of three rates.",
                {"seeds": 6, "margin": 0.05, "scale": "char_lm, 2 layers of width 32, 300 steps of 16 windows of 32"},
                paper_scale="PaLM 540B: about 20 spikes of its own",
                measure="regimes.claims.spikes:skipping",
            ),
        ),
    )

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """The detector's memory."""
        return {"detector": self.detector.init()}

    def apply(self, state: State, gradients: tuple[Tensor, ...], ctx: TransformContext) -> tuple[Tensor, ...]:
        """Return the gradients as they are, or raise; what is to be learned waits for `observe`."""
        value = ctx.loss if self.watch == "loss" else length(gradients)
        spikes = self.detector.spikes(state["detector"], value)
        if spikes and ctx.skipped < self.patience:
            raise StepSkipped(self.detector.said(state["detector"], self.watch, value))
        state[PENDING] = {"value": value, "anew": spikes}
        return gradients

    def observe(self, state: State, signals: Any, at: Progress) -> State:
        """Let the detector learn from the step that was made."""
        shown = state.pop(PENDING, None)
        if shown is None:
            return state
        memory = self.detector.init() if shown["anew"] else state["detector"]
        return {"detector": self.detector.learn(memory, shown["value"])}
