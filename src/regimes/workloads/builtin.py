"""The built-in workloads: data and models of this folder, made into Workloads."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regimes.core.kinds import State
from regimes.core.unit_losses import UnitLosses
from regimes.engine.metrics import Accuracy
from regimes.engine.workload import Workload
from regimes.losses import CrossEntropy, NextToken
from regimes.losses.forward import OutputLoss
from regimes.sources.tensors import Tensors
from regimes.sources.windows import TextWindows
from regimes.workloads import models, synthetic, tables
from regimes.workloads.corpus import load_corpus
from regimes.workloads.quadratic import half_squared_norm
from regimes.workloads.quadratic import quadratic as make_quadratic


def _of_table(table: Any, model: Any, name: str, loss: Any, metrics: dict[str, Any] | None = None) -> Workload:
    splits: dict[str, Any] = {split: tuple(getattr(table, split)) for split in ("train", "val", "test")}
    return Workload(model=model, loss=loss, metrics=metrics, name=name, **splits)


def _mse() -> Any:
    from regimes.losses import MSE

    return MSE()


def digits_mlp(hidden: int | tuple[int, ...] = 64, examples: int = 1197, label_noise: float = 0.0) -> Workload:
    """Return handwritten digits (8x8, ten classes) for a network with hidden layers.

    Parameters
    ----------
    hidden : int or tuple of int
        Width of the hidden layers. Default one of 64.
    examples : int
        Training examples, the first of the split. Default all 1,197.
    label_noise : float
        Share of the training labels that are replaced by another class, the same ones in every run. Default 0.
    """
    widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    model = functools.partial(models.MLP, (64, *widths, 10))
    table = tables.with_label_noise(tables.digits().first(examples), label_noise)
    return _of_table(table, model, "digits_mlp", CrossEntropy(), {"acc": Accuracy()})


def digits_cnn(batch_norm: bool = False) -> Workload:
    """Return handwritten digits for a small convolutional network."""
    model = functools.partial(models.SmallCNN, batch_norm=batch_norm)
    return _of_table(tables.digits(), model, "digits_cnn", CrossEntropy(), {"acc": Accuracy()})


def digits_stream(parts: int = 10, blur: float = 0.3, features: int = 500) -> Workload:
    """Return handwritten digits that come class after class, for a linear head over fixed random features.

    The training data are sources ``part0``, ``part1`` ... of equal size: one phase each by ``Mixture(part0=1)``, or
    one after the other by ``Sequential()``. All classes are judged.

    Parameters
    ----------
    parts : int
        Parts of the stream. Default 10, of 119 examples each.
    blur : float
        Share of the examples of each class that comes at any later time. Default 0.3.
    features : int
        Random ReLU features. Default 500.
    """
    table = tables.digits()
    stream = {f"part{place}": tuple(part) for place, part in enumerate(tables.class_stream(table, parts, blur))}
    return Workload(
        model=functools.partial(models.RandomFeatures, 64, features, 10), train=stream, val=tuple(table.val),
        test=tuple(table.test), loss=CrossEntropy(), metrics={"acc": Accuracy()}, name="digits_stream",
    )  # fmt: skip


def digits_clients(clients: int = 10, alpha: float = 0.05, hidden: int = 64) -> Workload:
    """Return handwritten digits dealt to clients, whose classes differ the more the smaller alpha is.

    The training data are sources ``client0``, ``client1`` ...; all classes are judged.

    Parameters
    ----------
    clients : int
        Default 10.
    alpha : float
        Of the Dirichlet distribution of each class over the clients. Default 0.05: a class or two each; at 100 they are
        alike.
    hidden : int
        Width of the hidden layer. Default 64.
    """
    table = tables.digits()
    dealt = {f"client{place}": tuple(part) for place, part in enumerate(tables.dirichlet(table, clients, alpha))}
    return Workload(
        model=functools.partial(models.MLP, (64, hidden, 10)), train=dealt, val=tuple(table.val), test=tuple(table.test),
        loss=CrossEntropy(), metrics={"acc": Accuracy()}, name="digits_clients",
    )  # fmt: skip


def digits_noprop(blocks: int = 5, width: int = 64, embedding: int | None = None) -> Workload:
    """Return handwritten digits for a stack of denoising blocks, which is judged by what its inference answers.

    Its own loss is the cross-entropy of that answer, which a regime may train by a backward through the whole stack; or,
    with ``loss: NoProp()``, each block by itself.

    Parameters
    ----------
    blocks, width : int
        Blocks, and the width of their hidden layers. Default 5 of 64.
    embedding : int, optional
        Width of a learned embedding of the classes. Default: one-hot, fixed.
    """
    model = functools.partial(models.DenoisingBlocks, 64, 10, blocks, width, embedding)
    return _of_table(tables.digits(), model, "digits_noprop", CrossEntropy(), {"acc": Accuracy()})


def char_lm(
    width: int = 64,
    layers: int = 2,
    heads: int = 2,
    length: int = 64,
    domains: tuple[str, ...] = ("code", "prose"),
    held_out: int = 16_000,
    dropout: float = 0.0,
    noise: float = 0.0,
    qk_norm: bool = False,
) -> Workload:
    """Return a small byte-level GPT on real text that every installation has.

    Parameters
    ----------
    width, layers, heads : int
        Of the GPT.
    length : int
        Bytes per window.
    domains : tuple of str
        Sources by name: ``code`` (Python's standard library), ``prose`` (its language reference), ``docs``
        (docstrings of numpy, scipy, scikit-learn and torch). Held-out files are whole files.
    held_out : int
        Bytes of each domain in val, and in test.
    dropout : float
        Of the blocks.
    noise : float
        Share of the bytes that are drawn anew, the same ones in every run, in a further source to train on, ``noisy``:
        the first domain with errors. Default 0: no such source.
    qk_norm : bool
        Whether queries and keys are normalized; see `regimes.workloads.models.TinyGPT`. Default off.
    """
    corpus = load_corpus(tuple(domains))
    splits: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        limit = None if split == "train" else held_out
        texts = {name: getattr(corpus[name], split)[:limit] for name in domains}
        if noise and split == "train":
            texts["noisy"] = synthetic.with_errors(texts[domains[0]], noise)
        splits[split] = TextWindows.several(texts, length)
    sizes: dict[str, Any] = {"width": width, "layers": layers, "heads": heads, "context": length, "dropout": dropout}
    if qk_norm:  # left out where off: the workload is then what it was before it could be on
        sizes["qk_norm"] = True
    return Workload(model=functools.partial(models.TinyGPT, **sizes), loss=NextToken(), name="char_lm", **splits)


def tabular(name: str = "breast_cancer", hidden: int = 32) -> Workload:
    """Return one of scikit-learn's bundled tables (or ``letter``, ``mnist5k`` where they are installed)."""
    special = {"letter": tables.letter, "mnist5k": tables.mnist5k}
    table = special[name]() if name in special else tables.tabular(name)
    inputs = table.train.x[0].numel()
    if table.train.y.is_floating_point():
        outputs = table.train.y[0].numel()
        return _of_table(table, functools.partial(models.MLP, (inputs, hidden, outputs)), f"tabular {name}", _mse())
    classes = int(table.train.y.max()) + 1
    model = functools.partial(models.MLP, (inputs, hidden, classes))
    return _of_table(table, model, f"tabular {name}", CrossEntropy(), {"acc": Accuracy()})


def teacher_student(
    inputs: int = 16, hidden: int = 8, noise: float = 0.1, student: int = 16, seed: int = 0
) -> Workload:
    """Return regression on a random teacher network's outputs; the best possible loss is the noise's variance."""
    problem = synthetic.teacher_student(inputs=inputs, hidden=hidden, noise=noise, seed=seed)
    return _of_table(problem, functools.partial(models.MLP, (inputs, student, 1)), "teacher_student", _mse())


class HalfSquaredNorm(OutputLoss):
    """Half the squared norm of each example's residual."""

    def per_unit(self, output: Tensor, target: Any) -> UnitLosses:
        """Loss of each example."""
        return UnitLosses(half_squared_norm(output))

    def units(self, state: State, model: nn.Module, batch: Any) -> UnitLosses:
        """The batch is the centers alone: there is no target."""
        return self.per_unit(model(batch[0]), None)


def quadratic(
    spectrum: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03, 0.01),
    noise: float = 1.0,
    examples: int = 1024,
    seed: int = 0,
    double: bool = False,
) -> Workload:
    """Return a quadratic with known curvature and gradient noise; see `regimes.workloads.quadratic`."""
    dtype = torch.float64 if double else torch.float32
    problem = make_quadratic(spectrum, noise=noise, examples=examples, seed=seed, dtype=dtype)
    made = Workload(
        model=problem.model, train=problem.centers, val=problem.centers, loss=HalfSquaredNorm(), name="quadratic"
    )
    made.problem = problem  # type: ignore[attr-defined]
    return made


