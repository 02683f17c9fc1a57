"""Soups: which runs to average, found on validation data; and the loss on the way between two weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.kinds import Weights
from regimes.core.notation import parse
from regimes.engine.run import Run
from regimes.engine.workload import Workload
from regimes.study.design import check_better
from regimes.weights.from_run import FromRun
from regimes.weights.soup import Soup, mixed


class Tasted(NamedTuple):
    """A soup, and what was measured on the way to it.

    Parameters
    ----------
    soup : Soup
    score : float
        The soup's, on validation data.
    scores : dict of str to float
        Of each ingredient alone, by its printed form.
    """

    soup: Soup
    score: float
    scores: dict[str, float]


def score(workload: Workload, weights: Mapping[str, Tensor], split: str = "val") -> dict[str, float]:
    """Return loss and metrics of given weights on a split.

    Parameters
    ----------
    workload : Workload
    weights : mapping of str to Tensor
        Parameters and buffers.
    split : str
        "val", "test" or "train".
    """
    # A run that never makes a step: validation is the one that runs make.
    run = Run(
        workload,
        parse("Regime(optimizer=SGD(lr=0.0), batch_size=1, budget='1 steps')"),
        count_flops=False,
        look_ahead=False,
    )
    run.model.load_state_dict(weights)
    found = run.validation.measure(split)
    return {name.removeprefix(f"{split}/"): value for name, value in found.items()}


def greedy_soup(
    workload: Workload, ingredients: Sequence[Weights | str], metric: str = "loss", better: str | None = None
) -> Tasted:
    """Return the greedy soup: from the best on, whatever does not make the mean worse on validation data goes in.

    Parameters
    ----------
    workload : Workload
    ingredients : sequence of Weights or str
        For example ``[FromRun("runs/a"), FromRun("runs/b")]``, or the runs' folders.
    metric : str
        Of the workload's metrics, or "loss".
    better : "lower" or "higher"
        Default: lower for a loss; must be said for anything else. A score that is not finite is the worst.

    Raises
    ------
    DeclarationError
        If there is no such metric, nobody says in which direction it is better, or no ingredient's is finite.

    References
    ----------
    M. Wortsman et al., Model soups, ICML 2022, arXiv:2203.05482.
    """
    sign = {"lower": -1.0, "higher": 1.0}[check_better(metric, better)]
    parts = _weights(ingredients)
    loaded = [part.load() for part in parts]
    alone = [_metric(score(workload, state), metric) for state in loaded]

    def worth(value: float) -> float:
        """More is better; what is no number is worst, wherever it stands in the list."""
        return sign * value if math.isfinite(value) else -math.inf

    order = sorted(range(len(loaded)), key=lambda place: -worth(alone[place]))
    chosen, best = [order[0]], alone[order[0]]
    if not math.isfinite(best):
        raise DeclarationError(f"got {metric} {best} from the best of them; allowed: one that is finite", "ingredients")
    for place in order[1:]:
        among = [*chosen, place]
        found = _metric(score(workload, mixed([loaded[i] for i in among], (1.0 / len(among),) * len(among))), metric)
        if worth(found) >= worth(best):
            chosen, best = among, found
    scores = {repr(part): value for part, value in zip(parts, alone)}
    return Tasted(Soup(tuple(parts[i] for i in chosen)), best, scores)


def _weights(ingredients: Sequence[Weights | str]) -> list[Weights]:
    """Ingredients as weights: a run's folder stands for what it learned."""
    found = [FromRun(part) if isinstance(part, str) else part for part in ingredients]
    for part in found:
        if not isinstance(part, Weights):
            raise DeclarationError(f"got {show(part)}; allowed: FromRun('runs/a') or a run's folder", "ingredients")
    return found


