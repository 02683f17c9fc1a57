"""Queries and keys of a known length."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from regimes.core.calls import Calls, given
from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import ModelTransform, TransformResult
from regimes.core.randomness import Streams
from regimes.core.registry import register
from regimes.model_transforms.patterns import matching_modules
from regimes.model_transforms.swapped import Swapped, put

_SCALE = "char_lm of 0.04 M parameters, 400 steps of 16 windows of 32 bytes, eight rates from 1e-4 to 0.3"


class NormalizedAttention(Swapped):
    """In front of a module's class: inside its forward, attention has its queries and keys normalized."""

    nearest = True
    q_norm: nn.Module
    k_norm: nn.Module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module, and refuse one that calls no attention."""
        heard = []

        def normalized(function: Any, args: Any, kwargs: Any) -> Tensor:
            heard.append(function)
            query, key = given(args, kwargs, 0, "query"), given(args, kwargs, 1, "key")
            named = {name: value for name, value in kwargs.items() if name not in ("query", "key")}
            if len(args) < 3:
                named["value"] = given(args, kwargs, 2, "value")
            return function(self.q_norm(query), self.k_norm(key), *args[2:], **named)

        with Calls({functional.scaled_dot_product_attention: normalized}):
            found = super().forward(*args, **kwargs)
        if not heard:
            raise DeclarationError(
                f"{self.own.__name__} calls no scaled_dot_product_attention, whose queries QKNorm could normalize",
                "patterns",
            )
        return found


@register
class QKNorm(ModelTransform):
    r"""Put a layer norm on the queries and on the keys of each head, before their products.

    With gains a and b, one for each of the d features of a head, shared by the heads of a layer, and no offsets

    .. math::
        \mathrm{softmax}\!\left(\frac{(a \odot \mathrm{LN}(q)) \cdot (b \odot \mathrm{LN}(k))}{\sqrt d}\right), \qquad
        \left|\frac{\mathrm{LN}(q) \cdot \mathrm{LN}(k)}{\sqrt d}\right| \le \sqrt d

    so that attention's logits cannot grow but by the gains, which begin at 1.

    Parameters
    ----------
    patterns : tuple of str
        Patterns of the names of modules that call ``torch.nn.functional.scaled_dot_product_attention`` in their forward.
    head_size : int
        d.
    eps : float
        Of the norms. Default 1e-6, flax's.

    Raises
    ------
    DeclarationError
        If there is no pattern, one matches no module, or a module has norms of these names already; in a forward, if a module
        that matches calls no such attention.

    Notes
    -----
    The modules get ``q_norm`` and ``k_norm``, whose weights are new parameters. The norms stand right before the products;
    where positions turn queries and keys (rotary ones), `regimes.workloads.models.TinyGPT` with ``qk_norm=True`` has them
    before that, as models of this kind do: alike in length, not in which features the gains weigh. Attention in evaluation
    mode is normalized, too, and a network that was trained without is another one afterwards: best on entry to the first
    phase.

    References
    ----------
    M. Dehghani et al., Scaling Vision Transformers to 22 Billion Parameters, ICML 2023, arXiv:2302.05442; M. Wortsman et al.,
    Small-scale proxies for large-scale Transformer training instabilities, ICLR 2024, arXiv:2309.14322; A. Henry et al.,
    Query-Key Normalization for Transformers, 2020, arXiv:2010.04245.

    Examples
    --------
    >>> from regimes.workloads.models import TinyGPT
    >>> net = QKNorm("*.attention", head_size=8).structure(TinyGPT(width=16, layers=1))
    >>> [name for name, _ in net.named_parameters() if "norm" in name]
    ['blocks.0.attention.q_norm.weight', 'blocks.0.attention.k_norm.weight']
    """

    patterns: tuple[str, ...] = fixed()
    head_size: int = fixed(low=1)
    eps: float = fixed(1e-6, above=0)

    keeps_values = True
    card = Card(
        title="Layer norm of queries and keys",
        axes=("regime",),
        source="Dehghani et al. 2023, arXiv:2302.05442; Wortsman et al. 2024, arXiv:2309.14322",
        when="Transformers at high rates, or large: AttentionLogits grow.",
        cost="two norms a layer",
        shelf="atlas",
        rows=("small-scale-proxies",),
        defaults={"eps": "1e-6, flax's"},
        deviations=(
            "A gain and no offset, shared by heads: flax's and the authors' earlier model's form. The paper's text was not "
            "read in full.",
        ),
        claims=(
            Claim(
                "The final loss depends on the rate at most 0.7 as much (lr_sensitivity) as without.",
                {"seeds": 5, "margin": 0.5146, "scale": _SCALE + ", log2"},
                paper_scale="C4, 10 M to 1.2 B parameters, 100,000 steps",
                measure="regimes.claims.proxies:qk_norm_sensitivity",
            ),
            Claim(
                "Attention's largest logit is at most the root of the head size at the highest rate that ends below the loss of "
                "one who knows nothing, gains trained.",
                {"seeds": 5, "margin": 0.1, "scale": _SCALE + ", log2"},
                paper_scale="C4, 10 M to 1.2 B parameters, 100,000 steps",
                says="not worse",
                measure="regimes.claims.proxies:bounded_logits",
            ),
        ),
    )

    @classmethod
    def example(cls) -> QKNorm:
        """In the small transformer of the conformance suite."""
        return cls("*.attention", head_size=4)

    def validate(self) -> None:
        """Refuse an empty list."""
        if not self.patterns:
            raise DeclarationError("got no pattern; allowed: one or more, for example '*.attention'", "patterns")

    def structure(self, model: nn.Module) -> nn.Module:
        """Give each module that matches its norms."""
        for name in matching_modules(model, self.patterns):
            module: Any = model.get_submodule(name)
            like = next(module.parameters(), next(model.parameters()))
            for own in ("q_norm", "k_norm"):
                if hasattr(module, own):
                    raise DeclarationError(f"'{name}' has a '{own}' already; allowed: a module without", "patterns")
                norm = nn.LayerNorm(self.head_size, self.eps, bias=False, device=like.device, dtype=like.dtype)
                setattr(module, own, norm.train(module.training))
            put(module, NormalizedAttention)
        return model

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Gains begin at 1, as they are; all else is as it was."""
        old = {name for name, _ in before.named_parameters()}
        return TransformResult({name: name if name in old else None for name, _ in model.named_parameters()})
