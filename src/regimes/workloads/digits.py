"""Digits for a small vision transformer, and digits that come in two domains."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from regimes.engine.metrics import Accuracy
from regimes.engine.workload import Workload
from regimes.losses import CrossEntropy
from regimes.workloads import models, tables
from regimes.workloads.transformer import Block, initialize, rms_norm


class TinyViT(nn.Module):
    """Patches of 2x2 pixels as 16 tokens with learned positions, blocks without a mask, the mean token to ten classes.

    Parameters
    ----------
    width, layers, heads : int

    Examples
    --------
    >>> TinyViT(width=16, layers=1, heads=2)(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """

    def __init__(self, width: int = 32, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Linear(4, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.head = nn.Linear(width, 10)
        initialize(self.blocks)
        self.positions = nn.Parameter(0.02 * torch.randn(16, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[n, 1, 8, 8]`` to logits ``[n, 10]``."""
        patches = x.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        x = self.patches(patches) + self.positions
        for block in self.blocks:
            x = block(x, is_causal=False)
        logits: Tensor = self.head(rms_norm(x).mean(1))
        return logits


def digits_vit(width: int = 32, layers: int = 2, heads: int = 4, examples: int = 500) -> Workload:
    """Return handwritten digits for a small vision transformer.

    Parameters
    ----------
    width, layers, heads : int
        Of the transformer.
    examples : int
        Training examples, the first of the split. Default 500.
    """
    model = functools.partial(TinyViT, width=width, layers=layers, heads=heads)
    table = tables.digits().first(examples)
    splits: dict[str, Any] = {split: tuple(getattr(table, split)) for split in ("train", "val", "test")}
    return Workload(model=model, loss=CrossEntropy(), metrics={"acc": Accuracy()}, name="digits_vit", **splits)


def digits_rotated(hidden: int = 32) -> Workload:
    """Return digits in two domains: ``clean``, and ``rotated``, whose 64 pixels a fixed random rotation has mixed.

    A network is trained on ``rotated`` and adapted to ``clean``, of which validation and test are.

    Parameters
    ----------
    hidden : int
        Width of the hidden layer. Default 32.
    """
    table = tables.digits()
    rotation, _ = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    turned = (table.train.x.flatten(1).double() @ rotation).float().view_as(table.train.x)
    train = {"clean": tuple(table.train), "rotated": (turned, table.train.y)}
    model = functools.partial(models.MLP, (64, hidden, 10))
    splits: dict[str, Any] = {split: tuple(getattr(table, split)) for split in ("val", "test")}
    return Workload(
        model=model, train=train, loss=CrossEntropy(), metrics={"acc": Accuracy()}, name="digits_rotated", **splits
    )