def learned_soup(workload: Workload, ingredients: Sequence[Weights | str], steps: int = 100, lr: float = 0.1) -> Tasted:
    r"""Return the soup whose shares minimize the validation loss, alpha = softmax(b), b learned by Adam from 0.

    Parameters
    ----------
    workload : Workload
    ingredients : sequence of Weights or str
    steps : int
        Full passes over the validation data. Default 100.
    lr : float
        Adam's. Default 0.1.

    Raises
    ------
    DeclarationError
        If the loss of an ingredient is not finite.
    """
    parts = _weights(ingredients)
    loaded = [part.load() for part in parts]
    alone = [score(workload, state)["loss"] for state in loaded]
    for place, loss in enumerate(alone):
        if not math.isfinite(loss):
            raise DeclarationError(
                f"got {parts[place]!r}, whose loss is {loss}; allowed: a finite one", f"ingredients.{place}"
            )
    model = workload.build(0).eval()
    stacked, whole = _stacked(model, loaded)
    shares = torch.zeros(len(loaded), requires_grad=True)
    optimizer = torch.optim.Adam([shares], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        alpha = shares.softmax(0)
        weights = {name: torch.tensordot(alpha.to(value.dtype), value, 1) for name, value in stacked.items()}
        _mean_loss(workload, model, weights | whole).backward()
        optimizer.step()
    soup = Soup(tuple(parts), tuple(shares.detach().softmax(0).tolist()))
    scores = {repr(part): value for part, value in zip(parts, alone)}
    return Tasted(soup, score(workload, soup.load())["loss"], scores)


def _stacked(model: nn.Module, loaded: list[Mapping[str, Tensor]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and running statistics of all ingredients, and the first's buffers of whole numbers: as `mixed`."""
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers()) if name in loaded[0]]
    stacked = {name: torch.stack([state[name] for state in loaded]) for name in names}
    mixes = {name for name, value in stacked.items() if value.is_floating_point()}
    whole = {name: loaded[0][name] for name in names if name not in mixes}
    return {name: value for name, value in stacked.items() if name in mixes}, whole


def path_loss(workload: Workload, start: Weights, end: Weights, points: int = 11, split: str = "val") -> list[float]:
    """Return the loss at equally spaced points on the straight line between two weights, both ends among them.

    Its largest excess over the line between the two ends' losses is the barrier: near 0 where both lie in one basin.
    """
    first, last = start.load(), end.load()
    return [
        score(workload, mixed([first, last], (1.0 - t, t)), split)["loss"]
        for t in np.linspace(0.0, 1.0, points).tolist()
    ]


def barrier(losses: Sequence[float]) -> float:
    """Return the largest excess of a path's losses over the straight line between its ends.

    Examples
    --------
    >>> barrier([1.0, 4.0, 3.0])
    2.0
    """
    line = np.linspace(losses[0], losses[-1], len(losses))
    return float(np.max(np.asarray(losses) - line))


def _metric(found: dict[str, float], name: str) -> float:
    if name not in found:
        raise DeclarationError(f"got '{name}'; {nearest(name, found)}", "metric")
    return found[name]


def _mean_loss(workload: Workload, model: nn.Module, weights: Mapping[str, Tensor]) -> Tensor:
    """The validation loss as a function of weights, with graph."""
    total, mass = torch.zeros(()), 0.0
    for source in workload.sources["val"].values():
        batch = source.fetch(np.arange(len(source)), {})

        def at(*args: object, **kwargs: object) -> object:
            return functional_call(model, dict(weights), args, kwargs)

        with _StatisticsWithGraph():
            losses = workload.loss.units(workload.loss.init(), _Called(at), batch)  # type: ignore[arg-type]
        own = torch.ones_like(losses.values) if losses.weights is None else losses.weights
        total, mass = total + (losses.values * own).sum(), mass + float(own.sum())
    return total / mass


class _StatisticsWithGraph(TorchFunctionMode):
    """Inside, batch norm on running statistics is written out: torch's kernel gives no gradient with respect to them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_normalized if func is functional.batch_norm else func)(*args, **kwargs or {})


def _normalized(
    x: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As `torch.nn.functional.batch_norm`."""
    if training or mean is None or variance is None:
        return functional.batch_norm(x, mean, variance, weight, bias, training, momentum, eps)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    scale = (variance + eps).rsqrt() * (1.0 if weight is None else weight)
    made = (x - mean.view(shape)) * scale.view(shape)
    return made if bias is None else made + bias.view(shape)


class _Called:
    """Stands for a module whose weights are given from outside."""

    def __init__(self, function: object) -> None:
        self._function = function

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._function(*args, **kwargs)  # type: ignore[operator]
