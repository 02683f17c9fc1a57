"""What a run is, code included: equal identities give equal bits, and edited code is noticed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import platform
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regimes.core import paths, randomness
from regimes.core.kinds import Weights
from regimes.engine.code import ADDRESS, Reader, tensor_bytes
from regimes.engine.run import Run
from regimes.engine.workload import Workload

#: Packages that stand above the engine: they choose and judge runs, and change no bit of one.
_ABOVE = {
    "atlas", "claims", "cli", "diagnosis", "ejection", "recipes", "report", "study", "testing", "track", "py.typed"
}  # fmt: skip
_KEPT: weakref.WeakKeyDictionary[Workload, dict[str, Any]] = weakref.WeakKeyDictionary()


def identity(run: Run) -> dict[str, Any]:
    """Return what determines the bits of a run that stands at step 0."""
    work = run.workload
    same = _KEPT.get(work) or program(work)
    # The weights have a digest of their own; what else the model holds is read with its code.
    own = Reader(run.model.state_dict(keep_vars=True).values())
    own.read(run.regime, "(regime)")
    own.read(run.model, "(model)")
    given = {path: value.digest() for path, value in paths.walk(run.regime) if isinstance(value, Weights)}
    return ({"given weights": given} if given else {}) | {
        "regime": run.regime.hash,
        "seed": run.seed,
        "data": same["data"],
        "loss": same["loss"],
        "metrics": same["metrics"],
        "sources": library() | joined(same["sources"], own.digests()),
        "versions": versions() | same["packages"] | own.packages,
        "device": work.device.type,
        "weights": tensors_digest(dict(run.model.state_dict())),
        "first_batch": hashlib.sha256(run.frame.plans[0].indices.tobytes()).hexdigest()[:16] if run.frame.plans else "",
        "first_loss": first_loss(run),
        "sampled": sorted(own.sampled | same["sampled"]),
    }


def program(work: Workload) -> dict[str, Any]:
    """Return what a workload is, whatever the regime and the seed: its data and its code.

    Tensors and arrays are read whole, and so are labels; of other data some examples, spread evenly.
    """
    reader = Reader(work.model.state_dict(keep_vars=True).values() if isinstance(work.model, nn.Module) else ())
    reader.read(work.model, "(model)")
    reader.read(work.loss, "(loss)")
    for name, metric in work.metrics.items():
        reader.read(name, "(metrics)")
        reader.read(metric, "(metrics)")
    for split, sources in work.sources.items():
        for name, source in sources.items():
            reader.read(f"{split}/{name}", "(data)")
            reader.read(type(source), "(data)")
            for part in ("dataset", "data", "collate_fn", "reward"):
                reader.read(getattr(source, part, None), "(data)")
            reader.read(source.column("label"), "(data)")
    return {
        "data": work.fingerprint(),
        "loss": ADDRESS.sub("", repr(work.loss)),
        "metrics": sorted(work.metrics),
        "sources": reader.digests(),
        "packages": reader.packages,
        "sampled": reader.sampled,
    }


@contextlib.contextmanager
def kept(work: Workload) -> Iterator[None]:
    """Inside, a workload counts as what it was on entering, and is read once.

    State that its functions keep (a counter, a cache) changes while runs train; that is no edit of the program.
    """
    _KEPT[work] = program(work)
    try:
        yield
    finally:
        _KEPT.pop(work, None)


def joined(first: dict[str, str], second: dict[str, str]) -> dict[str, str]:
    """Digests by module of two readings together."""
    return {name: first.get(name, "") + second.get(name, "") for name in sorted({*first, *second})}


def key(content: dict[str, Any]) -> str:
    """Return the run key: 20 hexadecimal digits over an identity."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def versions() -> dict[str, str]:
    """Versions that bits depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "regimes": importlib.metadata.version("regimes"),
    }


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over named tensors."""
    digest = hashlib.sha256()
    for name, t in tensors.items():
        digest.update(f"{name}{t.dtype}{tuple(t.shape)}".encode())
        digest.update(tensor_bytes(t))
    return digest.hexdigest()[:16]


def first_loss(run: Run) -> str:
    """Loss of the first plan at the initial weights, as exact text: it sees what source digests miss."""
    from regimes.engine.evaluator import Evaluator

    if not run.frame.plans:
        return ""
    plan = run.frame.plans[0]
    live = run.phase.substitute(run.phase.step_knobs.values(run.states["knobs"], run.position) | plan.knobs)
    flops, run.flops = run.flops, None
    modes = [(module, module.training) for module in run.model.modules()]
    evaluate = Evaluator(run, live, plan)
    try:
        with randomness.kept():
            return repr(evaluate(grad=False, final=False).loss)
    except ArithmeticError:
        return "not finite"
    finally:
        evaluate.undo()
        run.flops = flops
        for module, training in modes:
            module.training = training


@functools.cache
def library() -> dict[str, str]:
    """Digest of the source of every package of ours that can reach a run's bits.

    Whole packages, read once a process: which helper a component takes its numbers from (Newton-Schulz, say) then
    needs no second book-keeping, and an edit recomputes rather too much than too little.
    """
    root = Path(__file__).parent.parent
    found = {}
    for entry in sorted(root.iterdir()):
        if entry.name not in _ABOVE and not entry.name.startswith(("_", ".")):
            files = sorted(entry.rglob("*.py")) if entry.is_dir() else [entry]
            digest = hashlib.sha256()
            for file in files:
                digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
            found[f"regimes.{entry.stem}"] = digest.hexdigest()[:16]
    return found
