"""What a loss returns: one value per unit (example or token), never reduced; and the signal made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class UnitLosses:
    """Losses per unit of one micro-batch; the engine alone weights, sums and normalizes them.

    Parameters
    ----------
    values : Tensor, shape (units,)
        Loss of each unit, with graph.
    weights : Tensor of shape (units,) or None
        The loss's own weights, no gradient; padding has weight 0; None means all 1.
    examples : Tensor of shape (units,), int64, or None
        Position in the micro-batch of the example that each unit belongs to; None means unit i is example i.
    """

    values: Tensor
    weights: Tensor | None = None
    examples: Tensor | None = None

    def per_example(self, n: int) -> Tensor:
        """Mean unit loss of each of the micro-batch's `n` examples; one without weight gives 0."""
        import torch

        examples = torch.arange(n, device=self.values.device) if self.examples is None else self.examples
        return _means(self.values.reshape(-1), self.weights, examples, n)


def _means(values: Tensor, weights: Tensor | None, examples: Tensor, n: int) -> Tensor:
    import torch

    weights = torch.ones_like(values) if weights is None else weights
    total = values.new_zeros(n).index_add_(0, examples, values * weights)
    mass = values.new_zeros(n).index_add_(0, examples, weights.to(values.dtype))
    return total / mass.clamp_min(1e-30)


@dataclass
class Units:
    """Signal ``units``: the unit losses of the first evaluation of a step.

    Parameters
    ----------
    values : Tensor, shape (units,)
        Without graph.
    weights : Tensor or None
        The loss's own weights.
    examples : Tensor, shape (units,)
        Place in the plan of each unit's example.
    indices : Tensor, shape (n,)
        Example numbers of the plan, within their source.
    sources : Tensor or None
        Source positions of the plan.
    """

    values: Tensor
    weights: Tensor | None
    examples: Tensor
    indices: Tensor
    sources: Tensor | None = None
    _means: list[Tensor] = field(default_factory=list)

    def per_example(self) -> Tensor:
        """Mean unit loss of each example of the plan, shape (n,); an example without weight gives 0."""
        if not self._means:
            self._means.append(_means(self.values, self.weights, self.examples, len(self.indices)).cpu())
        return self._means[0]

    def of(self, source: int) -> Units:
        """The units of one source, with its examples renumbered."""
        import torch

        assert self.sources is not None
        places = torch.nonzero(self.sources == source).view(-1)
        renumber = torch.full((len(self.indices),), -1, dtype=torch.long)
        renumber[places] = torch.arange(len(places))
        examples = renumber[self.examples.cpu()]
        kept = examples >= 0
        weights = None if self.weights is None else self.weights.cpu()[kept]
        return Units(self.values.cpu()[kept], weights, examples[kept], self.indices[places])
