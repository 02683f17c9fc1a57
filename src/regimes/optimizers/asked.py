"""What rules ask one evaluation for beyond the gradient: put together for several rules, and taken apart again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from regimes.core.kinds import Optimizer

Asked = Mapping[str, Any]


def asks(rule: Any) -> bool:
    """Return whether a rule may ask its one evaluation for more than loss and gradient."""
    return type(rule).asks is not Optimizer.asks


def together(
    asked: Sequence[Asked], owned: Sequence[Sequence[str]], parameters: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return what is to be asked for all rules: captures of any, targets drawn if one wants them, vectors side by side.

    Where a rule has no vector, or fewer than another, its parameters' part of a vector is zero.

    Parameters
    ----------
    asked : sequence of mapping
        What each rule's `asks` returned.
    owned : sequence of sequences of str
        Names of each rule's parameters.
    parameters : mapping of str to Tensor
        All, in order.

    Examples
    --------
    >>> w = {"a": torch.zeros(2), "b": torch.zeros(1)}
    >>> together([{"vectors": [(torch.ones(1),)]}, {"sampled": True}], [["b"], ["a"]], w)
    {'sampled': True, 'vectors': [(tensor([0., 0.]), tensor([1.]))]}
    """
    found: dict[str, Any] = {}
    captures = [name for one in asked for name in one.get("capture", ())]
    if captures:
        found["capture"] = list(dict.fromkeys(captures))
    if any(one.get("sampled") for one in asked):
        found["sampled"] = True
    count = max((len(one.get("vectors", ())) for one in asked), default=0)
    if count:
        found["vectors"] = [_side_by_side(place, asked, owned, parameters) for place in range(count)]
    return found


def _side_by_side(
    place: int, asked: Sequence[Asked], owned: Sequence[Sequence[str]], parameters: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    by_name: dict[str, Tensor] = {}
    for one, names in zip(asked, owned):
        vectors = one.get("vectors", ())
        if place < len(vectors):
            by_name |= dict(zip(names, vectors[place]))
    return tuple([by_name[name] if name in by_name else torch.zeros_like(p) for name, p in parameters.items()])


def own(evaluation: Any, places: Sequence[int], asked: Asked) -> Any:
    """Return what of an evaluation is one rule's: gradients, products and drawn gradients of its parameters alone.

    Parameters
    ----------
    evaluation : Evaluation
    places : sequence of int
        Of the rule's parameters among all.
    asked : mapping
        What the rule asked for.
    """

    def mine(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple([tensors[place] for place in places])

    if not asked:
        return evaluation._replace(gradients=mine(evaluation.gradients))
    captured = dict(evaluation.captured)
    if "hessian_products" in captured:
        wanted = captured["hessian_products"][: len(asked.get("vectors", ()))]
        captured["hessian_products"] = [mine(product) for product in wanted]
    if "sampled_gradients" in captured:
        captured["sampled_gradients"] = mine(captured["sampled_gradients"])
    return evaluation._replace(gradients=mine(evaluation.gradients), captured=captured)
