"""Roles of parameters that their shape does not tell: embeddings, norms, the head."""

from __future__ import annotations

import re

from torch import Tensor, nn

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
#: A parameter made by hand whose own name says that it is looked up or prepended, not multiplied by.
_BY_HAND = re.compile(r"emb|token$|^wpe$|^wte$")


def roles_of(model: nn.Module) -> dict[str, str]:
    """Return the roles of a model's parameters, by the name under which `named_parameters` lists them.

    The head is the weight of the last linear layer, unless that layer has a twin of the same shape in another
    block of the same list (``blocks.0.out`` and ``blocks.1.out``): then the model ends without one of its own, as
    with a head tied by ``F.linear(x, embedding.weight)``. A weight that serves as embedding and head has both roles.

    Returns
    -------
    dict of str to str
        "embedding", "head", "embedding head", "layer norm" (of nn.LayerNorm) or "norm" (of the others); parameters
        without a role are left out.

    Examples
    --------
    >>> roles_of(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 5, bias=False)))
    {'0.weight': 'embedding', '2.weight': 'layer norm', '2.bias': 'layer norm', '3.weight': 'head'}
    """
    listed = {id(p): name for name, p in model.named_parameters()}
    roles = {name: "embedding" for name, p in model.named_parameters() if _is_by_hand(name, p)}
    linear: dict[str, nn.Linear] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        # A weight under a parametrization is made anew on each use and listed under its originals.
        name = listed.get(id(getattr(module, "weight", None)))
        if isinstance(module, _NORMS):
            role = "layer norm" if isinstance(module, nn.LayerNorm) else "norm"
            roles |= {listed[id(p)]: role for p in module.parameters(recurse=False)}
        elif isinstance(module, _EMBEDDINGS) and name is not None:
            roles[name] = "embedding"
        elif isinstance(module, nn.Linear):
            linear[prefix] = module
    head = _head(linear, {name: listed.get(id(module.weight)) for name, module in linear.items()}, roles)
    if head is not None:
        roles[head] = "embedding head" if roles.get(head) == "embedding" else "head"
    return roles


def _is_by_hand(name: str, p: Tensor) -> bool:
    leaf = name.rsplit(".", 1)[-1]
    return p.ndim >= 2 and bool(_BY_HAND.search(leaf))


def _head(linear: dict[str, nn.Linear], weights: dict[str, str | None], roles: dict[str, str]) -> str | None:
    """The weight shared with an embedding; else the last linear layer's, unless that is one block's of several."""
    shared = [name for name in weights.values() if name is not None and roles.get(name) == "embedding"]
    if shared:
        return shared[-1]
    return None if not linear or _has_twin(linear) else weights[list(linear)[-1]]


def _has_twin(linear: dict[str, nn.Linear]) -> bool:
    """Whether the last linear layer is one of several alike, each in its own block."""
    *others, last = linear
    pattern = _place(last)
    return pattern != last and any(
        _place(other) == pattern and linear[other].weight.shape == linear[last].weight.shape for other in others
    )


def _place(prefix: str) -> str:
    """The path with the numbers of blocks taken out; a number at its end names the layer itself."""
    return re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", prefix)
