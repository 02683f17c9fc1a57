"""A deeper network from a trained one."""

from __future__ import annotations

import copy
import fnmatch
from typing import Any, Literal

import torch
from torch import nn

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError, nearest, nearest_pattern
from regimes.core.kinds import ModelTransform, TransformResult
from regimes.core.randomness import Streams
from regimes.core.registry import register
from regimes.model_transforms.patterns import refuse_shared


def _grown(mode: str) -> dict[str, Any]:
    """Two phases of equal work, the second in twice the width and depth."""
    grow = [f"GrowDepth(4, '{mode}')", "GrowWidth(64)"]
    return {"phases": [{"name": "small", "budget": "50%"}, {"name": "large", "budget": "50%", "on_entry": grow}]}


def _study(baseline: str, arm: dict[str, Any]) -> dict[str, Any]:
    same = {"optimizer": "AdamW(lr=Cosine(4e-3, warmup='10%'))", "batch_size": 16, "budget": "6e10 flops"}
    compare = {"baseline": baseline, "metric": "loss", "better": "lower", "margin": 0.05, "seeds": 6, "trials": 3}
    return {
        "workload": {"name": "char_lm", "width": 32, "length": 32},
        "compare": compare,
        "tune": {"*.lr.peak": "times(1/4, 4)"},
        "arms": {baseline: same | arm, "grown": same | _grown("interpolate")},
    }


