"""PolicyGradient beside the loss of trl's GRPOTrainer, off the policy so that the clip decides."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.losses.policy_gradient import advantages
from regimes.sources import Rollout

grpo = pytest.importorskip("trl.trainer.grpo_trainer", reason="trl is not installed: pip install 'regimes[parity]'")

VOCABULARY, PROMPT, LIMIT, ANSWERS, QUESTIONS = 7, 3, 5, 4, 6


class Table(nn.Module):
    """Logits from this token and the last."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        size = VOCABULARY, VOCABULARY
        self.now, self.last = (nn.Parameter(torch.randn(size, generator=draw).double()) for _ in range(2))

    def forward(self, tokens):
        return self.now[tokens] + self.last[nn.functional.pad(tokens, (1, 0))[:, :-1]]


def rollout():
    """Answers of all lengths, with log-probabilities off the model's by up to a half, and one question without a signal."""
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, VOCABULARY, (QUESTIONS, PROMPT), generator=draw)
    said = torch.randint(0, VOCABULARY, (QUESTIONS, ANSWERS, LIMIT), generator=draw)
    said = said.where(torch.arange(LIMIT) < torch.randint(1, LIMIT, (QUESTIONS, ANSWERS, 1), generator=draw), -100)
    rewards = torch.rand(QUESTIONS, ANSWERS, generator=draw).double()
    rewards[2] = 1.0
    made = Rollout(prompts, said[:, 0], said, torch.zeros(said.shape).double(), rewards)
    noise = torch.rand(said.shape, generator=draw).double() - 0.5
    old = (log_probs(Table(), made).view_as(noise) + noise).detach().where(said != -100, 0.0)
    return Rollout(prompts, said[:, 0], said, old, rewards)


def log_probs(model, batch):
    """Of every token of the answers, shape (questions * answers, limit)."""
    inputs, targets = batch.answered()
    said = model(inputs)[:, -LIMIT:].log_softmax(-1)
    return said.gather(2, targets.clamp_min(0)[..., None])[..., 0]


class Trainer:
    """What `GRPOTrainer._compute_loss` reads of its trainer, at its defaults but for the kind of loss."""

    def __init__(self, model, batch, kind):
        self.model, self.loss_type, self.max_completion_length = model, kind, LIMIT
        self.per_token = log_probs(model, batch)
        self.epsilon_low = self.epsilon_high = 0.2
        self.beta, self.top_entropy_quantile, self.importance_sampling_level = 0.0, 1.0, "token"
        self.off_policy_mask_threshold, self.aux_loss_enabled, self.use_vllm = None, False, False
        self._entropy_bonus_enabled, self.current_gradient_accumulation_steps = False, 1
        self.args = SimpleNamespace(delta=None)
        self._metrics = {"train": defaultdict(list)}
        self.accelerator = SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x)

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        return self.per_token, torch.zeros_like(self.per_token), None


def by_trl(batch, kind, gain):
    model, (_, targets) = Table(), batch.answered()
    mask = (targets != -100).double()
    inputs = {
        "prompt_ids": batch.prompts.repeat_interleave(ANSWERS, 0),
        "prompt_mask": torch.ones(QUESTIONS * ANSWERS, PROMPT),
        "completion_ids": targets.clamp_min(0),
        "completion_mask": mask,
        "advantages": gain.reshape(-1),
        "old_per_token_logps": batch.log_probs.view_as(mask),
    }
    trainer = Trainer(model, batch, kind)
    loss = grpo.GRPOTrainer._compute_loss(trainer, model, inputs)
    assert 0.1 < trainer._metrics["train"]["clip_ratio/region_mean"][0] < 0.9
    return loss.detach(), torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.exact("PolicyGradient")
@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("grpo", rg.PolicyGradient.grpo()),
        ("dr_grpo", rg.PolicyGradient.dr_grpo()),
        ("luspo", rg.PolicyGradient(advantage="group_std", lengths="sum")),
    ],
    ids=["grpo", "dr_grpo", "luspo"],
)
def test_loss_and_gradient(kind, rule):
    batch, model = rollout(), Table()
    units = rule.units(rule.init(), model, batch)
    loss = (units.values * units.weights).sum() / units.weights.sum()
    found = loss.detach(), torch.autograd.grad(loss, list(model.parameters()))
    wanted = by_trl(batch, kind, advantages(batch.rewards, rule.advantage))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert max(g.abs().max() for g in found[1]) > 1e-3
