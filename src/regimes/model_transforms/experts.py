"""A layer of experts, of which a router chooses a few for each token."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MixtureOfExperts(nn.Module):
    r"""Send every token to the `top_k` experts whose logits are largest, and add what they answer by their gates.

    .. math:: y = \sum_{e \in T} g_e f_e(x), \qquad g = \mathrm{softmax}(r_T), \quad r = R x

    with T the `top_k` largest of r: as if the softmax were over all experts, and those chosen shared the whole again. One
    expert alone has its softmax over all experts for a gate (Switch): shared again it were 1, and taught the router nothing.

    Parameters
    ----------
    expert : nn.Module
        f, a map of rows ``[tokens, width]``; every expert begins as a copy.
    width : int
        Features of a token.
    experts, top_k : int
        How many there are, and how many answer a token.

    Examples
    --------
    >>> layer = MixtureOfExperts(nn.Linear(3, 2), 3, experts=4, top_k=2)
    >>> layer(torch.zeros(5, 7, 3)).shape, layer.router.weight.shape, len(layer.experts)
    (torch.Size([5, 7, 2]), torch.Size([4, 3]), 4)
    """

    def __init__(self, expert: nn.Module, width: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(copy.deepcopy(expert) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., width]`` to ``[..., outputs]``."""
        rows = x.reshape(-1, x.shape[-1])
        logits = self.router(rows)
        largest, chosen = logits.topk(self.top_k, -1)
        gates = largest.softmax(-1) if self.top_k > 1 else (largest - logits.logsumexp(-1, keepdim=True)).exp()
        added = None
        for number, expert in enumerate(self.experts):
            row, place = (chosen == number).nonzero(as_tuple=True)
            answer = expert(rows[row]) * gates[row, place, None]
            added = answer.new_zeros(len(rows), answer.shape[-1]) if added is None else added
            added = added.index_add(0, row, answer)
        assert added is not None
        return added.view(*x.shape[:-1], -1)

    def imbalance(self, logits: Tensor) -> Tensor:
        r"""Return 1 where all experts get equally much, more where some get more; `logits` are the router's, by token.

        .. math:: E \sum_e f_e P_e

        with f_e the share of the choices that fell on expert e, and P_e the mean over tokens of its probability among
        all experts; gradients pass through P alone.

        Examples
        --------
        >>> layer = MixtureOfExperts(nn.Linear(3, 2), 3, experts=4, top_k=1)
        >>> layer.imbalance(1e4 * torch.eye(4)).item(), layer.imbalance(1e4 * torch.eye(4)[[2, 2]]).item()
        (1.0, 4.0)
        """
        number = logits.shape[-1]
        logits = logits.reshape(-1, number).float()
        chosen = logits.topk(self.top_k, -1).indices.flatten()
        share = torch.bincount(chosen, minlength=number) / len(chosen)
        return number * (share * logits.softmax(-1).mean(0)).sum()