@register
class GrowDepth(ModelTransform):
    r"""Give the network more blocks, which begin as copies of those that it has.

    Of L blocks, the new block l = 0 ... N - 1 is a copy of

    .. math:: \text{stack: } l \bmod L, \qquad \text{interpolate, zero: } \lfloor l L / N \rfloor

    so the whole pile is repeated, or each block stands next to its copies. "zero" keeps the function of a network whose
    blocks add to a stream: of the copies (not the first of each) the parameters that write into the stream are zero.

    Parameters
    ----------
    layers : int
        N.
    mode : "interpolate", "stack" or "zero"
        Default "interpolate", the paper's.
    blocks : str
        Name of the list of blocks in the model (an `nn.ModuleList` or `nn.Sequential`). Default "blocks".
    outputs : tuple of str
        For "zero": patterns of parameter names in a block, of what writes into the stream.

    Raises
    ------
    DeclarationError
        If there is no such list, it has as many blocks already, a block shares a parameter with what is outside it, or a
        pattern matches nothing.

    References
    ----------
    BAAI, AquilaMoE: Efficient Training for MoE Models with Scale-Up and Scale-Out Strategies, 2024, arXiv:2408.06567;
    L. Gong et al., Efficient Training of BERT by Progressively Stacking, ICML 2019 ("stack"); C. Wu et al., LLaMA Pro:
    Progressive LLaMA with Block Expansion, ACL 2024, arXiv:2401.02415 ("zero").

    Examples
    --------
    >>> net = nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(2, 2) for _ in range(2))})
    >>> grow = GrowDepth(4)
    >>> deep = grow.structure(copy.deepcopy(net))
    >>> names = grow.fill(deep, net, iter(()), Streams(0)).names
    >>> [names[f"blocks.{place}.bias"] for place in range(4)]
    ['blocks.0.bias', 'blocks.0.bias', 'blocks.1.bias', 'blocks.1.bias']
    """

    layers: int = fixed(low=1)
    mode: Literal["interpolate", "stack", "zero"] = fixed("interpolate")
    blocks: str = fixed("blocks")
    outputs: tuple[str, ...] = fixed(())

    card = Card(
        title="Grow the depth",
        axes=("phases",),
        source="BAAI 2024, arXiv:2408.06567; Gong et al. 2019; Wu et al. 2024, arXiv:2401.02415",
        when="A shallow network has been trained, or is quick to train, and a deeper one is wanted.",
        cost="free, once",
        shelf="atlas",
        rows=("aquilamoe-efficientscale",),
        defaults={"mode": "the paper's, as we recall it"},
        deviations=(
            "The paper begins anew with the optimizer's state; so do we, unless the phase carries it: a copy then has "
            'that of its block, but in "zero", where it begins anew.',
            "LLaMA Pro trains the new blocks alone; Freeze does that.",
        ),
        claims=(
            Claim(
                "Half of the work spent on a network half as wide and half as deep, and the rest on the one that grows from "
                "it, reach a lower loss than the same work spent on the large one from scratch.",
                _study("scratch", {"on_entry": ["GrowDepth(4)", "GrowWidth(64, 'fresh')"]}),
                paper_scale="dense models of 1.8 and 7 billion parameters, then 16 billion",
            ),
            Claim(
                "Blocks that stand next to their copies end at a lower loss than a pile that is repeated.",
                _study("stack", _grown("stack")),
                paper_scale="dense models of 1.8 and 7 billion parameters",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[GrowDepth]:
        """Growth of the small transformer of the conformance suite, exact, and not."""
        return [cls(4), cls(3, "stack"), cls(3, "zero", outputs=("attention.out.*", "mlp.down.*"))]

    def validate(self) -> None:
        """Refuse outputs where nothing becomes zero, and none where something should."""
        if bool(self.outputs) != (self.mode == "zero"):
            said = f"got {list(self.outputs)}" if self.outputs else "got no pattern"
            raise DeclarationError(
                f"{said} in mode '{self.mode}'; allowed: for 'zero', patterns of what writes into the stream, for example "
                "'mlp.down.*'; for others none",
                "outputs",
            )

    def structure(self, model: nn.Module) -> nn.Module:
        """Put copies of the blocks beside them, frozen as they are."""
        pile = self._pile(model)
        grown = [copy.deepcopy(pile[old]) if copied else pile[old] for old, copied in self._origins(len(pile))]
        pile._modules.clear()
        for place, block in enumerate(grown):
            pile.add_module(str(place), block)
        return model

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Name where each block comes from, and zero what writes into the stream; values came with the copies."""
        origins = self._origins(len(self._pile(before)))
        names: dict[str, str | None] = {name: name for name, _ in model.named_parameters()}
        for place, (old, copied) in enumerate(origins):
            block = model.get_submodule(f"{self.blocks}.{place}")
            for own, p in block.named_parameters():
                origin = f"{self.blocks}.{old}.{own}"
                names[f"{self.blocks}.{place}.{own}"] = None if copied and self.mode == "zero" else origin
                if copied and any(fnmatch.fnmatchcase(own, pattern) for pattern in self.outputs):
                    with torch.no_grad():
                        p.zero_()
        return TransformResult(names)

    def _origins(self, before: int) -> list[tuple[int, bool]]:
        """For each new block the old one that it is, or is a copy of."""
        stack = self.mode == "stack"
        old = [place % before if stack else place * before // self.layers for place in range(self.layers)]
        return [(block, block in old[:place]) for place, block in enumerate(old)]

    def _pile(self, model: nn.Module) -> nn.ModuleList | nn.Sequential:
        lists = {name: m for name, m in model.named_modules() if name and isinstance(m, nn.ModuleList | nn.Sequential)}
        pile = lists.get(self.blocks)
        if pile is None:
            raise DeclarationError(
                f"got '{self.blocks}', which is no list of blocks of the model; {nearest(self.blocks, lists)}", "blocks"
            )
        if self.layers <= len(pile):
            raise DeclarationError(
                f"got {self.layers}; allowed: more than the {len(pile)} blocks that it has", "layers"
            )
        self._check_block(pile[0])
        refuse_shared(model, [f"{self.blocks}.{place}" for place in range(len(pile))], "blocks")
        return pile

    def _check_block(self, block: nn.Module) -> None:
        own = [name for name, _ in block.named_parameters()]
        for place, pattern in enumerate(self.outputs):
            if not any(fnmatch.fnmatchcase(name, pattern) for name in own):
                raise DeclarationError(
                    f"got '{pattern}', which matches no parameter of a block; {nearest_pattern(pattern, own)}",
                    f"outputs.{place}",
                )
