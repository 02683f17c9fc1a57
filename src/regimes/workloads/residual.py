"""Digits for a small residual network."""

from __future__ import annotations

import functools
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from regimes.engine.metrics import Accuracy
from regimes.engine.workload import Workload
from regimes.losses import CrossEntropy
from regimes.workloads import tables


class ResidualBranch(nn.Module):
    """What a block adds to the stream: ``down(relu(up(layer_norm(x))))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, width]`` to the same shape."""
        return self.down(F.relu(self.up(self.norm(x))))


class ResidualMLP(nn.Module):
    """An embedding, blocks of two linear layers that are added to the stream, and a head; inputs are flattened.

    Parameters
    ----------
    inputs, width, blocks, outputs : int

    Examples
    --------
    >>> import torch
    >>> net = ResidualMLP(64, 32, 4, 10)
    >>> net(torch.zeros(5, 1, 8, 8)).shape, [name for name, _ in net.blocks.named_children()]
    (torch.Size([5, 10]), ['0', '1', '2', '3'])
    """

    def __init__(self, inputs: int, width: int, blocks: int, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(ResidualBranch(width) for _ in range(blocks))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, ...]`` to ``[batch, outputs]``."""
        x = self.stem(x.flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return self.head(F.relu(x))


def digits_residual(width: int = 64, blocks: int = 4, examples: int = 1197, label_noise: float = 0.0) -> Workload:
    """Return handwritten digits for a residual network, whose blocks ``blocks.0`` ... are added to the stream.

    Parameters
    ----------
    width, blocks : int
        Of the network. Default 4 blocks of 64.
    examples : int
        Training examples, the first of the split. Default all 1,197.
    label_noise : float
        Share of the training labels that are replaced by another class, the same ones in every run. Default 0.
    """
    table = tables.with_label_noise(tables.digits().first(examples), label_noise)
    splits: dict[str, Any] = {split: tuple(getattr(table, split)) for split in ("train", "val", "test")}
    model = functools.partial(ResidualMLP, 64, width, blocks, 10)
    return Workload(model=model, loss=CrossEntropy(), metrics={"acc": Accuracy()}, name="digits_residual", **splits)
