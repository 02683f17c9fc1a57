"""Tiny workloads, one per form of data, and a model whose forward can be made to fail once."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from regimes.core.unit_losses import UnitLosses
from regimes.engine.workload import Workload
from regimes.losses.forward import OutputLoss
from regimes.model_transforms.adapters import LoRALinear
from regimes.model_transforms.experts import MixtureOfExperts
from regimes.model_transforms.rounding import DoubleRound
from regimes.sources.rollouts import Rollouts
from regimes.sources.tensors import Tensors
from regimes.sources.windows import TextWindows
from regimes.workloads.models import DenoisingBlocks, TinyGPT

#: Examples of every tiny source; four steps of `BATCH` are an epoch.
SIZE, BATCH = 24, 6


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes with one thread: on tensors this small several only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_CALLS: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


class Poisonable(nn.Module):
    """Beside a model: its forward number `poison_at` (counted from 1) after `calls` is set to 0 gives NaN."""

    poison_at = 0

    @property
    def calls(self) -> int:
        """How often it has run. Kept apart: a model whose attributes change is never stacked."""
        return _CALLS.get(self, 0)

    @calls.setter
    def calls(self, count: int) -> None:
        _CALLS[self] = count

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        self.calls += 1
        out = super().forward(*args, **kwargs)
        if self.calls != self.poison_at:
            return out
        return tuple(part * torch.nan for part in out) if isinstance(out, tuple) else out * torch.nan


class Tiny(Poisonable, nn.Sequential):
    """A chain of modules that can be poisoned."""


class TinyBlocks(Poisonable, DenoisingBlocks):
    """Two small denoising blocks that can be poisoned."""


class TinyTransformer(Poisonable, TinyGPT):
    """A small transformer that can be poisoned."""


class Columns(Tensors):
    """Tensors with a positive number per example under any name but ``length``; a plan's columns scale the inputs."""

    reads = ("pass", "noise_level")

    def fetch(self, indices: np.ndarray, columns: Mapping[str, Any]) -> Any:
        """Return the selected rows, those of the first part times what the plan's columns say of them."""
        x, *rest = super().fetch(indices, columns)
        for values in (columns[name] for name in columns if name != "pass"):
            x = x * torch.as_tensor(values, dtype=x.dtype).view(-1, 1)
        return (x, *rest)

    def column(self, name: str) -> Any:
        """The integer target as ``label``, else a made-up fact of each example."""
        found = super().column(name)
        if found is not None or name == "length":
            return found
        return torch.linspace(0.2, 2.0, len(self))


class SquaredError(OutputLoss):
    """Half the squared distance of each example's output from its target."""

    def per_unit(self, output: Tensor, target: Tensor) -> UnitLosses:
        """Loss of each example; output and target (n, features)."""
        return UnitLosses(0.5 * (output - target).flatten(1).square().sum(1))


def _features(seed: int, n: int = SIZE) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


def _classes(seed: int) -> Columns:
    x = _features(seed)
    return Columns(x, (x[:, 0] + 0.3 * x[:, 1] > 0).long())


def _values(seed: int) -> Columns:
    x = _features(seed)
    return Columns(x, x[:, :2] * 0.5 + 0.1)


def _binary(seed: int) -> Columns:
    x = _features(seed)
    return Columns(x, (x[:, 0] > 0).float())


def _tokens(seed: int) -> TextWindows:
    generator = torch.Generator().manual_seed(seed)
    return TextWindows(torch.randint(0, 7, (16 * SIZE + 1,), generator=generator, dtype=torch.uint8), length=16)


def _questions(seed: int) -> Rollouts:
    """Questions of three tokens; as good as an answer is its share of right tokens. Held-out ones are not asked."""
    tokens = torch.randint(0, 7, (SIZE, 6), generator=torch.Generator().manual_seed(seed))
    return Rollouts(tokens[:, :3], tokens[:, 3:], _likeness, end=6, answers=3 if seed < 99 else 0)


