"""A wider network from a trained one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import ModelTransform, TransformResult
from regimes.core.randomness import Streams, kept
from regimes.core.registry import register
from regimes.model_transforms.widths import grown_buffers, plan, widened


def _grown(mode: str) -> dict[str, Any]:
    """Two phases of equal work, the second in twice the width."""
    small = {"name": "small", "budget": "50%"}
    return {"phases": [small, {"name": "large", "budget": "50%", "on_entry": [f"GrowWidth(64, '{mode}')"]}]}


def _study(baseline: str, arm: dict[str, Any]) -> dict[str, Any]:
    same = {"optimizer": "AdamW(lr=Cosine(4e-3, warmup='10%'))", "batch_size": 16, "budget": "6e10 flops"}
    compare = {"baseline": baseline, "metric": "loss", "better": "lower", "margin": 0.05, "seeds": 6, "trials": 3}
    return {
        "workload": {"name": "char_lm", "width": 32, "length": 32},
        "compare": compare,
        "tune": {"*.lr.peak": "times(1/4, 4)"},
        "arms": {baseline: same | arm, "grown": same | _grown("aki")},
    }


@register
class GrowWidth(ModelTransform):
    r"""Make the network wider, and let it begin with what the narrow one has learned.

    With g the map from new to old index, g(j) = j mod d (identity on the old ones), g on what a matrix writes and h on
    what it reads:

    .. math:: W'_{ij} = W_{g(i), h(j)} / |\{j' : h(j') = h(j)\}|

    so every feature is copied, and who reads it shares its weight out among the copies ("fpi"). Where every index is
    copied equally often (the new width is a multiple of the old) the network's function stays what it was, norms and
    attention included, to rounding; where not, what a norm divides by changes. Copies that are alike get gradients
    that are alike, and stay so for ever: "aki" breaks that, at the price of exactness, by taking the extra rows
    (i >= d) of a layer from the layer at the same place in the next block.

    The model says how it grows: it has a number ``width`` and a method ``grown(width)`` that returns a fresh model of the
    same form, whose axes are longer. Heads of attention are copied whole, if ``grown`` leaves their size as it is.
    Axes that are several widths long (queries, keys and values in one matrix) hold their parts one after the other.

    Parameters
    ----------
    width : int
        New width.
    mode : "aki", "fpi" or "fresh"
        "fresh" takes nothing over, as if the wide network had been made at once: the control. Default "aki" (paper).

    Raises
    ------
    DeclarationError
        If the model does not say how it grows, cannot have this width, or has a parameter whose axes nothing tells.

    References
    ----------
    BAAI, AquilaMoE: Efficient Training for MoE Models with Scale-Up and Scale-Out Strategies, 2024, arXiv:2408.06567;
    C. Chen et al., bert2BERT: Towards Reusable Pretrained Language Models, ACL 2022, arXiv:2110.07143; T. Chen,
    I. Goodfellow and J. Shlens, Net2Net, ICLR 2016, arXiv:1511.05641.

    Examples
    --------
    >>> from regimes.workloads.models import MLP
    >>> small, grow = MLP((3, 4, 2)), GrowWidth(8, "fpi")
    >>> large = grow.structure(small)
    >>> result = grow.fill(large, small, iter(()), Streams(0))
    >>> x = torch.randn(5, 3)
    >>> large.layers[0].weight.shape, torch.allclose(large(x), small(x), atol=1e-6)
    (torch.Size([8, 3]), True)
    >>> result.rules, result.indices["layers.1.weight"]
    ({'*': 'tile'}, (None, tensor([0, 1, 2, 3, 0, 1, 2, 3])))
    """

    width: int = fixed(low=1)
    mode: Literal["aki", "fpi", "fresh"] = fixed("aki")

    card = Card(
        title="Grow the width",
        axes=("phases",),
        source="BAAI 2024, arXiv:2408.06567; Chen et al. 2022, arXiv:2110.07143",
        when="A small network has been trained, or is quick to train, and a larger one is wanted.",
        cost="one copy of the network, once",
        shelf="atlas",
        rows=("aquilamoe-efficientscale",),
        defaults={"mode": "the paper's"},
        deviations=(
            "Extra features go round (j mod d), where Net2Net and bert2BERT draw them at random: so that heads are "
            "copied whole, and copies are equally many.",
            'In "aki" the last block, and what stands in no block or differs in shape from the next, takes its extra '
            "rows from itself; how the paper treats those we do not know. Norms always take theirs from themselves.",
            "The paper begins anew with the optimizer's state; so do we, unless the phase carries it. What is carried "
            "goes round, too; moments are not divided, by which an adaptive rule's step does not change, and a momentum "
            "is too large by the number of copies until it has faded. A rule that keeps weights in its state "
            "(schedule-free, Lookahead) should begin anew.",
        ),
        claims=(
            Claim(
                "Half of the work spent on a network half as wide, and the rest on the wide one that grows from it, reach "
                "a lower loss than the same work spent on the wide one from scratch.",
                _study("scratch", {"on_entry": ["GrowWidth(64, 'fresh')"]}),
                paper_scale="dense models of 1.8 and 7 billion parameters, then 16 billion",
            ),
            Claim(
                "Growth that takes extra rows from the next block ends at a lower loss than growth that keeps the function.",
                _study("fpi", _grown("fpi")),
                paper_scale="dense models of 1.8 and 7 billion parameters; BERT and GPT in bert2BERT",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[GrowWidth]:
        """Growth of the small transformer of the conformance suite, exact, and not."""
        return [cls(16), cls(16, "fpi"), cls(12, "aki"), cls(16, "fresh")]

    def structure(self, model: nn.Module) -> nn.Module:
        """Return the wide model, of the same type, on the same device, with the same parameters frozen."""
        width, large = self._width(model), self._grown(model)
        plan(model, large, width, self.width)
        frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        for name, p in large.named_parameters():
            p.requires_grad_(name not in frozen)
        return large

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Write the narrow model's values; state of what grew goes round like its features."""
        if self.mode == "fresh":
            model.load_state_dict(self._grown(before, streams.seed32("grow")).state_dict())
            return TransformResult({name: None for name, _ in model.named_parameters()})
        width = self._width(before)
        grows, small = plan(before, model, width, self.width), dict(before.named_parameters())
        with torch.no_grad():
            for name, p in model.named_parameters():
                axes, indices = grows.get(name, ((), ()))
                value = widened(small[name], axes, indices)
                twin = _next(name, before, small) if self.mode == "aki" else None
                if twin is not None and axes[:1] == ("out",) and indices[0] is not None:
                    value = _mixed(value, widened(twin, axes, indices), indices[0], small[name])
                p.copy_(value)
            for name, value in grown_buffers(before, model, width, self.width).items():
                model.get_buffer(name).copy_(value)
        names: dict[str, str | None] = {name: name for name in grows | small}
        return TransformResult(names, {"*": "tile"}, {name: indices for name, (_, indices) in grows.items()})

    def _width(self, model: nn.Module) -> int:
        width = getattr(model, "width", None)
        if type(width) is not int or not callable(getattr(model, "grown", None)):
            raise DeclarationError(
                f"{type(model).__name__} does not say how it grows; give it a number `width` and a method "
                "`grown(width)` that returns a fresh model of the same form with longer axes",
                "width",
            )
        if self.width < width or (self.width == width and self.mode != "fresh"):
            raise DeclarationError(f"got {self.width}; allowed: more than the model's width, {width}", "width")
        return width

    def _grown(self, model: Any, seed: int = 0) -> nn.Module:
        like = next(model.parameters())
        try:
            with kept(torch_alone=True):
                torch.manual_seed(seed)
                large: nn.Module = model.grown(self.width)
        except ValueError as why:
            raise DeclarationError(str(why), "width") from why
        return large.to(like.device, like.dtype).train(model.training)


def _next(name: str, model: nn.Module, named: Mapping[str, Tensor]) -> Tensor | None:
    """The parameter at the same place in the next block, if that has a layer of the same type and shapes there."""
    place, _, own = name.rpartition(".")
    layer = model.get_submodule(place)
    if not isinstance(layer, nn.Linear | nn.MultiheadAttention):
        return None
    for number in re.finditer(r"(?<![^.])\d+(?![^.])", place):
        twin = f"{place[: number.start()]}{int(number.group()) + 1}{place[number.end() :]}"
        try:
            other = model.get_submodule(twin)
        except AttributeError:
            continue
        if type(other) is type(layer) and _shapes(other) == _shapes(layer):
            return named.get(f"{twin}.{own}")
    return None


def _shapes(layer: nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in layer.named_parameters()}


def _mixed(value: Tensor, other: Tensor, index: Tensor, small: Tensor) -> Tensor:
    """The first copy of each row from `value`, the rest from `other`."""
    places = torch.arange(len(index))
    first = torch.full((len(small),), len(index)).scatter_reduce(0, index, places, "amin")
    own = torch.zeros(len(index), dtype=torch.bool)
    own[first] = True
    return torch.where(own.to(value.device).view(-1, *[1] * (value.ndim - 1)), value, other)
