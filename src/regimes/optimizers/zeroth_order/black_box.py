"""BlackBox: a function without a gradient as a layer of a network, whose backward asks it for values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from regimes.core.card import Card, Claim, described
from regimes.core.errors import DeclarationError, UserCodeError, show
from regimes.optimizers.zeroth_order.estimators import CoordinateDifferences, Estimator

_SCALE = "digits, latent 8 of 64, sigma 0.5, 16 queries an example and step, 300 steps"


@described(
    Card(
        title="A black box as a layer, with a backward from function values",
        axes=("phases",),
        source="Zhang et al. 2022, How to Robustify Black-Box ML Models?, arXiv:2203.14195; its code",
        when="What stands behind a trained layer can only be asked: a service, a simulator, somebody's model.",
        cost="as many calls as the estimator asks for, in each backward",
        shelf="atlas",
        rows=("zo-ae-ds-black-box-defence",),
        deviations=(
            "The estimate is of the layer's product with the gradient at its output; the paper moves the latent and reads the "
            "loss. Both agree where the loss is linear in the output, else up to a multiple of mu.",
            "Random directions are normal; the authors' code gives them length 1 and multiplies by the dimension.",
            "There is no recipe of its own for denoised smoothing, and no probe of the certified radius.",
        ),
        claims=(
            Claim(
                "A classifier that can only be asked is more often right on noisy digits behind a denoiser and an encoder that "
                "are trained through its decoder by coordinates of the latent than behind a denoiser that is trained by random "
                "directions of pixels, with as many queries: by five points, each at the best of three rates.",
                {"seeds": 8, "margin": 0.05, "scale": _SCALE},
                paper_scale="ResNet-110 on CIFAR-10, latent 192 of 3,072, 192 queries",
                measure="regimes.claims.black_box:latent_or_pixels",
            ),
            Claim(
                "They are trained as well by these queries as by the true gradient, within five points.",
                {"seeds": 8, "margin": 0.05, "scale": _SCALE},
                paper_scale="ResNet-110 on CIFAR-10: the first-order ceiling is about 8 points above",
                says="not worse",
                measure="regimes.claims.black_box:latent_or_gradient",
            ),
        ),
    )
)
class BlackBox(nn.Module):
    r"""Pass inputs through a function that can only be asked, and gradients back through estimates.

    With v the gradient at the output, each row's gradient at the input is estimated from values of

    .. math:: f(x) = \langle \mathrm{query}(x), v \rangle

    all rows at once: a direction costs one call with as many rows as the batch. Evaluation costs one call.

    Parameters
    ----------
    query : callable
        ``query(x)`` with x of shape (n, ...) returns a tensor of n rows of real numbers, each a function of its own row
        alone. Parameters inside are nobody's: they are not this layer's, not trained, moved or saved with it.
    estimator : Estimator
        `CoordinateDifferences` (exact where `query` is linear) or `RandomDirections`, whose directions come from torch's
        global generator. Default: all coordinates of a row.

    Raises
    ------
    DeclarationError
        If `query` cannot be called, or the estimator is none or has a mu that varies.
    UserCodeError
        In a forward, if `query` returns no such tensor.

    References
    ----------
    Y. Zhang et al., How to Robustify Black-Box ML Models? A Zeroth-Order Optimization Perspective, ICLR 2022,
    arXiv:2203.14195.

    Examples
    --------
    >>> box = BlackBox(lambda x: torch.from_numpy((x.numpy() ** 2).sum(1)), CoordinateDifferences(mu=0.5, central=True))
    >>> x = torch.tensor([[1.0, 3.0], [0.0, -2.0]], requires_grad=True)
    >>> box(x).sum().backward()
    >>> x.grad
    tensor([[ 2.,  6.],
            [ 0., -4.]])
    """

    query: Callable[[Tensor], Tensor]
    estimator: Estimator

    def __init__(self, query: Callable[[Tensor], Tensor], estimator: Estimator | None = None) -> None:
        super().__init__()
        estimator = CoordinateDifferences() if estimator is None else estimator
        if not callable(query):
            raise DeclarationError(f"got {show(query)}; allowed: a function of a tensor", "query")
        if not isinstance(estimator, Estimator):
            raise DeclarationError(f"got {show(estimator)}; allowed: CoordinateDifferences() ...", "estimator")
        if not isinstance(estimator.mu, int | float):
            raise DeclarationError(f"got {estimator.mu!r}; allowed here: a number", "estimator.mu")
        # Not as a submodule: what is inside of a black box is not seen.
        self.__dict__["query"] = query
        self.estimator = estimator

    def forward(self, x: Tensor) -> Tensor:
        """Ask for the rows of `x`."""
        found: Tensor = _Asked.apply(x, self.query, self.estimator)
        return found


class _Asked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, query: Any, estimator: Estimator) -> Tensor:
        found = _ask(query, x)
        ctx.save_for_backward(x, found)
        ctx.query, ctx.estimator = query, estimator
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, found = ctx.saved_tensors
        point = x.detach().clone()

        def value(output: Tensor | None = None) -> Tensor:
            output = _ask(ctx.query, point) if output is None else output
            return (output * gradient).reshape(len(output), -1).sum(1)

        return ctx.estimator.estimate(value, [point], base=value(found), rows=True)[0], None, None


def _ask(query: Any, x: Tensor) -> Tensor:
    """What `query` says; its argument is a copy, which it may keep."""
    found = query(x.clone())
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.shape[:1] != x.shape[:1]:
        got = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UserCodeError(f"got {got} from `query`; allowed: a tensor of {len(x)} rows of real numbers")
    return found
