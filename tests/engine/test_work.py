"""Counted work: closed forms, and the same whichever kernel does it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import regimes as rg
from regimes.engine.run import Run


class Attention(nn.Module):
    """Two layers of attention over bytes, by torch's fused kernel or by products of matrices that one can read."""

    def __init__(self, fused, heads=2, width=16, length=12):
        super().__init__()
        self.fused, self.heads = fused, heads
        self.embed, self.head = nn.Embedding(11, width), nn.Linear(width, 11, bias=False)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(2))
        self.register_buffer("future", torch.ones(length, length, dtype=torch.bool).triu(1))

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.qkv:
            x = x + self.mixed(layer(x))
        return self.head(x)

    def mixed(self, qkv):
        n, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        q, k, v = (part.view(n, length, self.heads, -1).transpose(1, 2) for part in qkv.split(width, 2))
        if self.fused:
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(self.future, float("-inf"))
            out = scores.softmax(-1) @ v
        return out.transpose(1, 2).reshape(n, length, width)


def trained(model, steps, batch, **fields):
    tokens = torch.randint(0, 11, (32, 13), generator=torch.Generator().manual_seed(0))
    workload = rg.Workload(model=model, train=(tokens[:, :-1], tokens[:, 1:]), loss=rg.NextToken())
    run = Run(workload, rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=batch, budget=f"{steps} steps", **fields), 0)
    losses = [record.loss for record in run]
    return run.work, losses


def test_fused_attention_counts_the_same_as_products_of_matrices():
    (fused, losses), (explicit, same) = (trained(lambda f=f: Attention(f), 3, 8) for f in (True, False))
    assert losses == pytest.approx(same, rel=1e-6)
    n, length, width = 8, 12, 16
    forward = 2 * (n * length * width * 3 * width + 2 * n * length * length * width)  # qkv; scores and values
    head = n * length * width * 11
    # Two operations for each multiplication; of a product, a backward makes two, the first layer's like all others'.
    assert fused.flops == explicit.flops == 3 * 2 * 3 * (forward + head)


def test_work_is_the_sum_over_micro_batches_and_steps():
    whole, _ = trained(lambda: Attention(False), 3, 8)
    parts, _ = trained(lambda: Attention(False), 3, 8, micro_batch=2)
    twice, _ = trained(lambda: Attention(False), 6, 8)
    assert parts.flops == whole.flops == twice.flops / 2
