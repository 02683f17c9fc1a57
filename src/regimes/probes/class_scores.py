"""The logits that a loss turns into probabilities of classes, with their targets: heard at torch's cross-entropy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from regimes.core.calls import Calls, given
from regimes.core.errors import DeclarationError
from regimes.probes.view import View


def class_scores(view: View) -> tuple[Tensor, Tensor]:
    """Return logits, shape (units, classes), and target classes, shape (units,), of the step's batch, in float64.

    They are what the loss gives ``torch.nn.functional.cross_entropy`` (``nn.CrossEntropyLoss`` calls it, `NextToken` and
    `CrossEntropy`, and the models of transformers); ignored targets are left out, and several calls are joined.

    Raises
    ------
    DeclarationError
        If the loss calls it with no classes as targets.
    """
    found: list[tuple[Tensor, Tensor]] = []

    def hear(function: Any, args: Any, kwargs: Any) -> Any:
        output, target = given(args, kwargs, 0, "input"), given(args, kwargs, 1, "target")
        if not target.is_floating_point():
            logits = output.detach().movedim(1, -1) if output.ndim > 1 else output.detach()
            flat, places = logits.reshape(-1, logits.shape[-1]).double(), target.reshape(-1)
            kept = places != given(args, kwargs, 4, "ignore_index", -100)
            found.append((flat[kept], places[kept]))
        return function(*args, **kwargs)

    with torch.no_grad(), Calls({functional.cross_entropy: hear}):
        view.losses()
    if not found:
        raise DeclarationError(
            "never calls torch.nn.functional.cross_entropy with classes as targets, where logits are heard", "loss_fn"
        )
    if len({logits.shape[1] for logits, _ in found}) > 1:
        raise DeclarationError("calls torch.nn.functional.cross_entropy with different numbers of classes", "loss_fn")
    return torch.cat([logits for logits, _ in found]), torch.cat([target for _, target in found])
