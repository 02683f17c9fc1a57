"""The linear head in closed form, batch after batch: ridge regression on everything seen, of which nothing is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError, NonFinite, UserCodeError, nearest
from regimes.core.kinds import Optimizer, State
from regimes.core.registry import register
from regimes.optimizers.layers import Layer


@register
class RecursiveRidge(Optimizer):
    r"""Solve for one linear layer: after every step its weights are those of ridge regression on all rows so far.

    With the rows that the layer's inputs make, Phi (rows, features; a 1 behind where there is a bias), and the targets
    Y (rows, outputs; one-hot of labels) of one step

    .. math::
        R &\leftarrow R - R \Phi^\top (I + \Phi R \Phi^\top)^{-1} \Phi R, \qquad R_0 = I / \gamma \\
        W &\leftarrow W + R \Phi^\top (Y - \Phi W), \qquad W_0 = 0

    so that R = (Phi^T Phi + gamma I)^-1 and W = R Phi^T Y of all rows that were ever seen, in whatever order and batches
    they came: nothing is forgotten, and no example is kept. The outputs of classes that have not come yet are 0.

    Parameters
    ----------
    gamma : float
        Weight of the penalty gamma ||W||^2, the bias included. Default 0.1, the authors' code's.
    head : str or None
        Name of the layer's module. Default: the last linear layer of the model that is trained.

    Notes
    -----
    All other parameters stay as they are, and the forward is that of evaluation mode (no dropout, running statistics
    as they are), so that the layer's inputs are a fixed function of the example. An example that comes twice counts
    twice: train for one epoch. A row counts by its weight in the loss (padding 0; importance weights, selections),
    which makes the regression a weighted one; of a row of several units by their mean. Targets that are not whole
    numbers are regressed on as they are, and so are those of a layer with one output. R and W are held in float64,
    (features + outputs) * features numbers. To go on in the next phase of a stream, carry "model" and "optimizer".

    Raises
    ------
    DeclarationError
        On meeting a model, if no linear layer is trained or none is called so, or if the layer's bias is not trained.
    UserCodeError
        While training, if inputs, targets and losses do not belong to the same rows.

    References
    ----------
    H. Zhuang et al., GACL: Exemplar-Free Generalized Analytic Continual Learning, NeurIPS 2024, arXiv:2403.15706 (first
    as G-ACIL).

    Examples
    --------
    >>> R, W = torch.eye(2, dtype=torch.float64) / 0.5, torch.zeros(2, 1, dtype=torch.float64)
    >>> rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    >>> R, W = absorbed(R, W, rows, torch.tensor([[1.0], [1.0]], dtype=torch.float64))
    >>> W.flatten()  # 1 / (1 + 0.5) and 2 / (4 + 0.5)
    tensor([0.6667, 0.4444], dtype=torch.float64)
    """

    gamma: float = fixed(0.1, above=0)
    head: str | None = fixed(None)

    single_evaluation = False
    uses_gradients = False
    exempt = {"moves the weights": "a head of which only the weight is trained is refused: its bias would shift scores"}
    card = Card(
        title="A linear head solved for, batch after batch",
        axes=("order", "distribution"),
        source="Zhuang et al. 2024, arXiv:2403.15706; its code",
        when="A stream of classes over a frozen backbone, of which no example may be kept.",
        cost="a forward, no backward; products with a matrix of features x features in float64",
        shelf="atlas",
        rows=("g-acil-recursive-ridge",),
        defaults={"gamma": "0.1, the authors' code"},
        deviations=(
            "The fixed random expansion in front of the head belongs to the model, here `models.RandomFeatures`.",
            "Where a step has more rows than features the smaller side is inverted, R (I + Phi^T Phi R)^-1.",
            "Rows are weighted by their losses' weights, and a bias is a feature; the paper has neither.",
            "Inputs are those of evaluation mode; the paper's backbone has neither dropout nor batch statistics.",
        ),
        claims=(
            Claim(
                "After one pass over ten blurry parts, class after class, the head is right more often than after SGD on the "
                "same batches, where 20 points are what matters; rate and gamma are tuned alike.",
                {
                    "workload": "digits_stream",
                    "compare": {
                        "baseline": "sgd",
                        "metric": "acc",
                        "better": "higher",
                        "margin": 0.2,
                        "seeds": 12,
                        "trials": 8,
                    },
                    "tune": {"*.optimizer.[lg]*": "times(1/32, 32)"},
                    "arms": {
                        "sgd": {
                            "optimizer": "SGD(lr=0.3)",
                            "batch_size": 17,
                            "sampler": "Sequential()",
                            "budget": "1 epochs",
                        },
                        "ridge": {"like": "sgd", "optimizer": "RecursiveRidge()"},
                    },
                },
                paper_scale="CIFAR-100, ImageNet-R and Tiny-ImageNet over a frozen vision transformer",
            ),
        ),
    )

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """R = I / gamma and W = 0, under the name of the layer's weight."""
        layer = self._layer(parameters)
        weight = parameters[layer.weight]
        outputs, features = weight.shape[0], weight.shape[1] + (layer.bias is not None)
        options: Any = {"dtype": torch.float64, "device": weight.device}
        inverse = torch.eye(features, **options) / self.gamma
        return {"slots": {layer.weight: {"inverse": inverse, "solution": torch.zeros(features, outputs, **options)}}}

    def _layer(self, parameters: Mapping[str, Tensor]) -> Layer:
        found = {layer.module: layer for layer in getattr(parameters, "layers", ()) if layer.unfold is None}
        if not found:
            raise DeclarationError("RecursiveRidge solves for a linear layer, and none is trained here")
        name = [*found][-1] if self.head is None else self.head
        if name not in found:
            raise DeclarationError(f"no linear layer '{name}' is trained; {nearest(name, found)}", "head")
        layer = found[name]
        if layer.bias is not None and layer.bias not in parameters:
            raise DeclarationError(
                f"got '{name}', whose bias is not trained and would shift what is solved for; allowed: "
                f"trainable=['{name}.*'], or a layer without bias",
                "head",
            )
        return layer

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """One forward; its rows move R and W, and W is written into the layer."""
        layer = self._layer(parameters)
        seen = f"input:{layer.module}"
        captured = evaluate(grad=False, capture=[seen, "target", "weight"], training=False).captured
        slot, weight = state["slots"][layer.weight], parameters[layer.weight]
        with torch.no_grad():
            rows, targets = _weighted_rows(layer, captured[seen], captured["target"], captured["weight"], len(weight))
            inverse, solution = absorbed(slot["inverse"], slot["solution"], rows, targets)
            if not (bool(inverse.isfinite().all()) and bool(solution.isfinite().all())):
                raise NonFinite("ridge regression", (), layer.module)
            state["slots"][layer.weight] = {"inverse": inverse, "solution": solution}
            weight.copy_(solution[: weight.shape[1]].T)
            if layer.bias is not None:
                parameters[layer.bias].copy_(solution[-1])
        return state


