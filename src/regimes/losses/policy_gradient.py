"""One policy gradient, of separate parts: what is read, what it is divided by, advantage, clip, lengths, entropy."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from regimes.core.card import Card
from regimes.core.component import fixed, knob
from regimes.core.errors import DeclarationError, UserCodeError, show
from regimes.core.kinds import Knob, Loss, State
from regimes.core.registry import register
from regimes.core.unit_losses import UnitLosses
from regimes.losses.forward import split
from regimes.sources.rollouts import NONE, Rollout

#: Keeps a group whose rewards are all the same from a division by 0.
_EPSILON = 1e-6


@register
class PolicyGradient(Loss):
    r"""The gradient of many rules of post-training, token by token.

    .. math:: \nabla \ell = -\,1_{\text{stable}}\; \frac{1}{\pi_{\text{ref}}}\; \hat A \;\nabla \pi_\theta

    pi_theta is the policy's probability of a token that was said, A its answer's advantage. A question's loss is the
    mean over its answers, a batch's the mean over its questions.

    ================ ============== ============= ============== ====== ==========
    preset           reads          denominator   advantage      clip   lengths
    ================ ============== ============= ============== ====== ==========
    ``sft()``        demonstrations policy        one            None   mean
    ``reinforce()``  answers        policy        reward         None   sum
    ``rloo()``       answers        policy        leave_one_out  None   sum
    ``ppo()``        answers        rollouts      group          0.2    mean
    ``grpo()``       answers        rollouts      group_std      0.2    mean
    ``dr_grpo()``    answers        rollouts      group          0.2    constant
    ================ ============== ============= ============== ====== ==========

    Parameters
    ----------
    reads : "answers" or "demonstrations"
        Of a batch of `regimes.sources.Rollouts`; demonstrations also of batches (inputs, targets), where -100 is no
        target.
    denominator : "policy", "rollouts" or "one"
        pi_ref: the policy itself (the gradient is that of -A log pi_theta), the policy when it answered (that of
        -A r, with the ratio r = pi_theta / pi_ref), or 1 (that of -A pi_theta).
    advantage : "one", "reward", "group", "group_std" or "leave_one_out"
        A: 1; the reward R; R less its mean over the answers to the question; that over their standard deviation (with
        n - 1, plus 1e-6); R less the mean of the other answers. Where all rewards are one number the last three are 0.
    clip : knob or None
        epsilon: the loss is max(-A r, -A clamp(r, 1 - epsilon, 1 + epsilon)), so that 1_stable = 0 where A > 0 and
        r > 1 + epsilon, or A < 0 and r < 1 - epsilon. Default 0.2 (PPO). None: 1_stable = 1.
    lengths : "mean", "sum" or "constant"
        An answer's loss is the mean over its tokens, their sum, or their sum over the longest answer allowed.
    entropy : knob
        beta: every token's loss less beta times the entropy of the distribution that it is from. Default 0.

    Raises
    ------
    DeclarationError
        If demonstrations are read with an advantage or a denominator that they do not have, a clip stands without a
        ratio, or the batch has not what is read.

    Notes
    -----
    Units are tokens. A question's weights add up to 1, and their values are those of the rule times what `lengths`
    asks for. A question without a demonstration weighs nothing where demonstrations are read.

    Within a step the policy answers once, at the weights with which the step begins: r is 1 to rounding in the first
    evaluation of a model without dropout, and the clip matters where a rule evaluates at other weights (SAM).

    References
    ----------
    Lv et al., Towards a Unified View of Large Language Model Post-Training, 2025, arXiv:2509.04419. PPO: Schulman et
    al. 2017, arXiv:1707.06347, equation 7; GRPO: Shao et al. 2024, arXiv:2402.03300; Dr. GRPO: Liu et al. 2025,
    arXiv:2503.20783; RLOO: Ahmadian et al. 2024, arXiv:2402.14740.

    Examples
    --------
    >>> PolicyGradient.grpo(), PolicyGradient.rloo().clip
    (PolicyGradient(advantage='group_std', lengths='mean'), None)
    >>> rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    >>> [[round(v, 4) for v in advantages(rewards, how)[0].tolist()] for how in ("group", "group_std", "leave_one_out")]
    [[0.75, -0.25, -0.25, -0.25], [1.5, -0.5, -0.5, -0.5], [1.0, -0.3333, -0.3333, -0.3333]]
    """

    reads: Literal["answers", "demonstrations"] = fixed("answers")
    denominator: Literal["policy", "rollouts", "one"] = fixed("rollouts")
    advantage: Literal["one", "reward", "group", "group_std", "leave_one_out"] = fixed("group")
    clip: Knob | None = knob(0.2, above=0, optional=True)
    lengths: Literal["mean", "sum", "constant"] = fixed("constant")
    entropy: Knob = knob(0.0, low=0)

    card = Card(
        title="Policy gradients of post-training, from one formula",
        axes=("regime",),
        source="Lv et al. 2025, arXiv:2509.04419",
        when="A language model's answers can be verified: data from Rollouts.",
        cost="the answers: one forward per token of each, charged beside the step",
        rows=("hybrid-post-training-hpt",),
        defaults={
            "all": "Dr. GRPO, as HPT's released settings; their clip is off",
            "clip": "PPO's 0.2",
            "entropy": "0; HPT's released settings say 0.001",
        },
        deviations=(
            "One step per answers: implementations take several, and only there is the ratio far from 1.",
            "PPO's advantages come from a learned critic; here from the group, as there is none.",
            "No penalty for leaving a reference model: of the rules above only GRPO's paper has one (Dr. GRPO drops it).",
            "GRPO's standard deviation divides by n - 1 and has 1e-6 added, as its implementations do; the paper says neither.",
        ),
    )

    @classmethod
    def sft(cls) -> PolicyGradient:
        """Cross-entropy of demonstrations."""
        return cls("demonstrations", "policy", "one", None, "mean")

    @classmethod
    def reinforce(cls) -> PolicyGradient:
        """Log-probabilities of whole answers times their rewards."""
        return cls("answers", "policy", "reward", None, "sum")

    @classmethod
    def rloo(cls) -> PolicyGradient:
        """REINFORCE with the mean reward of the other answers for a baseline."""
        return cls("answers", "policy", "leave_one_out", None, "sum")

    @classmethod
    def ppo(cls) -> PolicyGradient:
        """PPO's clipped ratio, with the group's mean reward where PPO has a critic."""
        return cls("answers", "rollouts", "group", 0.2, "mean")

    @classmethod
    def grpo(cls) -> PolicyGradient:
        """Rewards standardized within the group, each answer's tokens averaged."""
        return cls("answers", "rollouts", "group_std", 0.2, "mean")

    @classmethod
    def dr_grpo(cls) -> PolicyGradient:
        """GRPO without its divisions by standard deviation and length."""
        return cls("answers", "rollouts", "group", 0.2, "constant")

    @classmethod
    def example(cls) -> PolicyGradient:
        """With what a batch of few answers shows: rewards as they are, an entropy."""
        return cls(advantage="reward", lengths="mean", entropy=0.1)

    def validate(self) -> None:
        """Refuse parts that do not fit each other."""
        shown = self.reads == "demonstrations"
        if shown and self.denominator == "rollouts":
            raise DeclarationError(
                "got 'rollouts', but nobody knows with which probability demonstrations were said; allowed: policy, one",
                "denominator",
            )
        if shown and self.advantage != "one":
            raise DeclarationError(
                f"got '{self.advantage}', but demonstrations have no reward; allowed: one", "advantage"
            )
        if self.clip is not None and self.denominator != "rollouts":
            raise DeclarationError(
                f"got {show(self.clip)}, but with denominator='{self.denominator}' there is no ratio to clip; allowed: "
                "None",
                "clip",
            )

    @property
    def asks(self) -> bool:
        """Only answers have to be asked for."""
        return self.reads == "answers"

    def units(self, state: State, model: nn.Module, batch: Any) -> UnitLosses:
        """One unit per token of every answer, or of every demonstration."""
        inputs, targets, questions = self._said(batch)
        logits = model(inputs)[:, -targets.shape[1] :]
        # -log pi, by the kernel of the cross-entropy; 0 where there is no token.
        surprise = functional.cross_entropy(
            logits.reshape(targets.numel(), -1), targets.reshape(-1), reduction="none", ignore_index=NONE
        ).view_as(targets)
        values = self._surrogate(surprise, batch)
        if self.entropy:
            log_probs = logits.log_softmax(-1)
            values = values + self.entropy * (log_probs.exp() * log_probs).sum(-1)
        counts = (targets != NONE).to(values.dtype)
        length = counts.sum(1, keepdim=True)
        if self.lengths != "mean":
            values = values * (length if self.lengths == "sum" else length / targets.shape[1])
        each = len(targets) // questions  # answers to a question
        weights = counts / (length * each).clamp_min(1.0)
        places = torch.arange(questions, device=targets.device).repeat_interleave(each * targets.shape[1])
        return UnitLosses(values.reshape(-1), weights.reshape(-1), places)

    def _said(self, batch: Any) -> tuple[Tensor, Tensor, int]:
        """What the model reads, its last targets, and the number of questions."""
        if self.reads == "demonstrations":
            if isinstance(batch, Rollout):
                return *batch.demonstrated(), len(batch)
            args, kwargs, targets = split(batch)
            if kwargs or len(args) != 1 or targets.ndim != 2:
                raise DeclarationError(
                    f"{self!r} reads demonstrations, and the batch has none; allowed: data of Rollouts, or (inputs, "
                    "targets) of tokens",
                    "loss",
                )
            return args[0], targets, len(targets)
        if not isinstance(batch, Rollout) or not batch.answers.shape[1]:
            raise DeclarationError(
                f"{self!r} reads answers, and the batch has none; allowed: data of Rollouts with one answer or more",
                "loss",
            )
        return *batch.answered(), len(batch)

    def _surrogate(self, surprise: Tensor, batch: Any) -> Tensor:
        """The function of -log pi, shape (rows, tokens), whose gradient is that of the rule."""
        if self.advantage == "one":
            gain: Tensor | float = 1.0
        else:
            gain = advantages(batch.rewards, self.advantage).view(-1, 1)
        if self.denominator == "policy":
            return surprise * gain
        if self.denominator == "one":
            return (-surprise).exp() * -gain
        ratio = (-surprise - batch.log_probs.view_as(surprise)).exp()
        values = ratio * -gain
        if self.clip is None:
            return values
        return torch.maximum(values, ratio.clamp(1.0 - self.clip, 1.0 + self.clip) * -gain)


def advantages(rewards: Tensor, how: str) -> Tensor:
    """Return the advantage of every answer from the rewards, shape (questions, answers), as `PolicyGradient` says.

    Raises
    ------
    UserCodeError
        If there is one answer to a question, and others are asked for.
    """
    if how == "reward":
        return rewards
    n = rewards.shape[1]
    if n < 2:
        raise UserCodeError(f"advantage '{how}' compares answers to a question, and there is {n}; allowed: two or more")
    # In float32 a mean of equal numbers is not that number: the rounding, over a deviation of nothing, would be a signal.
    centered = rewards - rewards.mean(1, keepdim=True)
    centered = centered.where(rewards.amax(1, keepdim=True) > rewards.amin(1, keepdim=True), 0.0)
    if how == "group_std":
        return centered / (rewards.std(1, keepdim=True) + _EPSILON)
    return centered * (n / (n - 1)) if how == "leave_one_out" else centered
