"""A torch criterion as a loss: its reduction is taken over."""

from __future__ import annotations

import copy
import hashlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.notice import notice
from regimes.core.unit_losses import UnitLosses
from regimes.losses.bce import BCE
from regimes.losses.forward import OutputLoss, kept, per_example, per_position
from regimes.losses.mse import MSE

#: Their mean divides by the weights of the target classes.
_BY_CLASS = (nn.CrossEntropyLoss, nn.NLLLoss)


class FromCriterion(OutputLoss):
    r"""A criterion (output, target), evaluated with ``reduction="none"``.

    One unit per example, the mean of its entries; targets are drawn as by `MSE` and `BCE` where those give the same
    numbers. Criteria of classes give one unit per target, with torch's own normalizer: for class weights v, torch's mean
    is :math:`\sum_i v_{y_i} \ell_i / \sum_i v_{y_i}`, which is the mean of units :math:`\ell_i` of weight
    :math:`v_{y_i}`; ignored targets have weight 0.

    Parameters
    ----------
    criterion : nn.Module
        With a ``reduction`` of "none": `from_criterion` makes it so.
    summed : bool
        Add the entries of an example instead of averaging them (KLDivLoss's "batchmean").

    Raises
    ------
    DeclarationError
        Where output and target were broadcast, or the criterion gives one number in spite of its reduction.

    Examples
    --------
    >>> loss = from_criterion(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])))
    >>> loss
    FromCriterion(CrossEntropyLoss(ignore_index=-100, label_smoothing=0.0, weight=[1.0, 3.0]))
    >>> loss.per_unit(torch.zeros(2, 2), torch.tensor([0, 1])).weights
    tensor([1., 3.])
    """

    criterion: Any = fixed()
    summed: bool = fixed(False)

    @property
    def separable(self) -> bool:  # type: ignore[override]
        """torch's own criteria take each example alone; of others nothing is known."""
        return type(self.criterion).__module__.startswith("torch.nn.")

    def __repr__(self) -> str:
        return f"FromCriterion({_printed(self.criterion)}{', summed=True' if self.summed else ''})"

    def per_unit(self, output: Any, target: Any) -> UnitLosses:
        """Loss of each unit."""
        criterion = self.criterion
        if isinstance(output, Tensor):
            criterion.to(output.device)  # its class weights; the criterion is a copy of ours
        values = criterion(output, target)
        if values.ndim == 0:
            raise DeclarationError(
                f"{type(criterion).__name__} has no unreduced form: it gives one number with reduction='none' too; "
                "write a function (model, batch) -> per-example losses",
                "loss",
            )
        if isinstance(criterion, _BY_CLASS):
            return _by_class(criterion, values, target)
        if values.ndim > 1 and values.shape != output.shape:
            raise DeclarationError(
                f"got an output of shape {tuple(output.shape)} and a target of shape {tuple(target.shape)}, which were "
                f"broadcast to {tuple(values.shape)}; allowed: the same shape",
                "loss",
            )
        return UnitLosses(values.flatten(1).sum(1)) if self.summed and values.ndim > 1 else per_example(values)

    def per_unit_drawn(self, output: Any, target: Any, generator: torch.Generator) -> UnitLosses:
        """Loss of drawn targets, where a loss of ours that says their distribution gives the same numbers."""
        twin = _twin(self.criterion)
        return (
            twin.per_unit_drawn(output, target, generator)
            if twin
            else super().per_unit_drawn(output, target, generator)
        )


def _twin(criterion: nn.Module) -> OutputLoss | None:
    if type(criterion) is nn.MSELoss:
        return MSE()
    plain = type(criterion) is nn.BCEWithLogitsLoss and criterion.weight is None and criterion.pos_weight is None
    return BCE() if plain else None


def _by_class(criterion: Any, values: Tensor, target: Tensor) -> UnitLosses:
    if target.is_floating_point():  # probabilities: torch's mean divides by the number of targets
        return per_position(values)
    counts = kept(target, criterion.ignore_index)
    if criterion.weight is None:
        return per_position(values, None if counts is None else counts.to(values.dtype))
    present = target if counts is None else target.where(counts, 0)
    weights = criterion.weight[present].to(values.dtype)
    weights = weights if counts is None else weights * counts
    return per_position(values / weights.where(weights > 0, 1.0), weights)


def from_criterion(criterion: Any) -> FromCriterion:
    """Return a criterion as a Loss.

    Parameters
    ----------
    criterion : nn.Module
        Any with a ``reduction`` that is called with (output, target); it is copied.

    Raises
    ------
    DeclarationError
        For a criterion that needs more than (output, target), or that has no meaning per example.
    """
    name = type(criterion).__name__
    needed = _required(criterion.forward)
    if len(needed) != 2:
        raise DeclarationError(
            f"got {name}, which is called with ({', '.join(needed)}); allowed: a criterion of (output, target); write "
            "a function (model, batch) -> per-example losses",
            "loss",
        )
    smoothing = getattr(criterion, "label_smoothing", 0.0)
    if (
        isinstance(criterion, _BY_CLASS)
        and smoothing
        and criterion.weight is not None
        and (criterion.weight == 0).any()
    ):
        raise DeclarationError(
            f"got {name} with a class of weight 0 and label smoothing, which gives loss without weight; allowed: one "
            "of them",
            "loss",
        )
    if criterion.reduction == "sum":
        notice(
            f"loss: the reduction 'sum' of {name} is taken over: gradients are divided by the number of units, so a "
            "learning rate that was found for the sum has to be multiplied by it."
        )
    unreduced = copy.deepcopy(criterion)
    unreduced.reduction = "none"
    return FromCriterion(unreduced, summed=criterion.reduction == "batchmean")


def _required(function: Any) -> list[str]:
    """Names of the arguments without which `function` cannot be called."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(function).parameters.values()
    return [p.name for p in found if p.default is p.empty and p.kind in kinds]


def _printed(criterion: nn.Module) -> str:
    """Class and settings, which torch's own printed form leaves out."""
    settings = {name: value for name, value in vars(criterion).items() if name not in ("training", "reduction")}
    plain = {n: v for n, v in settings.items() if not n.startswith("_") and v is not None}
    tensors = {n: _contents(t) for n, t in [*criterion.named_buffers(), *criterion.named_parameters()]}
    items = [f"{name}={value}" for name, value in sorted((plain | tensors).items())]
    return f"{type(criterion).__name__}({', '.join(items)})"


def _contents(tensor: Tensor) -> str:
    if tensor.numel() <= 16:
        return str(tensor.tolist())
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"<{'x'.join(map(str, tensor.shape))} {hashlib.sha256(content).hexdigest()[:8]}>"
