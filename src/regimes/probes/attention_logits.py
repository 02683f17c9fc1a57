"""Do the logits of attention grow?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from regimes.core.attention import Attention
from regimes.core.calls import Calls, given
from regimes.core.card import Card
from regimes.core.errors import DeclarationError
from regimes.core.listening import heard
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.view import View

#: Masks of some models are no infinities but the lowest number of their type.
_MASKED = 1e30


@register
class AttentionLogits(ViewProbe):
    r"""Largest size of what the softmax of attention is given, module by module, on the step's batch.

    With queries q and keys k of d features each, over examples, heads and pairs of positions that are seen

    .. math:: \max |q_i \cdot k_j| / \sqrt{d}

    or whatever scale and bias the module uses. Where it grows, attention becomes one-hot; the paper's runs do not train well
    once it passes about 1e4. `QKNorm` bounds it by sqrt(d) times its gains.

    Values are named by the module that calls attention; "" is the largest of all. Heard are
    ``torch.nn.functional.scaled_dot_product_attention`` (whatever kernel it takes), ``nn.MultiheadAttention``, and attention
    that a model writes out, known by a softmax over the last of four axes or more.

    Parameters
    ----------
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If none of these is called.

    References
    ----------
    M. Wortsman et al., Small-scale proxies for large-scale Transformer training instabilities, ICLR 2024, arXiv:2309.14322,
    section 3.1.1; M. Dehghani et al., Scaling Vision Transformers to 22 Billion Parameters, ICML 2023, arXiv:2302.05442.

    Examples
    --------
    >>> class Alone(nn.Module):
    ...     def forward(self, x): return functional.scaled_dot_product_attention(x, x, x)
    >>> x = torch.tensor([[[[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]]])
    >>> AttentionLogits()(nn.Sequential(Alone()), lambda model, x: model(x).mean(), x)
    {'': 12.5, '0': 12.5}
    """

    card = Card(
        title="Largest logit of attention",
        axes=("regime",),
        source="Wortsman et al. 2024, arXiv:2309.14322",
        when="High rates and large transformers: will attention collapse?",
        cost="one forward, and the products of queries and keys once more",
        shelf="atlas",
        rows=("small-scale-proxies",),
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return the largest size, whole and by module."""
        found: dict[str, float] = {}
        with torch.no_grad(), _running(view.model) as running:

            def note(logits: Tensor) -> None:
                if heard():
                    size, name = logits.detach().double().abs(), running[-1][0]
                    seen = size.masked_fill(size > _MASKED, 0.0)
                    found[name] = max(seen.max().item(), found.get(name, 0.0))

            def fused(function: Any, args: Any, kwargs: Any) -> Any:
                note(Attention.of(args, kwargs).logits())
                return function(*args, **kwargs)

            def written_out(function: Any, args: Any, kwargs: Any) -> Any:
                logits, axis = given(args, kwargs, 0, "input"), given(args, kwargs, 1, "dim")
                known = logits.ndim >= 4 or isinstance(running[-1][1], nn.MultiheadAttention)
                if known and axis in (-1, logits.ndim - 1):
                    note(logits)
                return function(*args, **kwargs)

            softmaxes = dict.fromkeys((functional.softmax, torch.softmax, Tensor.softmax), written_out)
            with Calls({functional.scaled_dot_product_attention: fused, **softmaxes}):
                view.losses()
        if not found:
            raise DeclarationError(
                "calls no attention that can be heard; allowed: scaled_dot_product_attention, nn.MultiheadAttention, or a "
                "softmax over the last of four axes",
                "loss_fn",
            )
        return {"": max(found.values())} | found


@contextlib.contextmanager
def _running(model: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """Inside, the list holds the modules whose forwards run, by name, the innermost last; a model's own is "model"."""
    running, handles = [("model", model)], []

    def enter(name: str) -> Any:
        return lambda module, args: running.append((name or "model", module))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        running.pop()

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name)))
        handles.append(module.register_forward_hook(leave))
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()
