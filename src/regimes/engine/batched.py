"""Functions of torch for which `vmap` has no batching rule, with a rule of ours.

Each is the same function; mapped over replicas, it is computed once for all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def _first(tensor: Tensor, axis: int | None, size: int) -> Tensor:
    """The tensor with the mapped axis in front; expanded where it is not mapped."""
    return tensor.unsqueeze(0).expand(size, *tensor.shape) if axis is None else tensor.movedim(axis, 0)


class _Attention(torch.autograd.Function):
    """Attention that is differentiated through the operations of its rule."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Tensor:
        """Outside of `vmap` nobody calls it."""
        return functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def vmap(
        info: Any, axes: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None
    ) -> tuple[Tensor, int]:
        """Replicas are more examples of one batch."""
        q, k, v = (_first(t, axis, info.batch_size).flatten(0, 1) for t, axis in zip((q, k, v), axes))
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
        return out.unflatten(0, (info.batch_size, -1)), 0


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """`torch.nn.functional.scaled_dot_product_attention`; with a mask or dropout as torch maps it."""
    if attn_mask is not None or dropout_p or enable_gqa or query.ndim != 4:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    return _Attention.apply(query, key, value, is_causal, scale)


#: By function of torch, the one that stands in for it inside a stacked forward.
RULES = {functional.scaled_dot_product_attention: attention}
