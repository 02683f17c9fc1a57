"""Cross-entropy of classes, with label smoothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from regimes.core.card import Card
from regimes.core.component import fixed, knob
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.core.unit_losses import UnitLosses
from regimes.losses.forward import OutputLoss, drawn_classes, kept, per_position


@register
class CrossEntropy(OutputLoss):
    r"""Negative log-likelihood of the target class, one unit per target.

    With p = softmax(output), K classes and e = label_smoothing

    .. math:: \ell_i = -(1 - e) \log p_{i, y_i} - \frac{e}{K} \sum_k \log p_{i,k}

    Output (n, K) with targets (n,) gives one unit per example; output (n, K, d1, ...) with targets (n, d1, ...) one
    per position. Targets may be probabilities, in the shape of the output.

    Parameters
    ----------
    label_smoothing : knob
        e in [0, 1]. Default 0.
    ignore : int
        Target that counts as nothing: its units have weight 0. Default -100, torch's.

    Raises
    ------
    DeclarationError
        If the classes come last, as language models put them: `NextToken` is the loss for that.

    References
    ----------
    C. Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, arXiv:1512.00567, section 7.

    Examples
    --------
    >>> import torch
    >>> losses = CrossEntropy().per_unit(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 0]))
    >>> [round(v, 4) for v in losses.values.tolist()]
    [0.6931, 0.1269]
    """

    label_smoothing: Knob = knob(0.0, low=0, high=1)
    ignore: int = fixed(-100)

    criterion_class = nn.CrossEntropyLoss
    card = Card(
        title="Cross-entropy of classes",
        axes=("regime",),
        source="Szegedy et al. 2016, arXiv:1512.00567 (label smoothing)",
        when="Classification.",
        defaults={"ignore": "-100, torch's"},
    )

    def per_unit(self, output: Tensor, target: Tensor) -> UnitLosses:
        """Loss of each target; output (n, classes, ...)."""
        if output.ndim > 2 and output.shape[:-1] == target.shape != output.shape[:1] + output.shape[2:]:
            raise DeclarationError(
                f"got an output of shape {tuple(output.shape)} for targets of shape {tuple(target.shape)}, whose classes "
                "come last; allowed: (n, classes, ...), or for tokens loss=NextToken()",
                "loss",
            )
        values = functional.cross_entropy(
            output, target, reduction="none", label_smoothing=self.label_smoothing, ignore_index=self.ignore
        )
        counts = None if target.is_floating_point() else kept(target, self.ignore)
        return per_position(values, None if counts is None else counts.to(values.dtype))

    def logits(self, output: Tensor, target: Tensor) -> Tensor:
        """Logits of every target."""
        rows = output.movedim(1, -1)
        return rows.reshape(-1, rows.shape[-1])

    def per_unit_drawn(self, output: Tensor, target: Tensor, generator: torch.Generator) -> UnitLosses:
        """Loss, without smoothing (which has the same curvature), of classes drawn from softmax(output)."""
        logits = output.movedim(1, -1)  # (n, d1, ..., classes)
        if target.is_floating_point():  # probabilities: none is ignored
            target = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device).fill_(self.ignore - 1)
        flat = drawn_classes(logits.reshape(-1, logits.shape[-1]), target.reshape(-1), self.ignore, generator)
        return self.with_values({"label_smoothing": 0.0}).per_unit(output, flat.view(logits.shape[:-1]))
