"""Gradients from function values alone: coordinate by coordinate, or along random directions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import Component, fixed, knob
from regimes.core.kinds import Knob
from regimes.core.registry import register

#: A context inside which ``move(scale)`` has been applied, and after which ``move(-scale)``.
Moved = Callable[[Callable[[float], None], float], contextlib.AbstractContextManager[None]]
#: What a function says of its arguments' present values: a number, or one for each row, shape (rows,).
Value = float | Tensor


@contextlib.contextmanager
def moved(move: Callable[[float], None], scale: float) -> Iterator[None]:
    """Inside, ``move(scale)`` has been applied; afterwards ``move(-scale)``, whatever happened."""
    move(scale)
    try:
        yield
    finally:
        move(-scale)


class Direction(NamedTuple):
    """A direction d in which a function's arguments are moved.

    Parameters
    ----------
    move : callable
        ``move(scale)`` adds scale * d in place; called again, it puts back what was there, to the bit.
    add : callable
        ``add(gradients, slope)`` adds what a slope along d says of the gradient; the slope has the form of `Value`.
    """

    move: Callable[[float], None]
    add: Callable[[Sequence[Tensor], Value], None]


class Estimator(Component):
    r"""Estimates a gradient from function values.

    With directions d of a subclass, forward and central differences are

    .. math:: s_d = \frac{f(x + \mu d) - f(x)}{\mu}, \qquad s_d = \frac{f(x + \mu d) - f(x - \mu d)}{2 \mu}

    Subclasses give `directions`, or `estimate` itself.
    """

    kind = "estimator"

    mu: Knob = knob(5e-3, above=0, kw_only=True)
    central: bool = fixed(False, kw_only=True)

    def directions(
        self, tensors: Sequence[Tensor], generator: torch.Generator | None, rows: bool
    ) -> Iterator[Direction]:
        """Yield the directions of one estimate, each used before the next is asked for."""
        raise NotImplementedError(f"{type(self).__name__} gives no directions")

    @torch.no_grad()
    def estimate(
        self,
        function: Callable[[], Value],
        tensors: Sequence[Tensor],
        generator: torch.Generator | None = None,
        *,
        base: Value | None = None,
        rows: bool = False,
        moved: Moved = moved,
        **more: Any,
    ) -> list[Tensor]:
        """Return the estimated gradient, one tensor for each argument.

        Parameters
        ----------
        function : callable
            ``function()`` evaluates at the values that `tensors` hold when it is called; they are moved in place, and put
            back to the bit.
        tensors : sequence of Tensor
            The arguments.
        generator : torch.Generator, optional
            Draws what is random; default torch's global one.
        base : float or Tensor, optional
            The function's value here, where it is known already; central differences do not ask for it.
        rows : bool
            Whether each row of the tensors is an argument of its own: the function then gives a value a row, and the
            directions of all rows are tried in one call.
        moved : callable
            The context in which the arguments are elsewhere (`Evaluator.moved` inside a rule).
        **more
            What `directions` takes beside.
        """
        mu, width = self.mu, 2.0 * self.mu if self.central else self.mu
        other: Any = function() if base is None and not self.central else base
        gradients = [torch.zeros_like(t) for t in tensors]
        for direction in self.directions(tensors, generator, rows, **more):
            with moved(direction.move, mu):
                there = function()
            if self.central:
                with moved(direction.move, -mu):
                    other = function()
            direction.add(gradients, (there - other) / width)
        return gradients


@register
class CoordinateDifferences(Estimator):
    r"""Difference quotients along the coordinates, of all of them or of a random share.

    .. math:: \hat g_i = \frac{f(x + \mu e_i) - f(x)}{\mu} \text{ for } i \in S, \text{ else } 0

    which is the gradient where f is linear, and off by mu H_ii / 2 where it is quadratic with Hessian H; central differences
    are exact there. It takes \|S\| + 1 values, central differences 2 \|S\|.

    Parameters
    ----------
    share : float
        How many of the coordinates of each tensor are in S, drawn anew in each estimate. Default 1: all.
    mu : knob
        The difference mu, in the unit of the arguments. Default 5e-3, DeepZero's code.
    central : bool
        Default False, DeepZero's; the code of AE-DS takes central differences.

    References
    ----------
    A. Chen et al., DeepZero: Scaling up Zeroth-Order Optimization for Deep Model Training, ICLR 2024, arXiv:2310.02025;
    Y. Zhang et al., How to Robustify Black-Box ML Models?, ICLR 2022, arXiv:2203.14195.

    Examples
    --------
    >>> x = torch.tensor([1.0, 3.0], dtype=torch.float64)
    >>> CoordinateDifferences(mu=0.5).estimate(lambda: x.square().sum(), [x])  # 2 x + mu
    [tensor([2.5000, 6.5000], dtype=torch.float64)]
    >>> CoordinateDifferences(mu=0.5, central=True).estimate(lambda: x.square().sum(), [x])
    [tensor([2., 6.], dtype=torch.float64)]
    """

    share: float = fixed(1.0, above=0, high=1)

    card = Card(
        title="A gradient from differences along coordinates",
        axes=("rates",),
        source="Chen et al. 2024, arXiv:2310.02025; Zhang et al. 2022, arXiv:2203.14195",
        when="Few coordinates, or a part of many: no noise of directions.",
        cost="a function value for each coordinate, two where they are central",
        shelf="atlas",
        defaults={"mu": "5e-3, DeepZero's code"},
        deviations=("A share of each tensor's coordinates, not of those of all tensors together.",),
    )

    def directions(
        self,
        tensors: Sequence[Tensor],
        generator: torch.Generator | None,
        rows: bool,
        shares: Sequence[float] | None = None,
    ) -> Iterator[Direction]:
        """Yield the coordinates of S; `shares` gives each tensor one of its own."""
        for place, t in enumerate(tensors):
            shape = t.shape[1:] if rows else t.shape
            chosen = _chosen(shape.numel(), self.share if shares is None else shares[place], generator)
            for where in zip(*[axis.tolist() for axis in torch.unravel_index(chosen, shape or (1,))]):
                yield _coordinate(t, place, ((slice(None),) if rows else ()) + where[: len(shape)])


@register
class RandomDirections(Estimator):
    r"""Difference quotients along directions u ~ N(0, I), averaged.

    .. math:: \hat g = \frac1q \sum_{k=1}^q \frac{f(x + \mu u_k) - f(x)}{\mu} u_k

    It is unbiased for the gradient of f blurred by mu N(0, I), so of any quadratic, and takes q + 1 values, 2 q with
    central differences.

    Parameters
    ----------
    queries : int
        q, the number of directions. Default 192, what DeepZero's code takes for its pruning scores.
    mu : knob
        The length of a step in units of u. Default 5e-3, DeepZero's code.
    central : bool
        Default False.

    References
    ----------
    Y. Nesterov and V. Spokoiny, Random Gradient-Free Minimization of Convex Functions, Foundations of Computational
    Mathematics 2017; A. Chen et al., DeepZero, ICLR 2024, arXiv:2310.02025.

    Examples
    --------
    >>> x, draw = torch.tensor([1.0, 3.0], dtype=torch.float64), torch.Generator().manual_seed(0)
    >>> RandomDirections(2000).estimate(lambda: x.square().sum(), [x], draw)  # 2 and 6 in the mean
    [tensor([2.2182, 5.7391], dtype=torch.float64)]
    """

    queries: int = fixed(192, low=1)

    card = Card(
        title="A gradient from differences along random directions",
        axes=("rates",),
        source="Nesterov and Spokoiny 2017; Chen et al. 2024, arXiv:2310.02025",
        when="Many coordinates and few function values.",
        cost="a function value for each direction, two where they are central",
        shelf="atlas",
        defaults={"queries": "192, DeepZero's code for its scores", "mu": "5e-3, DeepZero's code"},
    )

    def directions(
        self, tensors: Sequence[Tensor], generator: torch.Generator | None, rows: bool
    ) -> Iterator[Direction]:
        """Yield q normal directions."""
        for _ in range(self.queries):
            drawn = [torch.randn(t.shape, generator=generator, dtype=t.dtype, device=t.device) for t in tensors]
            yield Direction(mover(tensors, drawn), _adder(drawn, self.queries))


def _chosen(size: int, share: float, generator: torch.Generator | None) -> Tensor:
    """So many of the numbers below `size`, in order; nothing is drawn where it is all of them or none."""
    count = round(share * size)
    if count in (0, size):
        return torch.arange(count)
    device = "cpu" if generator is None else generator.device
    return torch.randperm(size, generator=generator, device=device)[:count].sort().values.cpu()


def _coordinate(t: Tensor, tensor: int, where: tuple[Any, ...]) -> Direction:
    """The direction of one coordinate of a tensor, of every row where `where` begins with all of them."""
    held: list[Tensor] = []

    def move(scale: float) -> None:
        if held:
            t[where] = held.pop()
        else:
            held.append(t[where].clone())
            t[where] += scale

    def add(gradients: Sequence[Tensor], slope: Value) -> None:
        gradients[tensor][where] = slope

    return Direction(move, add)


def mover(tensors: Sequence[Tensor], direction: Sequence[Tensor]) -> Callable[[float], None]:
    """Return ``move(scale)``, which adds scale * direction in place and, called again, puts back what was there."""
    held: list[list[Tensor]] = []

    @torch.no_grad()
    def move(scale: float) -> None:
        if held:
            torch._foreach_copy_(list(tensors), held.pop())
        else:
            held.append([t.detach().clone() for t in tensors])
            torch._foreach_add_(list(tensors), list(direction), alpha=scale)

    return move


def _adder(direction: Sequence[Tensor], queries: int) -> Callable[[Sequence[Tensor], Value], None]:
    def add(gradients: Sequence[Tensor], slope: Value) -> None:
        for gradient, d in zip(gradients, direction):
            if isinstance(slope, Tensor) and slope.ndim:
                gradient.addcmul_(d, slope.reshape(-1, *[1] * (d.ndim - 1)), value=1.0 / queries)
            else:
                gradient.add_(d, alpha=float(slope) / queries)

    return add