class NoisyPoints(Tensors):
    """Points of a diffusion, with the noise levels that a plan gives them in its column ``noise_level``."""

    reads = ("pass", "noise_level")

    def fetch(self, indices: np.ndarray, columns: Mapping[str, Any]) -> Any:
        """Return the points, and their noise levels where the plan says them."""
        (points,) = super().fetch(indices, columns)
        if "noise_level" not in columns:
            return (points,)
        return points, torch.as_tensor(columns["noise_level"]).expand(len(points))

    def column(self, name: str) -> Any:
        """``noise_level``: all levels below 1 may be asked for, of every point."""
        return torch.ones(len(self)) if name == "noise_level" else super().column(name)


class NoisePrediction(OutputLoss):
    """Mean squared error of the predicted noise, one unit per example; at a random time where the batch says none."""

    def units(self, state: State, model: nn.Module, batch: Any) -> UnitLosses:
        """Noise every point to its time and let the model predict the noise (Ho et al. 2020, L_simple)."""
        points, *levels = batch
        table = synthetic.alpha_bar(steps=100).to(points)
        # Drawn in any case, so that the noise does not depend on who says the time.
        t = torch.randint(len(table), (len(points),), device=points.device)
        if levels:
            t = (levels[0] * len(table)).long()
        noise = torch.randn_like(points)
        predicted = model(synthetic.add_noise(points, noise, t, table), (t.to(points) + 1.0) / len(table))
        return self.per_unit(predicted, noise)

    def per_unit(self, output: Tensor, target: Tensor) -> UnitLosses:
        """Loss of each example."""
        return UnitLosses((output - target).square().mean(1))


