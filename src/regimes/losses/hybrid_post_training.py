"""Hybrid post-training: questions that the policy solves teach by its own answers, the others by demonstrations."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Knob, Loss, State
from regimes.core.registry import register
from regimes.core.unit_losses import UnitLosses
from regimes.losses.policy_gradient import PolicyGradient
from regimes.sources.rollouts import Rollout

_SFT = "PolicyGradient('demonstrations', 'policy', 'one', clip=None, lengths='mean')"


def _study(baseline: str, losses: tuple[str, ...], margin: float) -> dict[str, Any]:
    """Sums modulo 50: 60 steps on demonstrations of 30% of the questions, then 150 steps on the others."""

    def arm(*losses: str) -> dict[str, Any]:
        rate = {"optimizer": "AdamW(lr=Cosine(3e-3, warmup='5%'), betas=[0.9, 0.98])"}
        known = {
            "name": "pretrain",
            "mixture": "Mixture(known=1)",
            "loss": _SFT,
            "batch_size": 128,
            "budget": "60 steps",
        }
        new = {"mixture": "Mixture(new=1)", "batch_size": 16, "budget": f"{150 // len(losses)} steps"}
        posts = [new | rate | {"name": f"post{n}", "loss": loss} for n, loss in enumerate(losses)]
        return {"phases": [known | {"optimizer": "AdamW(lr=1e-2, betas=[0.9, 0.98])"}, *posts]}

    return {
        "workload": {"name": "arithmetic_lm", "modulus": 50, "held_out": 300},
        "compare": {
            "baseline": baseline, "metric": "reward", "better": "higher", "margin": margin, "seeds": 8, "trials": 3
        },
        "tune": {"post*.optimizer.lr.peak": "times(1/4, 4)"},
        "arms": {baseline: arm(*losses), "hybrid": arm("HybridPostTraining()")},
    }  # fmt: skip


@register
class HybridPostTraining(Loss):
    r"""Reinforcement where a question's answers succeed more often than the gate, supervision where they do not.

    .. math::
        \ell_q = \begin{cases} \ell_{\mathrm{RL}}(q) & P_q > \gamma \\ \ell_{\mathrm{SFT}}(q) & P_q \le \gamma
        \end{cases}, \qquad P_q = \frac1n \sum_{i=1}^{n} R(q, o_i)

    with the n answers o_i that the policy gave to question q at the beginning of the step.

    Parameters
    ----------
    gate : knob
        gamma. Default 0: demonstrations where no answer was right (released settings for a strong base model; 2/8 for
        a weak one). Below 0 is `rl` alone, 1 or more is `sft` alone, where rewards are from 0 to 1.
    rl : PolicyGradient
        Default Dr. GRPO.
    sft : PolicyGradient
        Default cross-entropy of the demonstration.

    Raises
    ------
    DeclarationError
        If `rl` reads demonstrations, `sft` answers, or the data have no answers.

    Notes
    -----
    Either way a question weighs 1; one without a demonstration that is not solved weighs nothing.

    References
    ----------
    X. Lv et al., Towards a Unified View of Large Language Model Post-Training, 2025, arXiv:2509.04419, section 4.

    Examples
    --------
    >>> HybridPostTraining(gate=0.25, rl=PolicyGradient.grpo())
    HybridPostTraining(gate=0.25, rl=PolicyGradient(advantage='group_std', lengths='mean'))
    """

    gate: Knob = knob(0.0)
    rl: PolicyGradient = fixed(PolicyGradient.dr_grpo())
    sft: PolicyGradient = fixed(PolicyGradient.sft())

    card = Card(
        title="Hybrid post-training",
        axes=("regime", "distribution"),
        source="Lv et al. 2025, arXiv:2509.04419",
        when="Answers can be verified, questions come with demonstrations, and the model solves only some of them.",
        cost="the answers: one forward per token of each, charged beside the step",
        shelf="atlas",
        rows=("hybrid-post-training-hpt",),
        defaults={
            "gate": "0 and the rule P > gate: released settings and code",
            "rl": "released settings, see deviations",
        },
        deviations=(
            "The released settings have no clip and an entropy of 0.001: rl=PolicyGradient(clip=None, entropy=0.001).",
            "One step per answers; the released settings take two or more. The ratio is then 1 throughout.",
            "Every question weighs 1. The released code adds the mean over all demonstrated tokens of the batch to the sum "
            "over all answered ones over the longest answer, so that how much one demonstration weighs depends on how many "
            "there are.",
        ),
        claims=(
            Claim(
                "After as many steps, questions that are switched to demonstrations until they are solved give more held-out "
                "reward than reinforcement alone, by 5 points.",
                _study("rl", ("PolicyGradient()",), 0.05),
                paper_scale="Qwen2.5-Math 1.5B and 7B, Llama 3.1 8B; six benchmarks of mathematics",
            ),
            Claim(
                "After as many steps, they give no less held-out reward than demonstrations alone, within 1 point.",
                _study("sft", (_SFT,), 0.01),
                paper_scale="Qwen2.5-Math 1.5B and 7B, Llama 3.1 8B; six benchmarks of mathematics",
                says="not worse",
            ),
            Claim(
                "Nor than demonstrations for half of the steps and then reinforcement, within 1 point.",
                _study("sft_then_rl", (_SFT, "PolicyGradient()"), 0.01),
                paper_scale="Qwen2.5-Math 1.5B and 7B, Llama 3.1 8B; six benchmarks of mathematics",
                says="not worse",
            ),
        ),
    )

    @classmethod
    def example(cls) -> HybridPostTraining:
        """With rewards as they are, so that few answers show."""
        return cls(0.4, PolicyGradient.example())

    def validate(self) -> None:
        """Refuse parts that read the other's data."""
        for name, reads in (("rl", "answers"), ("sft", "demonstrations")):
            if getattr(self, name).reads != reads:
                raise DeclarationError(f"got {getattr(self, name)!r}; allowed: one that reads {reads}", name)

    def init(self) -> State:
        """Return the memories of the parts."""
        return {name: part.init() for name, part in self.parts() if isinstance(part, Loss)}

    def units(self, state: State, model: nn.Module, batch: Any) -> UnitLosses:
        """The units of the questions that are solved often enough, then those of the others."""
        if not isinstance(batch, Rollout) or not batch.answers.shape[1]:
            raise DeclarationError(
                f"{self!r} asks how many answers are right, and the batch has none; allowed: data of Rollouts with one "
                "answer or more",
                "loss",
            )
        solved = batch.rewards.mean(1) > self.gate
        found = []
        for name, part, where in (("rl", self.rl, solved), ("sft", self.sft, ~solved)):
            places = where.nonzero().view(-1)
            if len(places):
                units = part.units(state[name], model, batch.part(places))
                assert units.weights is not None
                assert units.examples is not None
                found.append((units.values, units.weights, places[units.examples]))
        return UnitLosses(*(torch.cat(pieces) for pieces in zip(*found)))
