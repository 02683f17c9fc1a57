"""Looks on while a PyTorch script trains, from inside its process: what every optimizer step read and wrote, or its time.

A row a step goes to ``{out}/regimes-trace.jsonl``: the parts of the step in their order, each a list of
``[label, key, value]``. Parameters are known by their content, not by their name: to rename or reorder is no difference.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TRACE, TIMES, STRAYS = "regimes-trace.jsonl", "regimes-times.json", "regimes-strays.txt"


def from_environment(environment: Mapping[str, str]) -> Watch | None:
    """Return what watches this process: ``trace:STEPS`` and ``time`` do, of several ranks the first."""
    out, asked = Path(environment["REGIMES_OUT"]), environment["REGIMES_WATCH"]
    atexit.register(note_strays, out, environment["REGIMES_ROOT"], environment["REGIMES_TREE"])
    if asked == "none" or environment.get("RANK", "0") != "0":
        return None
    kind, _, steps = asked.partition(":")
    return Trace(out, int(steps)) if kind == "trace" else Watch(out)


def note_strays(out: Path, root: str, tree: str) -> None:
    """Note modules that came from the repository itself and not from the version that is looked at."""
    found = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and _stray(os.path.realpath(file), root, tree):
            found.add(f"{module.__name__}\t{file}\n")
    if found and out.is_dir():
        with (out / STRAYS).open("a") as file:
            file.writelines(sorted(found))


def _stray(file: str, root: str, tree: str) -> bool:
    inside = file.startswith(root + os.sep) and not file.startswith(tree + os.sep)
    ours = file.startswith(os.path.dirname(os.path.realpath(__file__)) + os.sep)
    return inside and not ours and not file.startswith(os.path.realpath(sys.prefix) + os.sep)


class Watch:
    """Takes the time of every optimizer step.

    Parameters
    ----------
    out : Path
        The run's folder.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.times = out, list[float]()

    def install(self) -> None:
        """Hook into torch."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        register_optimizer_step_post_hook(self.stepped)
        atexit.register(self.note_times)

    def stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """After an optimizer step."""
        self.times.append(time.perf_counter())

    def note_times(self) -> None:
        """Write the median seconds from one step to the next."""
        gaps = [after - before for before, after in zip(self.times, self.times[1:])]
        if gaps:
            found = {"steps": len(self.times), "median": statistics.median(gaps)}
            (self.out / TIMES).write_text(json.dumps(found) + "\n")


class Trace(Watch):
    """Writes what every optimizer step read and wrote.

    Parameters
    ----------
    out : Path
        The run's folder.
    steps : int
        So many steps are told whole; of the others loss and settings.
    """

    def __init__(self, out: Path, steps: int) -> None:
        super().__init__(out)
        self.steps, self.step, self.depth, self.backward = steps, 0, 0, False
        self.names: dict[int, str] = {}
        self.parts: dict[str, list[list[str]]] = {}
        self.file: Any = None

    def install(self) -> None:
        """Hook into torch: calls of modules, backward passes, optimizer steps."""
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        call, backward = torch.nn.Module.__call__, torch.autograd.backward

        def called(module: Any, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return call(module, *args, **kwargs)
            if self.depth == 0 and module.training and torch.is_grad_enabled() and not self.backward:
                self.forward(module, args, kwargs)
            self.depth += 1
            try:
                return call(module, *args, **kwargs)
            finally:
                self.depth -= 1

        def backwards(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            self.losses(tensors)
            self.backward = True  # what is computed again for its gradient is no forward of the script's
            try:
                return backward(tensors, *args, **kwargs)
            finally:
                self.backward = False

        torch.nn.Module.__call__ = called  # type: ignore[method-assign]
        torch.autograd.backward = backwards
        register_optimizer_step_pre_hook(self.stepping)
        register_optimizer_step_post_hook(self.stepped)

    def forward(self, module: Any, args: Any, kwargs: Any) -> None:
        """Before the outermost module is called."""
        if self.step < self.steps:
            self.names.update({id(p): name for name, p in module.named_parameters()})
            found = self.parts.setdefault("data", [])
            # What another module made is no data: a forward may be written as calls of its pieces.
            given = [tensor for tensor in tensors_in([args, kwargs]) if tensor.grad_fn is None]
            for number, tensor in enumerate(given):
                found.append([f"input {number}", str(len(found)), digest(tensor)])

    def losses(self, tensors: Any) -> None:
        """Before a backward pass."""
        found = self.parts.setdefault("loss", [])
        for tensor in tensors_in(tensors):
            value = repr(float(tensor.detach())) if tensor.numel() == 1 else digest(tensor)
            found.append([f"backward {len(found)}", str(len(found)), value])

    def stepping(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Before an optimizer step: gradients, settings and the weights that it starts from."""
        names = sorted(set(optimizer.defaults) - {"foreach", "fused", "capturable", "differentiable"})
        if self.step >= self.steps:
            told = [[f"group {n}", "", said(group, names)] for n, group in enumerate(optimizer.param_groups)]
            self.parts["settings"] = told
            return
        before: list[list[str]] = []
        gradient: list[list[str]] = []
        settings: list[list[str]] = []
        for group in optimizer.param_groups:
            for p in group["params"]:
                name, content = self.name(p, len(before)), digest(p)
                before.append([name, "", content])
                gradient.append([name, "", "none" if p.grad is None else digest(p.grad)])
                settings.append([name, content, said(group, names)])
        self.parts = {"before": before, **self.parts, "gradient": gradient, "settings": settings}

    def stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """After an optimizer step: the weights that it wrote; the row is whole."""
        if self.step < self.steps:
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            self.parts["weights"] = [[self.name(p, number), "", digest(p)] for number, p in enumerate(weights)]
        if self.file is None:
            self.file = (self.out / TRACE).open("w")
        self.file.write(json.dumps({"step": self.step, "parts": self.parts}) + "\n")
        self.file.flush()
        self.step, self.parts = self.step + 1, {}

    def name(self, parameter: Any, number: int) -> str:
        """What the model calls a parameter, else its number in the optimizer."""
        return self.names.get(id(parameter), f"parameter {number}")


def said(group: Mapping[str, Any], names: list[str]) -> str:
    """The settings of a parameter group as text: the numbers that its rule has defaults for."""
    found: dict[str, Any] = {name: group.get(name) for name in names}
    return json.dumps({name: float(v) if hasattr(v, "item") else v for name, v in found.items()}, default=repr)


def tensors_in(data: Any) -> list[Any]:
    """Tensors in nested lists, tuples and mappings, in order."""
    if isinstance(data, Mapping):
        data = list(data.values())
    if isinstance(data, list | tuple):
        return [tensor for item in data for tensor in tensors_in(item)]
    return [data] if hasattr(data, "detach") and hasattr(data, "numel") else []


def digest(tensor: Any) -> str:
    """Digest of a tensor's content, whatever its device and layout."""
    import torch

    dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    plain = dense.cpu().contiguous().reshape(-1).view(torch.uint8)
    found = hashlib.blake2b(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), digest_size=8)
    found.update(memoryview(plain.numpy()))
    return found.hexdigest()
