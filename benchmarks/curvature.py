"""What a product with the Hessian and its top eigenvalue cost, in gradients of the same batch.

Usage: python benchmarks/curvature.py [--rounds 30] [--workload digits_mlp digits_cnn char_lm]

A gradient is a forward and a backward by a plain loop, timed beside every block of something else. Peers build their
graph anew for every product, as users write it. The eigenvalue is held against Lanczos in float64, whose estimated
error is below 1e-10.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import regimes as rg
from regimes.core.curvature import HessianProducts

#: Examples in the batch, and in a batch of the training that comes before.
SIZES = {"digits_mlp": (256, 64), "digits_cnn": (256, 64), "char_lm": (32, 16)}
STEPS = 100
VECTORS = 8
#: The probe as it is asked for five digits of a model in any state; most products are 10 by default.
PROBE = rg.Sharpness(iterations=30, tolerance=1e-5)


class Case(NamedTuple):
    """A model and a batch."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor

    def loss(self) -> Tensor:
        """Mean cross-entropy of all units."""
        return functional.cross_entropy(self.model(self.inputs).flatten(0, -2), self.targets.flatten())

    def at(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The loss as a function of the weights."""
        found = torch.func.functional_call(self.model, dict(weights), (self.inputs,))
        return functional.cross_entropy(found.flatten(0, -2), self.targets.flatten())

    def gradient(self) -> None:
        """A plain loop's forward and backward."""
        self.model.zero_grad()
        self.loss().backward()

    def eigenvalue(self, probe: rg.Sharpness) -> dict[str, float]:
        """What the probe finds."""
        return probe(self.model, lambda model, batch: Case(model, *batch).loss(), (self.inputs, self.targets))

    def double(self) -> Case:
        """The same in float64."""
        inputs = self.inputs.double() if self.inputs.is_floating_point() else self.inputs
        return Case(copy.deepcopy(self.model).double(), inputs, self.targets)


def case(name: str, steps: int) -> Case:
    """The workload's model after some steps of AdamW, and a batch of its training data."""
    work, (size, batch) = rg.workloads.load(name), SIZES[name]
    rule = rg.AdamW(lr=3e-3)
    run = rg.Run(work, rg.Regime(optimizer=rule, batch_size=batch, budget=f"{STEPS} steps"), 0)
    for _ in range(steps):
        run.step()
    source = next(iter(work.sources["train"].values()))
    inputs, targets = source.fetch(np.random.default_rng(0).permutation(len(source))[:size], {})
    return Case(run.model, inputs, targets)


def products(given: Case) -> dict[str, tuple[Callable[[], Any], int]]:
    """What makes products, and how many: ours first, then another way of ours, then peers."""
    weights = dict(given.model.named_parameters())
    leaves, fixed = list(weights.values()), {name: p.detach() for name, p in weights.items()}
    hessian = HessianProducts(given.loss, leaves)
    vectors = torch.randn(VECTORS, len(hessian.gradient))
    rows = [piece.view(VECTORS, *p.shape) for piece, p in zip(vectors.split([p.numel() for p in leaves], 1), leaves)]
    single = dict(zip(weights, (row[0] for row in rows)))
    graph = torch.autograd.grad(plain(given.loss), leaves, create_graph=True)

    def batched() -> Any:
        return torch.autograd.grad(graph, leaves, rows, retain_graph=True, is_grads_batched=True)

    def double_backward() -> Any:
        found = torch.autograd.grad(plain(given.loss), leaves, create_graph=True)
        return torch.autograd.grad(found, leaves, tuple(single.values()))

    def hvp() -> Any:
        def loss(*values: Tensor) -> Tensor:
            return given.at(dict(zip(weights, values)))

        return plain(lambda: torch.autograd.functional.hvp(loss, tuple(fixed.values()), tuple(single.values())))

    def jvp() -> Any:
        return plain(lambda: torch.func.jvp(torch.func.grad(given.at), (fixed,), (single,)))

    return {
        "product": (lambda: hessian(vectors[0]), 1),
        f"product in a block of {VECTORS}": (lambda: hessian(vectors), VECTORS),
        f"batched backward of {VECTORS}, a vector": (batched, VECTORS),
        "double backward anew": (double_backward, 1),
        "torch.autograd.functional.hvp": (hvp, 1),
        "torch.func.jvp of grad": (jvp, 1),
    }


def plain(work: Callable[[], Any]) -> Any:
    """Without fused attention, which has no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        return work()


def costs(gradient: Callable[[], Any], works: dict[str, tuple[Callable[[], Any], int]], rounds: int) -> dict[str, Any]:
    """CPU time of each over that of gradients just before and after it: least, median and largest of many short blocks."""
    for work in (gradient, *(work for work, _ in works.values())):
        work()
    calls = max(1, round(0.005 / seconds(gradient, 3)))
    ratios: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, (work, count) in works.items():
            before = seconds(gradient, calls)
            spent = seconds(work, max(1, calls // count))
            ratios[name].append(spent / count / ((before + seconds(gradient, calls)) / 2))
    return {name: [min(found), statistics.median(found), max(found)] for name, found in ratios.items()}


def seconds(work: Callable[[], Any], calls: int) -> float:
    """CPU time of one call: what else the machine does counts less."""
    began = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - began) / calls


def eigenvalue(given: Case, rounds: int) -> dict[str, Any]:
    """Products, relative error and time in gradients of the top eigenvalue; and what the probe finds by default."""
    # torch takes the eps of RMS norms from the type, and a fresh transformer feels the difference: 4e-5 of its eigenvalue.
    norm = functools.partial(functional.rms_norm, eps=torch.finfo(torch.float32).eps)
    with patch.object(functional, "rms_norm", norm):
        true = given.double().eigenvalue(rg.Sharpness(iterations=200, tolerance=1e-10))
    if true["error"] > 1e-10:
        raise RuntimeError(f"the reference has not converged: {true}")
    found, usual = given.eigenvalue(PROBE), given.eigenvalue(rg.Sharpness())
    return {
        **costs(given.gradient, {"gradients": (lambda: given.eigenvalue(PROBE), 1)}, rounds),
        "products": found["iterations"],
        "error": abs(found[""] / true[""] - 1.0),
        "error by default": abs(usual[""] / true[""] - 1.0),
    }


def main() -> None:
    """Print all of it, and JSON with --json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--workload", nargs="*", default=list(SIZES), choices=SIZES)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found: dict[str, dict[str, Any]] = {}
    for name in args.workload:
        cases = {"fresh": case(name, 0), f"after {STEPS} steps": case(name, STEPS)}
        trained = cases[f"after {STEPS} steps"]
        found[name] = costs(trained.gradient, products(trained), args.rounds)
        found[name] |= {f"top eigenvalue, {state}": eigenvalue(c, args.rounds // 3) for state, c in cases.items()}
        if not args.json:
            show(name, found[name])
    if args.json:
        print(json.dumps(found))


def show(name: str, found: dict[str, Any]) -> None:
    """Print the costs of one workload."""
    print(f"{name}, {SIZES[name][0]} examples, in gradients: median [least, largest]")
    for what, value in found.items():
        least, middle, most = value["gradients"] if isinstance(value, dict) else value
        print(f"  {what:40s} {middle:6.2f} [{least:.2f}, {most:.2f}]", end="")
        if isinstance(value, dict):
            print(f", {value['products']} products, off by {value['error']:.1e}", end="")
            print(f" (by default {value['error by default']:.1e})", end="")
        print()


if __name__ == "__main__":
    main()