def two_moons_diffusion(n: int = 2000, seed: int = 0) -> Workload:
    """Return denoising diffusion of two interleaving half circles in the plane."""
    train, val, test = (NoisyPoints(synthetic.two_moons(n, seed=seed + offset).x) for offset in range(3))
    return Workload(
        model=models.Denoiser, train=train, val=val, test=test, loss=NoisePrediction(), name="two_moons_diffusion"
    )


def skill_chain(
    skills: int = 5,
    modulus: int = 5,
    length: int = 6,
    examples: int = 4096,
    hidden: tuple[int, ...] = (64, 64),
    seed: int = 0,
) -> Workload:
    """Return questions that take 1, 2, ... additions, a source each; see `regimes.workloads.synthetic`.

    Parameters
    ----------
    skills, modulus, length, seed : int
        As there. The sources are ``skill1``, ``skill2`` ...
    examples : int
        Training examples of each skill.
    hidden : tuple of int
        Width of the hidden layers, which all skills share.
    """
    made = synthetic.skill_chain(skills, modulus, length, examples, seed=seed)
    splits: dict[str, Any] = {
        split: {name: tuple(getattr(table, split)) for name, table in made.items()}
        for split in ("train", "val", "test")
    }
    model = functools.partial(models.MLP, (modulus * length + skills, *hidden, modulus))
    return Workload(model=model, loss=CrossEntropy(), metrics={"acc": Accuracy()}, name="skill_chain", **splits)


def modular_arithmetic(p: int = 97, fraction: float = 0.4, seed: int = 0) -> Workload:
    """Return addition modulo a prime, whose generalization comes long after memorization."""
    table = synthetic.modular_addition(p, fraction, seed)
    model = functools.partial(models.ModularMLP, p)
    return _of_table(table, model, "modular_arithmetic", CrossEntropy(), {"acc": Accuracy()})
