"""Spectra of features: sums that can be taken batch by batch, and what is read off their eigenvalues."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from regimes.core.errors import DeclarationError, nearest
from regimes.core.listening import heard
from regimes.probes.view import View

#: Examples per forward.
BATCH = 256

Token = int | Literal["mean"]


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of rows seen so far: d * d numbers, whatever the number of rows.

    Of parts (batches, processes) they add up to those of the whole without the cancellation of raw sums: with the
    distance delta of the two means, S = S_a + S_b + delta delta^T n_a n_b / (n_a + n_b).

    Parameters
    ----------
    count : int
        n, rows.
    mean : Tensor, shape (d,)
    scatter : Tensor, shape (d, d)
        Sum over the rows of (x - mean) (x - mean)^T.

    References
    ----------
    T. Chan, G. Golub and R. LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    >>> (Moments.of(x[:1]) + Moments.of(x[1:])).scatter.tolist()
    [[8.0, 6.0], [6.0, 6.0]]
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Moments of rows (n, d), in float64."""
        rows = rows.double()
        mean = rows.mean(0)
        centered = rows - mean
        return cls(len(rows), mean, centered.T @ centered)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        apart = other.mean - self.mean
        between = torch.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, self.mean + apart * (other.count / count), self.scatter + other.scatter + between)

    def eigenvalues(self) -> Tensor:
        """Eigenvalues of the covariance (divided by n), largest first, shape (d,); rounding below 0 is 0."""
        return torch.linalg.eigvalsh(self.scatter / self.count).flip(0).clamp_min(0.0)


def feature_moments(view: View, module: str | None, token: Token, examples: int) -> Moments:
    """Moments of a module's features on fixed examples of the view, in evaluation mode, batch by batch."""
    view.model.eval()
    total: Moments | None = None
    with torch.no_grad(), listening(view.model, module) as last:
        for batch in view.pieces(examples, BATCH):
            view.losses(batch)
            found = Moments.of(as_rows(last(), token))
            total = found if total is None else total + found
    assert total is not None
    return total


@contextlib.contextmanager
def listening(model: nn.Module, module: str | None) -> Iterator[Callable[[], Any]]:
    """Inside, the function that is given returns what the last forward showed of a module.

    That is the output of the module named, or with None the input of the layer with parameters that was called last:
    what the model's head reads.

    Raises
    ------
    DeclarationError
        If there is no such module; in the function, if no forward has come by.
    """
    seen: list[Any] = []

    def keep(value: Any) -> None:
        if heard():
            seen[:] = [value]

    def before(module: nn.Module, args: Any, named: Any) -> None:
        keep(next(iter((*args, *named.values())), None))

    if module is None:
        owners = [m for m in model.modules() if any(p is not None for p in m._parameters.values())]
        handles = [m.register_forward_pre_hook(before, with_kwargs=True) for m in owners]
    else:
        modules = dict(model.named_modules())
        if module not in modules:
            raise DeclarationError(f"there is no module '{module}'; {nearest(module, modules)}", "module")
        handles = [modules[module].register_forward_hook(lambda m, args, output: keep(output))]

    def last() -> Any:
        if not seen:
            raise DeclarationError("the forward does not call it; name a module that it calls", "module")
        return seen[0]

    try:
        yield last
    finally:
        for handle in handles:
            handle.remove()


def as_rows(features: Any, token: Token) -> Tensor:
    """Features as one row for each example, shape (n, d), in float64.

    Of sequences (n, length, d) the row is that of a token, counted from the end where negative, or the mean over
    tokens; of maps (n, d, height, width ...) the mean over places. Of a tuple it is the first part that counts.

    Raises
    ------
    DeclarationError
        If the features are no tensor with an axis of examples, or the sequences have no such token.

    Examples
    --------
    >>> x = torch.arange(12.0).view(1, 3, 4)
    >>> as_rows(x, -1).tolist(), as_rows(x, "mean").tolist(), as_rows(x[..., None], -1).tolist()
    ([[8.0, 9.0, 10.0, 11.0]], [[4.0, 5.0, 6.0, 7.0]], [[1.5, 5.5, 9.5]])
    """
    if isinstance(features, tuple | list) and features:
        features = features[0]
    if not isinstance(features, Tensor) or features.ndim == 0:
        raise DeclarationError(
            f"got {type(features).__name__} as features; allowed: a tensor whose first axis is the examples", "module"
        )
    rows = features.double()
    if rows.ndim == 3:
        if token == "mean":
            rows = rows.mean(1)
        elif -rows.shape[1] <= token < rows.shape[1]:
            rows = rows[:, token]
        else:
            raise DeclarationError(f"got {token} for sequences of {rows.shape[1]} tokens", "token")
    elif rows.ndim > 3:
        rows = rows.flatten(2).mean(2)
    return rows.reshape(len(rows), -1)


