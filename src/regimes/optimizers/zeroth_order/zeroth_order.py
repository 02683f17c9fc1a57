"""ZerothOrder: any rule on gradients that are estimated from function values alone (DeepZero)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.kinds import Optimizer, State
from regimes.core.registry import register
from regimes.optimizers.given import Given, refuse_several
from regimes.optimizers.zeroth_order.estimators import CoordinateDifferences, Estimator
from regimes.optimizers.zeroth_order.zo_grasp import zo_grasp_layer_ratios


@register
class ZerothOrder(Optimizer):
    r"""Estimate the gradient of the step's batch by forwards alone, and let the base rule use it as its own.

    By default as DeepZero does: along single coordinates of the matrices and kernels, a tenth of them, drawn anew in each
    step, and along every other coordinate (biases, norms). How many of the tenth lie in each layer is settled in the first
    step, by `zo_grasp_layer_ratios`. With all coordinates the estimate is off by mu H_ii / 2 to first order.

    Every forward of a step sees the same examples and the same dropout masks; batch norm uses the batch's statistics,
    and keeps those of the first forward.

    Parameters
    ----------
    base : Optimizer
        The rule, or Groups, that makes the step; it evaluates once.
    estimator : Estimator
        `CoordinateDifferences` or `RandomDirections`. Default: differences of a share of 0.1 of the coordinates, the paper's
        sparsity of 90%, with mu 5e-3.
    grasp_queries : int
        Directions of each of the two estimates from which the layers' shares follow. Default 192, the authors' code; at 0
        every layer has the same share.

    Notes
    -----
    A step takes as many forwards as the estimator asks for, and one: for d coordinates d + 1. Weights return to the bit
    after each. Gradient transforms see no gradient and are refused, as with any rule that asks for none.

    Raises
    ------
    DeclarationError
        If the base rule does more than one plain evaluation.

    References
    ----------
    A. Chen et al., DeepZero: Scaling up Zeroth-Order Optimization for Deep Model Training, ICLR 2024, arXiv:2310.02025.

    Examples
    --------
    >>> from regimes.optimizers import SGD, RandomDirections
    >>> ZerothOrder(SGD(lr=0.1, momentum=0.9))  # DeepZero
    ZerothOrder(SGD(lr=0.1, momentum=0.9))
    >>> ZerothOrder(SGD(lr=0.1), RandomDirections(64, mu=1e-3))
    ZerothOrder(SGD(lr=0.1), estimator=RandomDirections(queries=64, mu=0.001))
    """

    base: Optimizer = fixed()
    estimator: Estimator = fixed(CoordinateDifferences(0.1))
    grasp_queries: int = fixed(192, low=0)

    single_evaluation = False
    uses_gradients = False
    card = Card(
        title="Any rule on gradients from function values alone (DeepZero)",
        axes=("rates",),
        source="Chen et al. 2024, arXiv:2310.02025; its code",
        when="A backward is missing: a simulator, a quantized chip or a foreign function lies in the loss.",
        cost="a forward for each coordinate or direction, no backward",
        shelf="atlas",
        rows=("deepzero",),
        defaults={
            "estimator": "a tenth of the coordinates, the paper's sparsity of 90%; mu 5e-3, the authors' code",
            "grasp_queries": "192, the authors' code",
        },
        deviations=(
            "Coordinates are drawn anew in each step; the authors' code draws them every five epochs.",
            "Of ZO-GraSP's scores the highest are removed, as the paper says; the code keeps those of largest size.",
            "ZO-GraSP's two estimates share their directions, normal over all weights, and see the first step's batch; the "
            "code draws anew, gives each tensor a direction of its own of length mu, and takes 25 examples a class.",
            "Features are not reused: a forward begins at the input, as a rule is handed no model of which it could run a "
            "part. Forwards of a step are not dealt to several processes.",
        ),
        claims=(
            Claim(
                "After 40 steps on the whole of the data the coordinates of a tenth of the weights have led to a higher test "
                "accuracy than as many random directions, by three points, each at the best of three rates.",
                {"seeds": 5, "margin": 0.03, "scale": "digits, 1,210 weights, 40 steps, 155 forwards a step"},
                paper_scale="ResNet-20 on CIFAR-10",
                measure="regimes.claims.function_values:accuracies",
            ),
            Claim(
                "Over these steps the estimate from single coordinates points as near to the gradient as that from as many "
                "random directions, within 0.02 of the cosine.",
                {"seeds": 5, "margin": 0.02, "scale": "digits, 1,210 weights, 40 steps, 155 forwards a step"},
                paper_scale="ResNet-20 on CIFAR-10",
                says="not worse",
                measure="regimes.claims.function_values:cosines",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[ZerothOrder]:
        """Instances that need few forwards."""
        from regimes.optimizers.tensorwise.sgd import SGD
        from regimes.optimizers.zeroth_order.estimators import RandomDirections

        base = SGD(lr=0.05, momentum=0.9)
        return [cls(base, grasp_queries=0), cls(base, grasp_queries=2), cls(base, RandomDirections(3))]

    def validate(self) -> None:
        """Refuse a base rule that evaluates more than once."""
        refuse_several(self.base, "ZerothOrder", "base")

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """The base rule's state, and the layers' shares, which the first step settles."""
        return super().init(parameters) | {"shares": None}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Forwards around the present weights, and the base rule's step with what they say."""
        first = evaluate(grad=False)

        def loss() -> float:
            value: float = evaluate(grad=False).loss
            return value

        shares: Any = state["shares"]
        more: dict[str, Any] = {}
        if isinstance(self.estimator, CoordinateDifferences) and self.estimator.share < 1.0:
            if shares is None:
                shares = self._shares(parameters, loss, evaluate)
            more["shares"] = [shares.get(name, 1.0) for name in parameters]
        found = self.estimator.estimate(
            loss, list(parameters.values()), evaluate.rng("estimate"), base=first.loss, moved=evaluate.moved, **more
        )
        state["shares"] = shares
        given = Given(evaluate, first._replace(gradients=tuple(found)), "base")
        state["base"] = self.base.step(state["base"], parameters, given)
        return state

    def _shares(self, parameters: Mapping[str, Tensor], loss: Any, evaluate: Any) -> dict[str, float]:
        """What of each layer's weights is asked for in every step; a layer is what has a matrix or a kernel."""
        weights = {name: p for name, p in parameters.items() if p.ndim > 1}
        estimator: Any = self.estimator
        if not self.grasp_queries or len(weights) < 2:
            return dict.fromkeys(weights, estimator.share)
        return zo_grasp_layer_ratios(
            loss, weights, estimator.share, evaluate.rng("grasp"), queries=self.grasp_queries, mu=estimator.mu,
            moved=evaluate.moved,
        )  # fmt: skip

    def evaluation_weights(self, state: State, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those of the base rule."""
        return self.base.evaluation_weights(state["base"], parameters)

    def shared_evaluation_weights(self) -> bool:
        """As the base rule."""
        return self.base.shared_evaluation_weights()
