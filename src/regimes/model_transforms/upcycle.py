"""Experts from a trained feed-forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import ModelTransform, TransformResult
from regimes.core.randomness import Streams, kept
from regimes.core.registry import register
from regimes.model_transforms.experts import MixtureOfExperts
from regimes.model_transforms.patterns import matching_modules, refuse_shared


def _arms(scratch: dict[str, Any]) -> dict[str, Any]:
    same = {"optimizer": "AdamW(lr=Cosine(4e-3, warmup='10%'))", "batch_size": 16, "budget": "6e10 flops"}
    balanced = {"loss": "LoadBalance(NextToken())"}
    experts = {"name": "experts", "budget": "50%", "on_entry": ["Upcycle(experts=4)"]} | balanced
    upcycled = {"phases": [{"name": "dense", "budget": "50%"}, experts]}
    return {"scratch": same | balanced | scratch, "upcycled": same | upcycled}


@register
class Upcycle(ModelTransform):
    r"""Turn feed-forwards into mixtures of experts, each of which begins as a copy of what was trained.

    A router R with fresh weights chooses `top_k` of E experts for each token, and their gates sum to 1:

    .. math:: y = \sum_{e \in T} g_e f_e(x), \qquad g = \mathrm{softmax}((R x)_T)

    so the network's function stays what it was, to rounding, whatever the router says, until the experts have parted.
    With `top_k` = 1 the gate is the chosen expert's probability among all (Switch), about 1 / E at the beginning: the
    router learns, and the feed-forward's answer is scaled down until training has made that good. `LoadBalance` keeps
    the router from sending all tokens to a few.

    Parameters
    ----------
    patterns : tuple of str
        Patterns of module names; a module that matches maps tokens ``[..., width]`` one by one. Default "\*.mlp".
    experts : int
        E. Default 8 (paper).
    top_k : int
        How many answer a token. Default 2 (paper, as recalled). 1 changes the network's function, see above.
    spread : float
        Standard deviation of the router's weights. Default 0.02, that of Komatsuzaki et al. as we recall it.

    Raises
    ------
    DeclarationError
        If a pattern matches no module, one that matches lies in another, holds no linear layer or shares a parameter
        with what is outside it, or fewer experts are there than answer.

    References
    ----------
    BAAI, AquilaMoE: Efficient Training for MoE Models with Scale-Up and Scale-Out Strategies, 2024, arXiv:2408.06567;
    A. Komatsuzaki et al., Sparse Upcycling: Training Mixture-of-Experts from Dense Checkpoints, ICLR 2023,
    arXiv:2212.05055; W. Fedus, B. Zoph and N. Shazeer, Switch Transformers, JMLR 2022, arXiv:2101.03961 (top_k = 1).

    Examples
    --------
    >>> net = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))})
    >>> sparse = Upcycle("mlp", experts=3).structure(net)
    >>> result = Upcycle("mlp", experts=3).fill(sparse, net, iter(()), Streams(0))
    >>> result.names["mlp.router.weight"], result.names["mlp.experts.2.0.weight"]
    (None, 'mlp.0.weight')
    """

    patterns: tuple[str, ...] = fixed(("*.mlp",))
    experts: int = fixed(8, low=2)
    top_k: int = fixed(2, low=1)
    spread: float = fixed(0.02, low=0)

    keeps_values = True
    card = Card(
        title="Experts from a trained feed-forward",
        axes=("phases",),
        source="BAAI 2024, arXiv:2408.06567; Komatsuzaki et al. 2023, arXiv:2212.05055",
        when="A dense network has been trained, and one with more parameters at little more work is wanted.",
        cost="top_k times the work of the feed-forward, experts times its memory",
        shelf="atlas",
        rows=("aquilamoe-efficientscale",),
        defaults={
            "experts": "8, the paper's",
            "top_k": "2, the paper's as recalled",
            "spread": "0.02, Komatsuzaki et al. as recalled",
        },
        deviations=(
            "With top_k=1 the gate is the probability among all experts, as in Switch (Fedus et al. 2021): the function "
            "is then not what it was.",
            "No expert has a capacity: every token is answered by all that the router chose, and none is dropped.",
            "The paper may have a further loss on the router's logits (z-loss); we know of none and have none.",
            "Experts are computed one after the other on one machine, not in parallel over several.",
            "The optimizer's state, where the phase carries it, is that of the feed-forward for every expert.",
        ),
        claims=(
            Claim(
                "Half of the work spent on the dense network, and the rest on experts made of it, reach a lower loss than "
                "the same work spent on the experts from scratch (there each begins with inner weights of its own).",
                {
                    "workload": {"name": "char_lm", "width": 32, "length": 32},
                    "compare": {
                        "baseline": "scratch",
                        "metric": "loss",
                        "better": "lower",
                        "margin": 0.05,
                        "seeds": 6,
                        "trials": 3,
                    },
                    "tune": {"*.lr.peak": "times(1/4, 4)"},
                    "arms": _arms({"on_entry": ["Upcycle(experts=4)", "Reinitialise('*.experts.*.up.weight')"]}),
                },
                paper_scale="8 experts of 16 billion parameters",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[Upcycle]:
        """Experts in the small transformer of the conformance suite."""
        return [cls(experts=3), cls("blocks.1.mlp", experts=2, top_k=1)]

    def validate(self) -> None:
        """Refuse an empty list, and more answers than experts."""
        if not self.patterns:
            raise DeclarationError("got no pattern; allowed: one or more, for example '*.mlp'", "patterns")
        if self.top_k > self.experts:
            raise DeclarationError(f"got {self.top_k}; allowed: 1 to {self.experts}, the number of experts", "top_k")

    def structure(self, model: nn.Module) -> nn.Module:
        """Put experts and a router in the place of each module that matches."""
        for name in self._places(model):
            dense = model.get_submodule(name)
            like = next(dense.parameters())
            with kept(torch_alone=True):
                layer = MixtureOfExperts(dense, _width(name, dense), self.experts, self.top_k)
            layer.router.to(like.device, like.dtype)
            above, _, own = name.rpartition(".")
            setattr(model.get_submodule(above), own, layer.train(dense.training))
        return model

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Draw the routers, each from its own address; values of experts came with the copies."""
        names: dict[str, str | None] = {name: name for name, _ in model.named_parameters()}
        for place in self._places(before):
            layer: Any = model.get_submodule(place)
            generator = torch.Generator().manual_seed(streams.seed32("router", place))
            drawn = torch.randn(layer.router.weight.shape, generator=generator) * self.spread
            with torch.no_grad():
                layer.router.weight.copy_(drawn)
            names[f"{place}.router.weight"] = None
            for own, _ in layer.experts.named_parameters():
                names[f"{place}.experts.{own}"] = f"{place}.{own.partition('.')[2]}"
        return TransformResult(names)

    def _places(self, model: nn.Module) -> list[str]:
        found = matching_modules(model, self.patterns)
        for name in found:
            inner = next((other for other in found if other.startswith(f"{name}.")), None)
            if inner is not None:
                raise DeclarationError(f"got '{name}' and '{inner}' in it; allowed: one of the two", "patterns")
        refuse_shared(model, found, "patterns")
        return found


def _width(name: str, dense: nn.Module) -> int:
    for module in dense.modules():
        if isinstance(module, nn.Linear):
            return module.in_features
    raise DeclarationError(
        f"'{name}' ({type(dense).__name__}) holds no linear layer, whose inputs say how wide a token is", "patterns"
    )
