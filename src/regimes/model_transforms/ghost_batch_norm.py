"""Batch norm over small parts of a large batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import ModelTransform
from regimes.core.registry import register


class GhostBatchNorm(_BatchNorm):
    r"""Normalize each ghost batch of at most `ghost_size` examples by its own mean and variance.

    While training, a batch of n is cut into ceil(n / ghost_size) parts whose sizes differ by at most one, which go
    through batch norm one after the other: with m the momentum, for every part

    .. math:: \text{running} \leftarrow (1 - m) \, \text{running} + m \, \text{statistic of the part}

    In evaluation mode it is batch norm.

    Parameters
    ----------
    num_features : int
        Channels, the second axis of inputs with 2 to 5 axes.
    ghost_size : int
        Most examples in a part.
    **options
        Of `torch.nn.BatchNorm1d`.

    Raises
    ------
    ValueError
        If `ghost_size` is below 1 or an input has fewer than 2 axes or more than 5; from torch, if a part has one value
        per channel.

    References
    ----------
    E. Hoffer, I. Hubara and D. Soudry, Train longer, generalize better, NeurIPS 2017, arXiv:1705.08741.

    Examples
    --------
    >>> norm = GhostBatchNorm(1, ghost_size=2)
    >>> norm(torch.tensor([[0.0], [2.0], [10.0], [14.0]])).flatten().round(decimals=3).tolist()
    [-1.0, 1.0, -1.0, 1.0]
    >>> round(norm.running_mean.item(), 4)  # 0.9 * 0.1 * 1 + 0.1 * 12
    1.29
    """

    def __init__(self, num_features: int, ghost_size: int, **options: Any) -> None:
        super().__init__(num_features, **options)
        if ghost_size < 1:
            raise ValueError(f"ghost_size has to be at least 1, got {ghost_size}")
        self.ghost_size = ghost_size

    def _check_input_dim(self, input: Tensor) -> None:
        if not 2 <= input.ndim <= 5:
            raise ValueError(f"expected 2 to 5 axes, got {input.ndim}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalize by parts while training."""
        if not self.training or len(input) <= self.ghost_size:
            return super().forward(input)
        normalize = super().forward
        return torch.cat([normalize(part) for part in input.tensor_split(-(-len(input) // self.ghost_size))])

    def extra_repr(self) -> str:
        """As batch norm, and the size."""
        return f"{super().extra_repr()}, ghost_size={self.ghost_size}"


_CONVERTED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, GhostBatchNorm)


@register
class GhostBatchNorms(ModelTransform):
    """Make every batch norm of the model a `GhostBatchNorm`, with the weights and statistics that it has.

    A large batch is then normalized with the noise of small ones. Where the whole step goes through micro-batches of
    `size` examples each (``micro_batch=``), batch norm does the same without this, at the price of as many passes; this
    needs one, and other things that interact in a micro-batch (dropout's draws) stay as they were.

    Parameters
    ----------
    size : int
        Most examples in a ghost batch. Default 128 (paper).

    Raises
    ------
    DeclarationError
        On meeting a model, if it has no batch norm (`torch.nn.BatchNorm1d`, `2d`, `3d`).

    References
    ----------
    E. Hoffer, I. Hubara and D. Soudry, Train longer, generalize better: closing the generalization gap in large batch
    training of neural networks, NeurIPS 2017, arXiv:1705.08741.

    Examples
    --------
    >>> GhostBatchNorms(32).structure(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)))[1].ghost_size
    32
    """

    size: int = fixed(128, low=2)

    keeps_values = True
    card = Card(
        title="Batch norm over small parts of a large batch",
        axes=("regime",),
        source="Hoffer et al. 2017, arXiv:1705.08741",
        when="The batch of a network with batch norm becomes larger than the one on which it generalized well.",
        cost="as many calls of batch norm as there are parts, each of fewer examples",
        shelf="atlas",
        rows=("train-longer-gbn",),
        defaults={"size": "128, the paper's"},
        deviations=(
            "The paper's other tools stand elsewhere: the rate and as many updates in scale_batch(..., 'updates'), clipping in "
            "ClipNorm.",
            "Multiplicative noise (each example's loss times a random number) is not built: no component weights the losses "
            "of a step at random.",
        ),
        claims=(
            Claim(
                "At a batch of 512 a convolutional network is more often right with ghosts of 32 than with batch norm over "
                "all, rates tuned alike.",
                {
                    "workload": {"name": "digits_cnn", "batch_norm": True},
                    "compare": {
                        "baseline": "whole",
                        "metric": "acc",
                        "better": "higher",
                        "margin": 0.005,
                        "seeds": 8,
                        "trials": 4,
                    },
                    "tune": {"*.lr.peak": "times(1/4, 4)"},
                    "arms": {
                        "whole": {
                            "optimizer": "SGD(lr=Cosine(0.2), momentum=0.9)",
                            "batch_size": 512,
                            "budget": "30 epochs",
                        },
                        "ghosts": {"like": "whole", "on_entry": ["GhostBatchNorms(32)"]},
                    },
                },
                paper_scale="CIFAR-10 and 100, ImageNet: batches of 2,048 and 4,096, ghosts of 128 and 256",
            ),
            Claim(
                "With ghosts, the rate times the root of 8, clipping at 5 and as many updates, a batch of 256 is no less often "
                "right than one of 32, by a point.",
                {"seeds": 6, "margin": 0.01, "scale": "digits, SmallCNN with batch norm, 300 steps"},
                paper_scale="CIFAR-10 and 100: batches of 4,096 and 128",
                says="not worse",
                measure="regimes.claims.ghosts:same_updates",
            ),
        ),
    )

    def structure(self, model: nn.Module) -> nn.Module:
        """Put a ghost batch norm in the place of each batch norm; one that stands at two places stays one."""
        made: dict[nn.Module, GhostBatchNorm] = {
            module: _ghost(module, self.size) for module in model.modules() if isinstance(module, _CONVERTED)
        }
        if not made:
            raise DeclarationError(
                "GhostBatchNorms converts batch norms, and the model has none; allowed: leave it out"
            )
        for parent in list(model.modules()):
            for name, child in parent._modules.items():
                if child is not None and child in made:
                    parent._modules[name] = made[child]
        return made.get(model, model)


def _ghost(module: _BatchNorm, size: int) -> GhostBatchNorm:
    """A ghost batch norm that holds the same parameters and buffers."""
    options = {name: getattr(module, name) for name in ("eps", "momentum", "affine", "track_running_stats")}
    ghost = GhostBatchNorm(module.num_features, size, **options)
    ghost._parameters, ghost._buffers = module._parameters, module._buffers
    return ghost.train(module.training)
