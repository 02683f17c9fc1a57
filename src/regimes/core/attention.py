"""What a call of torch's attention computes, in its plain form: the logits that its softmax is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regimes.core.calls import given


class Attention(NamedTuple):
    """The arguments of a call of ``torch.nn.functional.scaled_dot_product_attention``.

    Parameters
    ----------
    query, key, value : Tensor, shape (..., heads, length, features)
        Keys and values of as many heads as queries.
    mask : Tensor or None
        Booleans, True where a place is seen, or what is added to the logits.
    dropout, scale : float
    causal : bool
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    dropout: float
    causal: bool
    scale: float

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Attention:
        """Read a call."""
        query, key, value = (given(args, kwargs, place, name) for place, name in enumerate(("query", "key", "value")))
        scale = kwargs.get("scale")
        heads = query.shape[-3] // key.shape[-3] if kwargs.get("enable_gqa", False) else 1
        if heads > 1:
            key, value = key.repeat_interleave(heads, -3), value.repeat_interleave(heads, -3)
        return cls(
            query, key, value, given(args, kwargs, 3, "attn_mask"), given(args, kwargs, 4, "dropout_p", 0.0),
            given(args, kwargs, 5, "is_causal", False), query.shape[-1] ** -0.5 if scale is None else scale,
        )  # fmt: skip

    def logits(self, products: Tensor | None = None) -> Tensor:
        """Return scaled products with the mask added; -inf where a place is not seen.

        Parameters
        ----------
        products : Tensor, optional
            Of queries and keys, shape (..., heads, length, keys). Default: query @ key^T.

        Examples
        --------
        >>> x = torch.tensor([[3.0], [2.0]])
        >>> Attention.of((x, x, x), {"is_causal": True}).logits()
        tensor([[9., -inf],
                [6., 4.]])
        """
        scores = (self.query @ self.key.mT if products is None else products) * self.scale
        mask = self.mask
        if self.causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is None:
            return scores
        return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
