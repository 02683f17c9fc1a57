"""What is trained: a model, its data, its loss and its metrics, as people have them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from regimes.core.errors import DeclarationError, UserCodeError, show
from regimes.core.kinds import Loss, SourceView
from regimes.core.randomness import seeded
from regimes.core.source import Source
from regimes.losses.coerce import as_loss
from regimes.sources.coerce import as_sources


class Workload:
    """What is trained, once and for all regimes that are compared on it.

    Parameters
    ----------
    model : nn.Module, class or factory
        An instance (every seed starts from a copy of its weights), or something that builds one without
        arguments (every seed draws its own initial weights).
    train, val, test : data, or dict of data by source name
        Tensors, a Dataset, a DataLoader (taken apart), iterable data, or a Source. What steers reads `val`; what a
        verdict reads is `test` where there is one, else `val`.
    loss : torch criterion, function or Loss
        A criterion's reduction is taken over; a function ``(model, batch) -> per-example losses``.
    metrics : dict of str to metric
        Functions ``(output, target) -> tensor`` or torchmetrics-like objects.
    name : str, optional
        For messages and run folders.
    eval_batch : int
        Examples per forward in validation. Default 256.
    device : str, optional
        "cpu", "cuda", ... Default: cuda where there is one for an instance on it, else cpu.

    Raises
    ------
    DeclarationError
        For what cannot be a model, data, a loss or a metric.

    Examples
    --------
    >>> import regimes as rg
    >>> x = torch.randn(8, 3); y = torch.tensor([0, 1] * 4)
    >>> work = Workload(model=lambda: nn.Linear(3, 2), train=(x, y), val=(x, y), loss=nn.CrossEntropyLoss())
    >>> work
    Workload('<lambda>', train: 8 examples, val: 8 examples, loss: CrossEntropy())
    """

    def __init__(
        self,
        *,
        model: nn.Module | Callable[[], nn.Module],
        train: Any,
        val: Any = None,
        test: Any = None,
        loss: Any,
        metrics: Mapping[str, Any] | None = None,
        name: str | None = None,
        eval_batch: int = 256,
        device: str | torch.device = "cpu",
    ) -> None:
        if not isinstance(model, nn.Module) and not callable(model):
            raise DeclarationError(f"got {show(model)}; allowed: a module, a class or a factory", "model")
        if not isinstance(model, nn.Module) and _required_arguments(model):
            raise DeclarationError(
                f"got {_name_of(model)}, which needs arguments ({_required_arguments(model)}); "
                "write lambda: Net(...) or functools.partial",
                "model",
            )
        self.model = model
        self.sources: dict[str, dict[str, Source]] = {
            split: as_sources(data, split)
            for split, data in (("train", train), ("val", val), ("test", test))
            if data is not None
        }
        self._refuse_asking()
        self.loss: Loss = as_loss(loss)
        if metrics is not None and not isinstance(metrics, Mapping):
            raise DeclarationError(f"got {show(metrics)}; allowed: a dict of names to metrics", "metrics")
        self.metrics = dict(metrics or {})
        for key, metric in self.metrics.items():
            if not callable(metric) and not hasattr(metric, "update"):
                raise DeclarationError(
                    f"got {show(metric)}; allowed: a function or a torchmetrics-like object", f"metrics.{key}"
                )
        self.name = name or _name_of(model)
        self.eval_batch, self.device = eval_batch, torch.device(device)

    def _refuse_asking(self) -> None:
        for split in ("val", "test"):
            asking = [name for name, source in self.sources.get(split, {}).items() if source.asks]
            if asking:
                raise DeclarationError(
                    f"the data '{asking[0]}' ask the model, which only training data may; give plain examples", split
                )

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split}: {self.view(split).size} examples" for split in self.sources)
        return f"Workload({self.name!r}, {sizes}, loss: {self.loss})"

    def build(self, seed32: int) -> nn.Module:
        """Return a fresh model on the device; the caller's random state is put back."""
        if isinstance(self.model, nn.Module):
            return copy.deepcopy(self.model).to(self.device)
        try:
            with seeded(seed32):
                if torch.accelerator.is_available():
                    torch.manual_seed(seed32)  # reaches devices that are not in use yet
                made = self.model()
        except DeclarationError:
            raise
        except Exception as why:
            raise UserCodeError(f"building the model {self.name!r} failed: {why}") from why
        if not isinstance(made, nn.Module):
            raise DeclarationError(f"got {show(made)} from the factory; allowed: an nn.Module", "model")
        return made.to(self.device)

    def view(self, split: str = "train") -> SourceView:
        """Sizes and columns of a split, for samplers."""
        sources = self.sources[split]
        return SourceView(
            {name: len(s) for name, s in sources.items()}, lambda name, column: sources[name].column(column)
        )

    def example_tokens(self) -> int | None:
        """Tokens of every training example, where all have the same declared number."""
        declared = {source.example_tokens for source in self.sources["train"].values()}
        return declared.pop() if len(declared) == 1 else None

    def fingerprint(self) -> dict[str, str]:
        """Digest of every source's content, by split and name."""
        return {
            f"{split}/{name}": s.fingerprint() for split, sources in self.sources.items() for name, s in sources.items()
        }

    def judged_split(self) -> str:
        """What a verdict reads: test where there is one, else val."""
        return "test" if "test" in self.sources else "val"


def _required_arguments(factory: Callable[..., Any]) -> str:
    try:
        parameters: Iterable[inspect.Parameter] = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return ""
    kinds = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
    return ", ".join(p.name for p in parameters if p.default is p.empty and p.kind in kinds)


def _name_of(model: Any) -> str:
    if isinstance(model, nn.Module):
        return type(model).__name__
    inner = getattr(model, "func", None)
    return str(getattr(model, "__name__", None) or getattr(inner, "__name__", type(model).__name__))