def absorbed(inverse: Tensor, solution: Tensor, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return (R, W) with these rows taken in; the smaller side of `rows` is inverted.

    Parameters
    ----------
    inverse : Tensor, shape (features, features)
        R, symmetric.
    solution : Tensor, shape (features, outputs)
        W.
    rows : Tensor, shape (rows, features)
        Phi.
    targets : Tensor, shape (rows, outputs)
        Y.
    """
    wrong = targets - rows @ solution
    if len(rows) <= len(inverse):
        side = inverse @ rows.T  # (features, rows)
        between = torch.eye(len(rows), dtype=rows.dtype, device=rows.device) + rows @ side
        gain = torch.linalg.solve(between, side.T).T  # R Phi^T with the new R
        inverse = inverse - gain @ side.T
        solution = solution + gain @ wrong
    else:
        between = torch.eye(len(inverse), dtype=rows.dtype, device=rows.device) + inverse @ (rows.T @ rows)
        inverse = torch.linalg.solve(between, inverse)
        solution = solution + inverse @ (rows.T @ wrong)
    return (inverse + inverse.T) / 2.0, solution


def _weighted_rows(
    layer: Layer, inputs: Sequence[Tensor], targets: Sequence[Any], weights: Sequence[Tensor], outputs: int
) -> tuple[Tensor, Tensor]:
    """Phi and Y of a step in float64, each row times the root of its weight."""
    parts = []
    for x, target, weight in zip(inputs, targets, weights):
        rows = layer.inputs(x).double()
        if layer.bias is not None:
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
        root = _per_row(weight.double(), len(rows), layer).sqrt()[:, None]
        parts.append((root * rows, root * _wanted(target, len(rows), outputs, layer)))
    return torch.cat([rows for rows, _ in parts]), torch.cat([wanted for _, wanted in parts])


def _wanted(target: Any, rows: int, outputs: int, layer: Layer) -> Tensor:
    """Y of one forward, shape (rows, outputs): one-hot of labels, numbers as they are; zeros for what is no class."""
    if isinstance(target, Tensor) and not target.is_floating_point() and outputs > 1 and target.numel() == rows:
        labels = target.reshape(-1)
        classes = torch.arange(outputs, device=labels.device)
        return (labels[:, None] == classes).double()
    if isinstance(target, Tensor) and target.numel() == rows * outputs:
        return target.reshape(rows, outputs).double()
    got = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
    raise UserCodeError(
        f"got targets of shape {got} for {rows} inputs of '{layer.module}', which has {outputs} outputs; allowed: a label "
        f"or {outputs} numbers for each"
    )


def _per_row(weight: Tensor, rows: int, layer: Layer) -> Tensor:
    """The weight of each row: its unit's, the mean of its several units', or that of a unit of several rows."""
    if len(weight) and len(weight) % rows == 0:
        return weight.reshape(rows, -1).mean(1)
    if len(weight) and rows % len(weight) == 0:
        return weight.repeat_interleave(rows // len(weight))
    raise UserCodeError(f"got {len(weight)} losses for {rows} inputs of '{layer.module}'; allowed: one loss for each")
