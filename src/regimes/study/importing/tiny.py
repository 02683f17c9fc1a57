"""A tiny random model and its data, for both trainers: GPT-2 of two layers in float64, built from its configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regimes.core.randomness import seeded
from regimes.engine.workload import Workload
from regimes.losses import CrossEntropy

VOCABULARY, LENGTH = 13, 6
#: Batches in an epoch.
EPOCH = 20


def network(seed: int) -> Any:
    """GPT-2 with biases and norms random too, so that decay would be seen on them."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": VOCABULARY, "n_positions": LENGTH, "n_embd": 8, "n_layer": 2, "n_head": 2}
    without = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    with seeded(seed % 2**32):
        made = GPT2LMHeadModel(GPT2Config(**sizes, **without, bos_token_id=0, eos_token_id=0)).double()
        made.loss_type = (
            "ForCausalLM"  # which the class name does not say, so that the Trainer would count first tokens too
        )
        with torch.no_grad():
            for p in made.parameters():
                p.add_(0.1 * torch.randn_like(p))
    made.loss_function = _in_float64
    return made


def _in_float64(logits: Tensor, labels: Tensor, num_items_in_batch: Any = None, **kwargs: Any) -> Tensor:
    """transformers' loss of causal models but for its cast to float32; what it is divided by is the Trainer's."""
    flat = logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)
    if num_items_in_batch is None:
        return nn.functional.cross_entropy(*flat)
    return nn.functional.cross_entropy(*flat, reduction="sum") / num_items_in_batch


class Logits(nn.Module):
    """The network as a model of tokens to logits (n, vocabulary, length), as `CrossEntropy` takes them."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of all tokens but the first."""
        return self.network(input_ids=tokens).logits[:, :-1].transpose(1, 2)


class Rows(torch.utils.data.Dataset):
    """Tokens and labels as the Trainer takes them."""

    def __init__(self, tokens: Tensor, labels: Tensor) -> None:
        self.tokens, self.labels = tokens, labels

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.labels[index]}


def data(batch: int) -> tuple[Rows, Rows]:
    """Random tokens to train on and to validate on.

    Answers are of uneven length, so that averaging over micro-batches is another number; held-out ones are not, so that
    the mean of batches' means is the mean.
    """
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (EPOCH * batch, LENGTH), generator=draw)
    ends = torch.randint(2, LENGTH + 1, (len(tokens), 1), generator=draw)
    held = torch.randint(0, VOCABULARY, (16, LENGTH), generator=draw)
    return Rows(tokens, torch.where(torch.arange(LENGTH) < ends, tokens, -100)), Rows(held, held)


def workload(network: Any, train: Rows, val: Rows) -> Workload:
    """The same for the engine."""
    pairs = [(rows.tokens, rows.labels[:, 1:]) for rows in (train, val)]
    return Workload(model=Logits(network), train=pairs[0], val=pairs[1], loss=CrossEntropy(), name="tiny GPT-2")
