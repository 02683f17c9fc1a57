"""Questions that the current policy answers while a batch is read, with rewards and the log-probabilities it had."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regimes.core.errors import DeclarationError, NonFinite, UserCodeError, show
from regimes.core.source import Source

#: Marks what is no token of a demonstration or an answer, as in torch's losses.
NONE = -100


@dataclasses.dataclass(frozen=True)
class Rollout:
    """A batch of questions with the answers that were sampled for them.

    Parameters
    ----------
    prompts : Tensor, shape (b, p), int64
    demonstrations : Tensor, shape (b, limit), int64
        A right answer and its end; -100 after it, and where there is none.
    answers : Tensor, shape (b, n, limit), int64
        Up to the first end, which belongs to it; -100 after it.
    log_probs : Tensor, shape (b, n, limit)
        Of every token of an answer, when it was sampled; 0 after the end.
    rewards : Tensor, shape (b, n)
    """

    prompts: Tensor
    demonstrations: Tensor
    answers: Tensor
    log_probs: Tensor
    rewards: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def part(self, places: Tensor) -> Rollout:
        """The questions at these places."""
        return Rollout(*(part.index_select(0, places) for part in vars(self).values()))

    def demonstrated(self) -> tuple[Tensor, Tensor]:
        """Return what a causal model reads, shape (b, p + limit - 1), and its last `limit` targets: the demonstrations."""
        return _teacher_forced(self.prompts, self.demonstrations)

    def answered(self) -> tuple[Tensor, Tensor]:
        """Return the same of the answers, shapes (b n, p + limit - 1) and (b n, limit)."""
        each = self.answers.shape[1]
        return _teacher_forced(self.prompts.repeat_interleave(each, 0), self.answers.flatten(0, 1))


def _teacher_forced(prompts: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat((prompts, said[:, :-1].clamp_min(0)), 1), said


class Rollouts(Source):
    """Questions with verifiable answers: a batch holds, of each, answers sampled from the current policy.

    The answers of a step are given by the weights with which it begins, in evaluation mode, at temperature 1. Their
    randomness is addressed by the step and the question: whatever else is in the micro-batch, a question gets the same
    answers (to rounding: other shapes of matrices may round otherwise), and a question that a step draws twice gets
    them twice.

    Parameters
    ----------
    prompts : Tensor, shape (n, p), int64
        Questions as tokens, all of one length.
    demonstrations : Tensor, shape (n, limit), int64
        A right answer each, with its end; -100 after it, and throughout where there is none. Answers are as long at
        most, end included.
    reward : callable
        ``reward(prompts, answers) -> Tensor (b, n)`` of prompts (b, p) and answers (b, n, limit), -100 after the end.
    end : int
        Token that ends an answer.
    answers : int
        Answers to each question. Default 8 (Lv et al. 2025). 0: demonstrations only, at no cost.

    Raises
    ------
    DeclarationError
        If the tensors are no tokens, or differ in number.

    Notes
    -----
    The model maps tokens (rows, length) to logits (rows, length, vocabulary) and looks at no later token. It is asked
    for one token after the other without a cache, all `limit` of them, so that the work of a step does not depend on
    what it says.

    Examples
    --------
    >>> questions = torch.tensor([[0, 1], [2, 3]])
    >>> right = torch.tensor([[1, 4, -100], [3, 3, 4]])
    >>> source = Rollouts(questions, right, lambda p, a: (a[..., 0] == p[:, 1:]).float(), end=4, answers=2)
    >>> class Copies(nn.Module):  # says the last token of what it reads, then the end
    ...     def forward(self, tokens):
    ...         said = torch.full_like(tokens, 4); said[:, 1] = tokens[:, 1]
    ...         return 100.0 * nn.functional.one_hot(said, 5)
    >>> batch = source.ask(Copies(), source.fetch(np.array([1]), {}), lambda i: np.random.default_rng(i))
    >>> batch.answers.tolist(), batch.rewards.tolist(), batch.log_probs.tolist()
    ([[[3, 4, -100], [3, 4, -100]]], [[1.0, 1.0]], [[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    """

    def __init__(
        self,
        prompts: Tensor,
        demonstrations: Tensor,
        reward: Callable[[Tensor, Tensor], Tensor],
        *,
        end: int,
        answers: int = 8,
    ) -> None:
        for name, tokens in (("prompts", prompts), ("demonstrations", demonstrations)):
            if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.dtype != torch.int64 or not tokens.numel():
                raise DeclarationError(f"got {show(tokens)}; allowed: an int64 tensor of shape (n, tokens)", name)
        if len(prompts) != len(demonstrations):
            raise DeclarationError(
                f"got {len(demonstrations)} for {len(prompts)} prompts; allowed: one each", "demonstrations"
            )
        if type(answers) is not int or answers < 0:
            raise DeclarationError(f"got {show(answers)}; allowed: a whole number >= 0", "answers")
        self.prompts, self.demonstrations, self.reward = prompts, demonstrations, reward
        self.end, self.answers, self.limit = end, answers, demonstrations.shape[1]
        self.asks = answers > 0

    def __len__(self) -> int:
        return len(self.prompts)

    def fetch(self, indices: np.ndarray, columns: Mapping[str, Any]) -> Rollout:
        """Return the questions and demonstrations, without answers."""
        index, b = torch.from_numpy(indices), len(indices)
        prompts, right = self.prompts.index_select(0, index), self.demonstrations.index_select(0, index)
        return Rollout(
            prompts, right, right.new_empty(b, 0, self.limit), torch.empty(b, 0, self.limit), torch.empty(b, 0)
        )

    def ask(self, model: nn.Module, batch: Rollout, rng: Callable[[int], np.random.Generator]) -> Rollout:
        """Return the batch with answers, their log-probabilities and rewards.

        Raises
        ------
        NonFinite
            If the model gives logits that are not: the step is then skipped.
        UserCodeError
            If the model gives no logits of next tokens, or the reward not one number per answer.
        """
        b, n, limit = len(batch), self.answers, self.limit
        uniform = torch.from_numpy(np.stack([rng(i).random((n, limit)) for i in range(b)])).to(batch.prompts.device)
        answers, log_probs = self._sampled(model, batch.prompts, uniform)
        if not torch.isfinite(log_probs).all():
            raise NonFinite("answers of the model")
        rewards = self.reward(batch.prompts, answers)
        if not isinstance(rewards, Tensor) or rewards.shape != (b, n):
            got = tuple(rewards.shape) if isinstance(rewards, Tensor) else type(rewards).__name__
            raise UserCodeError(f"the reward gave {got}; allowed: a tensor of shape {(b, n)}, one number per answer")
        return dataclasses.replace(batch, answers=answers, log_probs=log_probs, rewards=rewards.to(log_probs.dtype))

    def _sampled(self, model: nn.Module, prompts: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Answers and their log-probabilities, both (b, n, limit), by inversion of each token's distribution."""
        b, n, limit = uniform.shape
        tokens, goes_on = prompts.repeat_interleave(n, 0), torch.ones(b * n, dtype=torch.bool, device=prompts.device)
        answers, log_probs = [], []
        for t in range(limit):
            # All answers to a question begin with the same.
            table = _next(model, prompts).repeat_interleave(n, 0) if t == 0 else _next(model, tokens)
            upto = table.double().exp().cumsum(1)
            below = upto <= uniform[:, :, t].reshape(-1, 1) * upto[:, -1:]
            chosen = below.sum(1, keepdim=True).clamp_max(table.shape[1] - 1)
            answers.append(chosen[:, 0].where(goes_on, NONE))
            log_probs.append(table.gather(1, chosen)[:, 0].where(goes_on, 0.0))
            goes_on = goes_on & (chosen[:, 0] != self.end)
            tokens = torch.cat((tokens, chosen), 1)
        return torch.stack(answers, 1).view(b, n, limit), torch.stack(log_probs, 1).view(b, n, limit)

    def fingerprint(self) -> str:
        """SHA-256 over questions, demonstrations, the end and the number of answers."""
        digest = hashlib.sha256(f"{self.end} {self.answers}".encode())
        for tokens in (self.prompts, self.demonstrations):
            digest.update(f"{tuple(tokens.shape)}".encode() + tokens.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def _next(model: nn.Module, tokens: Tensor) -> Tensor:
    """Log-probabilities of the token after `tokens`, shape (rows, vocabulary)."""
    logits = model(tokens)
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != tokens.shape:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserCodeError(
            f"the model gave {got} for tokens of shape {tuple(tokens.shape)}; allowed: logits of shape "
            f"({', '.join(map(str, tokens.shape))}, vocabulary)"
        )
    return logits[:, -1].float().log_softmax(-1)
