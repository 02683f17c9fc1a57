"""The loss of a batch in a script: torch's functional form where it is one, else the workload's own loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from regimes.core.errors import DeclarationError, show
from regimes.ejection.text import Lines, call, literal
from regimes.losses import BCE, MSE, CrossEntropy, NextToken
from regimes.losses.forward import TARGETS

PLAIN = (BCE, MSE, CrossEntropy, NextToken)


class LossText:
    """How a script gets unit losses from a batch.

    Parameters
    ----------
    loss : Loss
        With symbols in place of the numbers that vary.
    batch : Any
        One that shows what batches look like.
    printed : str
        The expression for the loss where it is no functional of torch.
    ignores : bool
        Whether targets may count as nothing.
    """

    def __init__(self, loss: Any, batch: Any, printed: str, ignores: bool = False) -> None:
        self.loss, self.batch, self.printed = loss, batch, printed
        self.plain = type(loss) in PLAIN
        self.ignores = ignores and self.plain
        self.target, self.output, self.unpacked = self._parts()

    def _parts(self) -> tuple[str, str, str]:
        """What the target, the output and the whole batch are called."""
        batch = self.batch
        if not self.plain:
            return "", "", "batch"
        if isinstance(batch, tuple | list) and not hasattr(batch, "_fields") and len(batch) >= 2:
            if len(batch) == 2:
                return "y", "model(x)", "x, y"
            return "y", "model(*inputs)", "*inputs, y"
        if isinstance(batch, Mapping):
            target = next(name for name in TARGETS if name in batch)
            inputs = [f"{name}=batch[{literal(name)}]" for name in batch if name != target]
            return f"batch[{literal(target)}]", f"model({', '.join(inputs)})", "batch"
        raise DeclarationError(
            f"got a batch {show(batch)}; allowed in a script: tuples whose last part is the target, and dicts", "train"
        )

    @property
    def tuple_of(self) -> str:
        """The batch again as one value, for what changes it whole."""
        return "(x, y)" if self.unpacked == "x, y" else "(*inputs, y)" if self.unpacked == "*inputs, y" else "batch"

    def write(self, text: Lines, values: Tensor, output: str = "") -> None:
        """Assign the losses of the units to ``losses``; of `values` only the form counts."""
        if self.plain:
            text.add(f"losses = {self._functional(values, output or self.output)}")
        else:
            text.add(f"units = {self.printed}(model, {self.tuple_of})")
            text.add("losses = units.values" + ("" if values.ndim == 1 else ".flatten()"))

    def _functional(self, values: Tensor, output: str) -> str:
        loss, target = self.loss, self.target
        if isinstance(loss, CrossEntropy | NextToken):
            options = "" if loss.ignore == -100 else f", ignore_index={loss.ignore}"
            if isinstance(loss, NextToken):
                return f'F.cross_entropy({output}.flatten(0, 1), {target}.flatten(), reduction="none"{options})'
            smoothing = getattr(loss, "label_smoothing", 0.0)
            options += "" if smoothing == 0.0 else f", label_smoothing={smoothing!r}"
            flat = (
                ".flatten()" if self._target_tensor().ndim > 1 and not self._target_tensor().is_floating_point() else ""
            )
            return f'F.cross_entropy({output}, {target}, reduction="none"{options}){flat}'
        mean = ".flatten(1).mean(1)" if self._target_tensor().ndim > 1 else ""
        if isinstance(loss, MSE):
            return f"({output} - {target}).square(){mean}"
        cast = "" if self._target_tensor().is_floating_point() else ".float()"
        return f'F.binary_cross_entropy_with_logits({output}, {target}{cast}, reduction="none"){mean}'

    def _target_tensor(self) -> Tensor:
        return (
            self.batch[next(n for n in TARGETS if n in self.batch)]
            if isinstance(self.batch, Mapping)
            else self.batch[-1]
        )

    def counted(self) -> str:
        """How many units of a batch count, where not all do."""
        return f"({self.target} != {self.loss.ignore}).sum().item()"


def of_phase(own: Any) -> LossText:
    """Return how the loss of a phase is written."""
    facts, declared = own.facts, own.facts.declared
    loss = own.live.loss if declared.loss is not None else facts.run.workload.loss
    printed = "work.loss" if declared.loss is None or type(loss) in PLAIN else call(loss)
    return LossText(loss, facts.batch, printed, facts.may_ignore())
