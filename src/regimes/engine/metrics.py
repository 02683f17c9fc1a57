"""Metrics: functions of (output, target), or objects with update and compute."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from regimes.core.errors import DeclarationError, UserCodeError, show


class Accuracy:
    """Share of examples (or tokens, positions, labels) that are right.

    Output (n, classes) with target (n,), or (n, length, classes) with (n, length), or torch's (n, classes, d1, ...)
    with (n, d1, ...): the largest output is the target. Output in the shape of the target: logits of labels, right
    where their sign says what the target (0 or 1) says. Targets of -100 are left out.

    Parameters
    ----------
    dim : int, optional
        Where the classes are. Needed where the shapes leave it open (as many classes as positions), and for targets
        that are one-hot or probabilities, whose largest is then the target.

    Raises
    ------
    DeclarationError
        For any other pair of shapes, and for one that leaves open where the classes are.

    Examples
    --------
    >>> Accuracy()(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0])).tolist()
    [1.0, 0.0]
    >>> Accuracy(dim=1)(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])).tolist()
    [1.0, 0.0]
    """

    def __init__(self, dim: int | None = None) -> None:
        if dim is not None and (not isinstance(dim, int) or isinstance(dim, bool)):
            raise DeclarationError(f"got {show(dim)}; allowed: the dimension of the classes, such as 1 or -1", "dim")
        self.dim = dim

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Return 1 for right and 0 for wrong, per unit."""
        said = self._said(output, target)
        if said.shape != target.shape:
            target = target.argmax(self.dim)
        kept = target.reshape(-1) != -100
        return (said == target).reshape(-1)[kept].float()

    def _said(self, output: Tensor, target: Tensor) -> Tensor:
        shape = output.shape
        if self.dim is not None and -output.ndim <= self.dim < output.ndim:
            said = output.argmax(self.dim)
            if target.shape in (said.shape, shape):
                return said
        elif self.dim is None and shape == target.shape:
            return output > 0
        elif self.dim is None:
            found = [dim for dim in (-1, 1) if output.ndim > 1 and output.select(dim, 0).shape == target.shape]
            if len(found) == 2 and output.ndim > 2:
                raise DeclarationError(
                    f"got an output of shape {tuple(shape)} and a target of shape {tuple(target.shape)}, so that the "
                    "classes may be the second or the last; write Accuracy(dim=1) or Accuracy(dim=-1)",
                    "Accuracy",
                )
            if found:
                return output.argmax(found[0])
        raise DeclarationError(
            f"got an output of shape {tuple(output.shape)} and a target of shape {tuple(target.shape)}; allowed: (n, "
            "classes) with (n,), or logits in the shape of the target",
            "Accuracy",
        )

    def __repr__(self) -> str:
        return "Accuracy()" if self.dim is None else f"Accuracy(dim={self.dim})"


class Meter:
    """Collects the loss and the metrics of one source.

    Parameters
    ----------
    metrics : mapping of str to metric
        Functions give a value per unit, or one number that counts as often as there are targets; objects are copied.
    whole : Meter, optional
        Of all sources together: its objects see what this one's see (a ranking over all sources is no mean of
        rankings).
    """

    def __init__(self, metrics: Mapping[str, Any], whole: Meter | None = None) -> None:
        self.total, self.mass, self.whole = 0.0, 0.0, whole
        self._functions = {name: m for name, m in metrics.items() if not hasattr(m, "update")}
        self._objects = {name: copy.deepcopy(m) for name, m in metrics.items() if hasattr(m, "update")}
        self._sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in self._functions}
        for metric in self._objects.values():
            metric.reset()

    def add(self, total: float, mass: float, output: Any, target: Any) -> None:
        """Add one batch: its weighted loss, its weights, its output and target."""
        self.total, self.mass = self.total + total, self.mass + mass
        for name in (*self._functions, *self._objects):
            try:
                self._add(name, output, target)
            except Exception as why:
                raise UserCodeError(f"the metric '{name}' failed: {type(why).__name__}: {why}") from why

    def _add(self, name: str, output: Any, target: Any) -> None:
        if name in self._objects:
            self._objects[name].update(output, target)
            if self.whole is not None:
                self.whole._objects[name].update(output, target)
            return
        value = torch.as_tensor(self._functions[name](output, target), dtype=torch.float64)
        n = value.numel() if value.ndim else len(target)
        self._sums[name][0] += float(value.mean()) * n if n else 0.0
        self._sums[name][1] += n

    def values(self) -> dict[str, float]:
        """Return the loss and every metric."""
        return Meter.joined([self])

    @staticmethod
    def joined(meters: list[Meter]) -> dict[str, float]:
        """Loss and metrics of several sources: sums of sums; objects of their `whole`, else weighted as the loss is."""
        found = {"loss": _mean([(m.total, m.mass) for m in meters])}
        for name in meters[0]._sums:
            found[name] = _mean([(m._sums[name][0], m._sums[name][1]) for m in meters])
        whole = meters[0].whole if len(meters) > 1 else meters[0]
        if whole is not None:
            return found | whole._computed()
        computed = [(m._computed(), m.mass) for m in meters]
        return found | {name: _mean([(v[name] * mass, mass) for v, mass in computed]) for name in computed[0][0]}

    def _computed(self) -> dict[str, float]:
        """What the objects say; one that gives several values by name is written ``name/key``."""
        return {key: value for name, metric in self._objects.items() for key, value in _named(name, metric.compute())}


def _named(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        yield from ((f"{name}/{key}", float(item)) for key, item in value.items())
    else:
        yield name, float(value)


def _mean(parts: list[tuple[float, float]]) -> float:
    mass = sum(weight for _, weight in parts)
    return sum(total for total, _ in parts) / mass if mass else float("nan")