def rank_of(spectrum: Tensor, eps: float) -> float:
    """exp of the entropy of a spectrum's shares p_i + eps; 0 for a spectrum of zeros.

    Examples
    --------
    >>> round(rank_of(torch.tensor([2.0, 2.0, 2.0, 0.0]), 0.0), 6)
    3.0
    """
    total = spectrum.sum()
    if total <= 0.0:
        return 0.0
    p = spectrum / total + eps
    return math.exp(-torch.xlogy(p, p).sum().item())


class PowerLaw(NamedTuple):
    """Exponent, root-mean-square distance of log l_i from the line, and how many ranks it was fitted to."""

    alpha: float
    residual: float
    ranks: int


def power_law(eigenvalues: Tensor, first: int, last: int) -> PowerLaw:
    """Slope alpha of log l_i = c - alpha log i by least squares over the ranks first .. last, counted from 1.

    Eigenvalues that are rounding, below d * 2.2e-16 of the largest, are left out: there the window ends.

    Raises
    ------
    DeclarationError
        If fewer than two eigenvalues are left.

    Examples
    --------
    >>> fit = power_law(torch.tensor([64.0, 16.0, 64 / 9, 4.0, 0.0]), 1, 5)
    >>> round(fit.alpha, 6), fit.ranks
    (2.0, 4)
    """
    spectrum = eigenvalues.double()
    rounding = len(spectrum) * torch.finfo(torch.float64).eps * spectrum[0]
    above = int((spectrum > rounding).sum())
    stop = min(last, above)
    if stop - first < 1:
        raise DeclarationError(
            f"got the ranks {first} to {last}, but of {len(spectrum)} eigenvalues {above} are above rounding; allowed: a "
            "window with at least two of them",
            "window",
        )
    x = torch.arange(first, stop + 1, dtype=torch.float64, device=spectrum.device).log()
    y = spectrum[first - 1 : stop].log()
    x, y = x - x.mean(), y - y.mean()
    alpha = -(x @ y / (x @ x)).item()
    return PowerLaw(alpha, (y + alpha * x).square().mean().sqrt().item(), len(x))


class GeometryPhase(NamedTuple):
    """A stretch of a series: its name, and the places of its first and last measurement."""

    name: str
    start: int
    stop: int


def detect_phases(series: Sequence[float], share: float = 0.05) -> list[GeometryPhase]:
    """Cut a series of RankMe over training into phases where it turns by more than a share of its range.

    A first fall is called ``warmup``, every rise ``entropy-seeking``, every later fall ``compression-seeking``. A turn
    counts once the series has gone back by more than `share` times its range; it is placed at the extreme. The three
    phases of the paper are exactly one of each, in this order. For a series of alpha, which goes the other way, give
    its negative.

    Parameters
    ----------
    series : sequence of float
        Measurements in order.
    share : float
        Smallest turn, as a share of largest minus smallest. Default 0.05.

    Returns
    -------
    list of GeometryPhase
        Neighbours share the place of the turn; empty where nothing changes.

    Raises
    ------
    DeclarationError
        If a measurement is not finite, or `share` is not in [0, 1).

    References
    ----------
    M. Z. Li et al., Tracing the Representation Geometry of Language Models from Pretraining to Post-training, NeurIPS
    2025, arXiv:2509.23024.

    Examples
    --------
    >>> [tuple(phase) for phase in detect_phases([8, 5, 3, 4, 6, 5.9, 7, 6, 4])]
    [('warmup', 0, 2), ('entropy-seeking', 2, 6), ('compression-seeking', 6, 8)]
    """
    values = [float(value) for value in series]
    if not all(math.isfinite(value) for value in values):
        raise DeclarationError("got a measurement that is not finite; leave those out", "series")
    if not 0.0 <= share < 1.0:
        raise DeclarationError(f"got {share}; allowed: at least 0 and below 1", "share")
    turns, rises = _turns(values, share)
    found = []
    for place, (start, stop) in enumerate(zip(turns, turns[1:])):
        rising = rises != (place % 2 == 1)
        name = "entropy-seeking" if rising else "compression-seeking" if place else "warmup"
        found.append(GeometryPhase(name, start, stop))
    return found


def _turns(values: list[float], share: float) -> tuple[list[int], bool]:
    """Places where stretches begin and end, and whether the first one rises."""
    least = share * (max(values) - min(values)) if values else 0.0
    low = high = 0
    turns, direction, rises = [0], 0, False
    for place, value in enumerate(values):
        low, high = (place if value < values[low] else low), (place if value > values[high] else high)
        up = direction <= 0 and value - values[low] > least
        down = direction >= 0 and values[high] - value > least
        if not (up or down):
            continue
        if direction == 0:
            rises = up
        else:
            turns.append(low if up else high)
        direction = 1 if up else -1
        low = high = place
    return ([*turns, len(values) - 1] if direction else []), rises