def _likeness(prompts: Tensor, answers: Tensor) -> Tensor:
    return (answers == prompts[:, None]).float().mean(2)


def _net(outputs: int, *after: nn.Module) -> Tiny:
    return Tiny(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.1), nn.Linear(8, outputs), *after)


def _language() -> Tiny:
    return Tiny(nn.Embedding(7, 6), nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.1), nn.Linear(8, 7))


def _experts() -> Tiny:
    return Tiny(nn.Embedding(7, 6), MixtureOfExperts(nn.Linear(6, 8), 6, experts=3, top_k=2), nn.Linear(8, 7))


def _adapted() -> Tiny:
    """A layer with an adapter that has left zero, before two that are trained."""
    layer = LoRALinear(nn.Linear(6, 8), rank=2)
    layer.weight.requires_grad_(False)
    nn.init.normal_(layer.lora_A, std=0.3)
    nn.init.normal_(layer.lora_B, std=0.3)
    return Tiny(layer, nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2))


def _rounded() -> Tiny:
    """Two layers whose weights have 8 and 4 bits, and one that has not."""
    model = Tiny(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2))
    for layer in (model[0], model[2]):
        weight: Any = layer.weight
        rounding = DoubleRound((8, 4), weight, by_width=True)
        rounding.fit(weight)
        parametrize.register_parametrization(layer, "weight", rounding)
    return model


def _cross_entropy() -> Any:
    from regimes.losses import CrossEntropy

    return CrossEntropy()


def _binary_cross_entropy() -> Any:
    from regimes.losses import BCE

    return BCE()


def _shown() -> Any:
    from regimes.losses import PolicyGradient

    return PolicyGradient.sft()


def _next_token() -> Any:
    from regimes.losses import NextToken

    return NextToken()


#: name -> (model, data, loss)
TASKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any], Callable[[], Any]]] = {
    "classes": (lambda: _net(2), _classes, _cross_entropy),
    "tokens": (_language, _tokens, _next_token),
    "values": (lambda: _net(2), _values, SquaredError),
    "binary": (lambda: _net(1, nn.Flatten(0)), _binary, _binary_cross_entropy),
}
#: The same, for components that want a model of a form of its own.
SPECIAL: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any], Callable[[], Any]]] = {
    "denoising": (lambda: TinyBlocks(6, 2, blocks=2, width=4, embedding=3), _classes, _cross_entropy),
    "rollouts": (_language, _questions, _shown),
    "transformer": (lambda: TinyTransformer(vocab=7, width=8, context=16), _tokens, _next_token),
    "experts": (_experts, _tokens, _next_token),
    "adapted": (_adapted, _classes, _cross_entropy),
    "rounded": (_rounded, _classes, _cross_entropy),
}


def _doubled_model(model: Callable[[], nn.Module]) -> nn.Module:
    """In float64; a bias before a norm is not trained: its gradient is rounding, whose sign rests on how it is computed."""
    made = model().double()
    for one, after in pairwise(made) if isinstance(made, nn.Sequential) else ():
        if isinstance(one, nn.Linear) and isinstance(after, nn.BatchNorm1d):
            one.bias.requires_grad_(False)
    return made


def _doubled_data(data: Callable[[int], Any], seed: int) -> Any:
    found = data(seed)
    if isinstance(found, Columns):
        return Columns(*[part.double() if part.is_floating_point() else part for part in found.parts.values()])
    return found


@functools.cache
def workload(task: str, sources: tuple[str, ...] = (), double: bool = False) -> Workload:
    """Return the tiny workload of a task, with named sources where a mixture wants them; `double` in float64."""
    model, data, loss = (TASKS | SPECIAL)[task]
    if double:
        model, data = functools.partial(_doubled_model, model), functools.partial(_doubled_data, data)
    train = {name: data(place) for place, name in enumerate(sources)} if sources else data(0)
    val = {name: data(99 + place) for place, name in enumerate(sources)} if len(sources) > 1 else data(99)
    return Workload(model=model, train=train, val=val, loss=loss(), name=f"tiny {task}")
