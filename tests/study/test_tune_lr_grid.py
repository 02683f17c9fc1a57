"""The recommended rate against the best of a grid of thirty, which costs ten times as much: five workloads."""

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.study.own import Own
from regimes.study.tasks import Outcome, Task
from regimes.workloads import builtin, synthetic, tables

GRID, SEEDS = 30, range(4)


class Random(nn.Module):
    """A network whose depth, width, nonlinearity and norms are drawn."""

    def __init__(self, inputs, outputs, draw):
        super().__init__()
        width, act = int(draw.choice([16, 32, 64, 96])), draw.choice(["ReLU", "GELU", "Tanh", "SiLU"])
        layers, size = [nn.Flatten()], inputs
        for _ in range(int(draw.integers(1, 5))):
            layers += [
                nn.Linear(size, width),
                *([nn.LayerNorm(width)] if draw.random() < 0.5 else []),
                getattr(nn, act)(),
            ]
            size = width
        self.layers = nn.Sequential(*layers, nn.Linear(size, outputs))

    def forward(self, x):
        return self.layers(x)


def random_case(number):
    """A drawn network on digits a fifth of whose labels are wrong, or on a noisy teacher; a drawn regime."""
    draw = np.random.default_rng(number)
    architecture = int(draw.integers(1 << 30))
    if number % 2:
        problem = synthetic.teacher_student(inputs=16, hidden=8, noise=0.5, seed=number)
        make, loss = functools.partial(Random, 16, 1), rg.MSE()
    else:
        problem = tables.with_label_noise(tables.digits(), 0.2)
        make, loss = functools.partial(Random, 64, 10), rg.CrossEntropy()
    work = rg.Workload(
        model=lambda: make(np.random.default_rng(architecture)),
        train=tuple(problem.train), val=tuple(problem.val), loss=loss,
    )  # fmt: skip
    rule = str(draw.choice(["SGD(lr={}, momentum=0.9)", "AdamW(lr={})", "Lion(lr={})"]))
    shape = str(draw.choice(["Cosine", "Linear", "WSD"]))
    rate = {"S": 0.05, "A": 0.002, "L": 0.0005}[rule[0]] * float(10 ** draw.uniform(-0.7, 0.7))
    lr = f"WSD({rate}, decay='20%', warmup='5%')" if shape == "WSD" else f"{shape}({rate}, warmup='5%')"
    regime = rg.Regime(optimizer=rule.format(lr), batch_size=int(draw.choice([16, 32, 64])), budget="480 steps")
    return work, regime


CASES = {
    "char_lm": lambda: (
        builtin.char_lm(width=32, layers=1, length=32),
        rg.Regime(optimizer="AdamW(lr=Cosine(0.003, warmup='5%'))", batch_size=16, budget="480 steps"),
    ),
    "teacher_student": lambda: (
        builtin.teacher_student(noise=0.5),
        rg.Regime(optimizer="SGD(lr=Cosine(0.03, warmup='5%'), momentum=0.9)", batch_size=32, budget="480 steps"),
    ),
    **{f"random {number}": functools.partial(random_case, number) for number in (1, 2, 3)},
}


def final(own, regimes, folder):
    """Mean final validation loss of each regime over the seeds; infinity where one diverged."""
    tasks = [Task(str(place), regime, seed) for place, regime in enumerate(regimes) for seed in SEEDS]
    found = [[] for _ in regimes]
    for outcome in own.train_all(tasks, folder):
        if isinstance(outcome, Outcome):
            value = math.inf if outcome.failed else outcome.metrics.get("val/loss", math.inf)
            found[int(outcome.task.arm)].append(value)
    return [float(np.mean(values)) for values in found]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_recommended_rate_is_within_three_percent_of_a_grid_of_thirty(name, tmp_path):
    torch.manual_seed(0)
    work, regime = CASES[name]()
    tuned = rg.tune_lr(work, regime, out=tmp_path / "tuned", progress=False)
    low, high = tuned.declared / 100, tuned.declared * 100
    rates = [low * (high / low) ** (place / (GRID - 1)) for place in range(GRID)]
    own = Own(work, {"validate": None, "workload_spec": None, "track": ()})
    losses = final(own, [*(regime.but({"optimizer.lr.peak": rate}) for rate in rates), tuned.regime], tmp_path / "grid")
    best = int(np.argmin(losses[:GRID]))
    print(
        f"\n{name:16s} declared {tuned.declared:.3g}, recommended {tuned.found.rate:.3g}: loss {losses[GRID]:.4f}; best of grid "
        f"{rates[best]:.3g}: loss {losses[best]:.4f}; ratio {losses[GRID] / losses[best]:.3f}; cost {tuned.runs:.1f} of {GRID}"
    )
    assert tuned.runs <= GRID / 10
    assert losses[GRID] <= 1.03 * losses[best]
